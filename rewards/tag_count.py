"""How many of the four tags occur once and in their place: partial credit for the format."""

from r1lab.errors import UserError
from r1lab.rewards.facts import reward
from r1lab.rewards.format import TAGS, substance
from r1lab.rewards.score import Score

_WITH_NEWLINES = ("<think>\n", "\n</think>\n", "\n<answer>\n", "\n</answer>")


@reward(looks_for="form")
def tag_count_reward(completions, *, newlines: bool = False, **columns) -> list[float]:
    """A quarter for each of the four tags that occurs exactly once, in order and around something.

    This is Open-R1's `tag_count_reward` without two loopholes: a tag before one that it should follow does not count,
    nor does the closing tag of a block that has nothing but punctuation or the prompt's own placeholder.

    Args:
        completions: Responses, with a prefilled `<think>` restored.
        newlines: Whether a tag counts only on a line of its own, as in Open-R1.

    Returns:
        `Score`s of 0, 0.25, 0.5, 0.75 or 1, with the reason `all_tags` or the tags that do not count.

    >>> tag_count_reward(["<think> Two. </think><answer> 2 </answer>", "Two. </think> 2", "<think></think>"])
    [1.0, 0.25, 0.25]
    """
    if not isinstance(newlines, bool):
        raise UserError(f"rewards: tag_count: newlines: {newlines!r} is not true or false")
    scores = []
    for text in completions:
        missing = [tag for tag in TAGS if tag not in _counted(text, newlines)]
        scores.append(Score(1 - 0.25 * len(missing), f"missing: {' '.join(missing)}" if missing else "all_tags"))
    return scores


def _counted(text: str, newlines: bool) -> set[str]:
    places = {tag: text.index(tag) for tag in TAGS if text.count(tag) == 1}
    counted, latest = set(), -1
    for tag, with_newlines in zip(TAGS, _WITH_NEWLINES):
        if tag not in places or places[tag] < latest:
            continue
        latest = places[tag]
        opened = places.get(tag.replace("/", ""), latest)
        empty = opened < latest and not substance(text[opened + len(tag) - 1 : latest])
        if not empty and (not newlines or with_newlines in text):
            counted.add(tag)
    return counted
