"""The form in which a prompt asks for an answer, and what an answer is worth in another.

The same completions have been published with very different figures because one evaluator wanted a box and the other
took whatever stood last. An evaluation therefore gives both: strict, right and in the form asked for, and lenient,
right wherever it was said.
"""

from r1lab.grading.answers import answer_block, committed, final_text
from r1lab.models import prompts
from r1lab.rewards.facts import facts_of
from r1lab.rewards.format import blocks

MARKS = ("answer_tag", "boxed", "hashes", "phrase")
"""How an answer may be marked where the prompt names no form: bold text and a bare last line are guesses."""


def tagged(template: str) -> bool:
    """Whether a prompt asks for `<think>` and `<answer>`: its template does, or the words of the recipe's own."""
    words = prompts.PLAIN.get(template) or prompts.SYSTEM.get(template) or template
    return "<think>" in words and "<answer>" in words


def looks_for_answer(reward: str) -> bool:
    """Whether a reward looks for one answer in a turn, so that it matters where. A program or a request does not."""
    known = facts_of(reward)
    return known is not None and known.looks_for == "answer"


def votes(reward: str) -> bool:
    """Whether turns that this reward grades have an answer to vote with in maj@n, as those of a user's own may."""
    return looks_for_answer(reward) or ("." in reward and facts_of(reward) is None)


def well_formed(turn: str, *, template: str, reward: str) -> bool:
    r"""Whether a turn answers in the form that its prompt asks for.

    Args:
        turn: The assistant's turn, with a prefilled `<think>` put back.
        template: The prompt's: a name in `r1lab.models.prompts.TEMPLATES`, or words of the recipe's own.
        reward: The reward that says whether the turn is right.

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
    """A turn as if nothing of it were thinking: what was said last counts, wherever it stands.

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
    """The rewards of a recipe that look for an answer, each as lenient as it can be; for turns that are loosened.

    >>> lenient([{"name": "knights_knaves", "mode": "logic_rl"}, {"name": "format"}])
    [{'name': 'knights_knaves', 'mode': 'lenient'}]
    """
    known = [(reward, facts_of(reward["name"])) for reward in rewards]
    return [reward | facts.lenient for reward, facts in known if facts and facts.looks_for == "answer"]
