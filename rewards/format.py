"""Whether a completion thinks and then answers, each in its tags."""

import re
from typing import Literal

from r1lab.errors import UserError
from r1lab.rewards.facts import reward
from r1lab.rewards.score import Score

TAGS = ("<think>", "</think>", "<answer>", "</answer>")

# Words that the prompts themselves show between the tags ("reasoning process here", "answer here"), and words with
# which models have filled them without saying anything ("this is a think message").
_FILLER = frozenset(
    "a an the this that is are it of i me my in and here now think thinks thinking thought thoughts reason reasoning "
    "process placeholder message content text answer tag tags".split()
)


def blocks(text: str, *, mode: str = "strict") -> tuple[str, str] | str:
    """The thinking and the answer of a response, or the reason why it does not have both.

    Each tag must occur once, in order, around something other than the template's own placeholder. `strict` allows
    only white space before, between and after the blocks; `soft` allows text there.

    >>> blocks("<think> Luke lies. </think> <answer> Luke: knave </answer>")
    ('Luke lies.', 'Luke: knave')
    >>> blocks("<think> Luke lies. </think> Luke: knave")
    'no_format: no <answer>'
    """
    for tag in TAGS:
        if text.count(tag) != 1:
            return f"no_format: {'more than one' if tag in text else 'no'} {tag}"
    places = [text.index(tag) for tag in TAGS]
    if places != sorted(places):
        return "no_format: tags out of order"
    before, thinking, between, answer, after = re.split("|".join(TAGS), text)
    if mode == "strict":
        for where, outside in (
            ("before <think>", before),
            ("between the blocks", between),
            ("after </answer>", after),
        ):
            if outside.strip():
                return f"no_format: text {where}"
    if not substance(thinking):
        return "empty_thinking"
    if not substance(answer):
        return "empty_answer"
    return thinking.strip(), answer.strip()


def substance(text: str) -> set[str]:
    """The words and numbers of a text, in lower case, without those that only fill a block.

    >>> substance("... reasoning process here ...")
    set()
    """
    return set(re.findall(r"\w+", text.lower().replace("_", " "))) - _FILLER


@reward(looks_for="form")
def format_reward(
    completions,
    *,
    mode: Literal["strict", "soft"] = "strict",
    scope: Literal["last", "every_turn"] = "last",
    **columns,
) -> list[float]:
    """1 for a response that thinks and then answers, each once and in its tags, else 0.

    This is R1-Zero's format reward (DeepSeek-R1, arXiv:2501.12948, section 2.2). The thinking must have more than
    punctuation and the words of the prompt's own placeholder.

    A prompt may end with `<think>`, as Logic-RL's and the chat template of the R1 distillations do; the model then
    never generates that tag. Completions arrive here as whole responses: the grader first restores the prefilled tag,
    so such a response is not penalized for it, and one that opens a second `<think>` is. Call this function on raw
    completions only if nothing is prefilled.

    Args:
        completions: Responses.
        mode: `"strict"`: only the two blocks and white space. `"soft"`: text is allowed around and between them.
        scope: Of an episode with several turns, whether only the last one has to be so, or also every other one, which
            thinks in its tags and then may call a tool instead of answering.

    >>> format_reward(["<think> 2 and 2 make 4. </think><answer> 4 </answer>", "<think></think><answer>4</answer>"])
    [1.0, 0.0]
    >>> format_reward(["<think> 2 and 2 make 4. </think> So: <answer> 4 </answer>"], mode="soft")
    [1.0]
    """
    if mode not in ("strict", "soft"):
        raise UserError(f"rewards: format: mode: {mode!r} is not strict or soft")
    if scope not in ("last", "every_turn"):
        raise UserError(f"rewards: format: scope: {scope!r} is not last or every_turn")
    if scope == "every_turn" and "turns" not in columns:
        raise UserError("rewards: format: scope: every_turn needs episodes: add `environment:` or `tools:`")
    scores = []
    for i, text in enumerate(completions):
        found = blocks(text, mode=mode)
        earlier = columns["turns"][i][:-1] if scope == "every_turn" else []
        wrong = next((reason for turn in earlier if (reason := unthought(turn))), "")
        if isinstance(found, str) or wrong:
            scores.append(Score(0.0, wrong or str(found)))
        else:
            scores.append(Score(1.0, "well_formed"))
    return scores


def unthought(turn: str) -> str:
    """Why a turn that does not answer yet does not think first, in its tags, or nothing.

    >>> unthought("<think> I look it up. </think> <tool_call>{}</tool_call>"), unthought("<tool_call>{}</tool_call>")
    ('', 'no_format: no <think>')
    """
    for tag in TAGS[:2]:
        if turn.count(tag) != 1:
            return f"no_format: {'more than one' if tag in turn else 'no'} {tag}"
    before, _, rest = turn.partition(TAGS[0])
    thinking, found, _ = rest.partition(TAGS[1])
    if not found:
        return "no_format: tags out of order"
    if before.strip():
        return "no_format: text before <think>"
    return "" if substance(thinking) else "empty_thinking"
