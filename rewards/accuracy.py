"""Whether the final answer to a math problem is correct."""

from r1lab.errors import UserError
from r1lab.grading import pool
from r1lab.rewards.facts import reward
from r1lab.rewards.score import Score, Scores

TASK = "r1lab.grading.maths:grade"


@reward(looks_for="answer")
def accuracy_reward(completions, *, answer, deadline: float = 5.0, **columns) -> list[float | None]:
    r"""1 if the last answer that a response commits to equals the gold answer, else 0. Compared by math-verify.

    What counts is the last answer after the thinking, marked by `<answer>`, `\boxed{}`, "the answer is", `#### 7` or
    bold, or a bare last line; an answer inside `<think>` does not count. Units, percentages, thousands separators,
    mixed fractions, tuples, intervals, sets, matrices and equations are understood; words are compared as words, and a
    choice letter as a letter. A decimal equals a fraction if it has at least six correct decimals.

    Grading runs in worker processes and has a deadline: an answer that exceeds it ends its worker, never the run.
    Towers of powers and similar expressions are rejected without evaluating them.

    Args:
        completions: Responses, with a prefilled `<think>` restored.
        answer: For each row the gold answer, plain or LaTeX; None if the reward does not apply.
        deadline: Seconds of CPU time for one answer; the load of the machine does not matter.

    Returns:
        `Score`s with the reasons correct, wrong, no_answer, unparsed and timeout. None, with the reason gold_unparsed,
            where the gold answer cannot be parsed: such a row gives no signal, and is reported when a run starts.

    >>> accuracy_reward([r"<think> 3 + 4 </think> It is \boxed{7}."] * 2, answer=["7", "8"])
    [1.0, 0.0]
    """
    if not deadline > 0:
        raise UserError(f"rewards: accuracy: deadline: {deadline} is not a number of seconds above 0")
    graded = [(text, str(gold)) for text, gold in zip(completions, answer, strict=True) if gold is not None]
    outcomes = iter(pool.shared(TASK).map(graded, deadline=deadline))
    scores = [None if gold is None else _score(next(outcomes)) for gold in answer]
    return Scores(scores, ["" if gold is None else "gold_unparsed" for gold in answer])


def _score(outcome: pool.Outcome) -> Score | None:
    if outcome.status == "ok":
        value, reason = outcome.value
        return None if value is None else Score(value, reason)
    if outcome.status == "timeout":
        return Score(0.0, "timeout")
    return Score(0.0, f"unparsed: {outcome.value or outcome.status}")
