"""Whether the thinking proceeds step by step, judged by how its steps are introduced."""

import re

from r1lab.errors import UserError
from r1lab.grading.parts import thinking
from r1lab.rewards.facts import reward
from r1lab.rewards.format import substance
from r1lab.rewards.score import Score

_STEP = re.compile(r"\bStep \d+:|^[ \t]*(?:\d+\.(?!\d)|[-*][ \t])|\b(?:First|Second|Next|Finally),", re.MULTILINE)


@reward(looks_for="manner")
def reasoning_steps_reward(completions, *, steps: int = 3, **columns) -> list[float]:
    """The number of steps that the thinking shows, as a share of `steps`, at most 1.

    It uses the patterns of Open-R1's `reasoning_steps_reward`: "Step 1:", "1." or a bullet at the start of a line, and
    "First,", "Second,", "Next,", "Finally,". Unlike there, only the thinking counts, and a step counts only if it says
    something (two words or numbers of its own) that no other step says: repeating the words does not pay.

    Args:
        completions: Responses, with a prefilled `<think>` restored; one without tags is thinking as a whole.
        steps: The number of steps that scores 1.

    Returns:
        `Score`s from 0 to 1, with the reason `steps: N`.

    >>> turn = "<think> First, 2 and 2 make 4. Next, 4 and 4 make 8. Finally, that makes 8. </think> 8"
    >>> reasoning_steps_reward([turn, "<think> First, First, First, </think> 8"])
    [1.0, 0.0]
    """
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise UserError(f"rewards: reasoning_steps: steps: {steps!r} is not a whole number of at least 1")
    scores = []
    for text in completions:
        distinct = {frozenset(substance(step)) for step in _STEP.split(thinking(text))[1:]}
        count = sum(len(words) > 1 for words in distinct)
        scores.append(Score(min(1.0, count / steps), f"steps: {count}"))
    return scores
