"""Whether a completion thinks and then answers, each in its tags."""

import re

from r1lab.rewards.score import Score

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_WHOLE = re.compile(r"\s*<think>(.*)</think>\s*<answer>(.*)</answer>\s*", re.DOTALL)
_INSIDE = re.compile(r"<think>(.*)</think>.*<answer>(.*)</answer>", re.DOTALL)
_PLACEHOLDER = re.compile(r"\W*(the )?(reasoning|thinking) process( here)?\W*|\W*answer( here)?\W*", re.IGNORECASE)


def blocks(text: str, *, mode: str = "strict") -> tuple[str, str] | str:
    """The thinking and the answer of an assistant turn, or the reason why it has not both.

    Each tag must be there once, in order, around words that are not the template's own placeholder. `strict` allows
    nothing but white space before, between and after the blocks; `soft` allows text there.
    """
    for tag in TAGS:
        if text.count(tag) != 1:
            return f"no {tag}" if tag not in text else f"more than one {tag}"
    found = _WHOLE.fullmatch(text) if mode == "strict" else _INSIDE.search(text)
    if not found:
        in_order = _INSIDE.search(text)
        return "text outside the tags" if in_order else "tags out of order"
    thinking, answer = found[1].strip(), found[2].strip()
    if not re.search(r"\w", thinking) or _PLACEHOLDER.fullmatch(thinking):
        return "empty thinking"
    if not re.search(r"\w", answer) or _PLACEHOLDER.fullmatch(answer):
        return "empty answer"
    return thinking, answer


def format_reward(completions, *, mode: str = "strict", **columns) -> list[float]:
    """1 for a turn that thinks and then answers, each once and in its tags, else 0.

    R1-Zero's format reward (DeepSeek-R1, arXiv:2501.12948, section 2.2). A `<think>` that the prompt prefilled counts:
    completions come here as the whole assistant turn.

    Args:
        completions: Assistant turns.
        mode: `"strict"`: nothing but the two blocks. `"soft"`: text around and between them is let pass.

    >>> format_reward(["<think> 2 and 2 make 4. </think><answer> 4 </answer>", "<think></think><answer>4</answer>"])
    [1.0, 0.0]
    """
    if mode not in ("strict", "soft"):
        raise ValueError(f"format_reward: mode: {mode!r} is not strict or soft")
    scores = []
    for text in completions:
        found = blocks(text, mode=mode)
        scores.append(Score(0.0, found) if isinstance(found, str) else Score(1.0, "well-formed"))
    return scores
