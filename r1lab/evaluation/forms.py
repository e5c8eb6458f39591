"""The format that a prompt requires of an answer, and how answers in other formats are scored.

The same completions have been published with very different scores because one evaluator required a box and another
accepted the last expression. An evaluation therefore reports both: strict, correct and in the required format, and
lenient, correct in any format.
"""

from r1lab.grading.answers import committed
from r1lab.grading.parts import answer_block, final_text
from r1lab.models import prompts
from r1lab.rewards.facts import facts_of
from r1lab.rewards.format import blocks

MARKS = ("answer_tag", "boxed", "hashes", "phrase")
"""How an answer may be marked if the prompt requires no format: bold text and a bare last line are guesses."""


def tagged(template: str) -> bool:
    """Whether a prompt requires `<think>` and `<answer>`. `template` is a name, or the recipe's own text."""
    text = prompts.PLAIN.get(template) or prompts.SYSTEM.get(template) or template
    return "<think>" in text and "<answer>" in text


def looks_for_answer(reward: str) -> bool:
    """Whether a reward looks for one answer in a response, so that its format matters, unlike that of a program."""
    known = facts_of(reward)
    return known is not None and known.looks_for == "answer"


def votes(reward: str) -> bool:
    """Whether responses that this reward grades have an answer that votes in maj@n, as for a user's own reward."""
    return looks_for_answer(reward) or ("." in reward and facts_of(reward) is None)


def well_formed(turn: str, *, template: str, reward: str) -> bool:
    r"""Whether a response is in the format that its prompt requires.

    Args:
        turn: The assistant's turn, including a prefilled `<think>`.
        template: The prompt's template: a name in `r1lab.models.prompts.TEMPLATES`, or the recipe's own text.
        reward: The reward that decides whether the response is correct.

    >>> well_formed("<think> 3 + 4 </think> <answer> 7 </answer>", template="r1-zero", reward="accuracy")
    True
    >>> well_formed("It is 7.", template="chat", reward="accuracy")
    False
    >>> well_formed(r"It is \boxed{7}.", template="chat", reward="accuracy")
    True
    """
    if tagged(template):
        return not isinstance(blocks(turn), str)
    known = facts_of(reward)
    if known and known.in_tags:
        return answer_block(turn) is not None
    if looks_for_answer(reward):
        found = committed(turn)
        return found is not None and found[1] in MARKS
    return bool((final_text(turn) or "").strip())


def loosened(turn: str, *, reward: str) -> str:
    """A response without the distinction of thinking and answer: the last answer counts, wherever it is.

    >>> loosened("<think> So the answer is 7.", reward="accuracy")
    ' So the answer is 7.\\n<answer>7</answer>'
    """
    text = turn.replace("<think>", "").replace("</think>", "")
    known = facts_of(reward)
    if (known and known.in_lines) or answer_block(text):
        return text
    found = committed(text)
    return f"{text}\n<answer>{found[0]}</answer>" if found else text


def lenient(rewards: list[dict]) -> list[dict]:
    """The rewards of a recipe that look for an answer, with their most lenient settings, for loosened responses.

    >>> lenient([{"name": "knights_knaves", "mode": "logic_rl"}, {"name": "format"}])
    [{'name': 'knights_knaves', 'mode': 'lenient'}]
    """
    known = [(reward, facts_of(reward["name"])) for reward in rewards]
    return [reward | facts.lenient for reward, facts in known if facts and facts.looks_for == "answer"]
