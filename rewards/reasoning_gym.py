"""Whether an answer to a task of Reasoning Gym is correct, by the task's own scorer."""

import importlib.util
import json

from r1lab.errors import UserError
from r1lab.grading import pool
from r1lab.grading.parts import answer_block, final_text
from r1lab.rewards.facts import reward
from r1lab.rewards.score import Score

TASK = "r1lab.rewards.reasoning_gym_task:grade"


@reward(looks_for="answer")
def reasoning_gym_reward(completions, *, answer, metadata, deadline: float = 5.0, **columns) -> list[float | None]:
    """The score of Reasoning Gym's own `score_answer` for an answer, by the dataset that the row comes from.

    Reasoning Gym (arXiv:2505.24760, section 2) has over a hundred procedural datasets, each with its scorer. Some give
    partial credit to an answer that is almost correct or that contains the correct one, and a few accept an answer
    that names several. The scored text is the last `<answer>` block, or else all text after the thinking.

    Some of its scorers pass the answer to Python's `eval`. They run with a deadline in worker processes that may not
    write files, start programs or open connections. This prevents accidents and is not a sandbox.

    Args:
        completions: Responses, with a prefilled `<think>` restored.
        answer: For each row the dataset's own answer.
        metadata: For each row the metadata of the dataset's entry, as a dict or as JSON, with its `source_dataset`;
            None if the reward does not apply.
        deadline: Seconds of CPU time for one answer.

    Returns:
        `Score`s from 0 to 1 with the reasons correct, partial, wrong, no_answer, timeout and unscorable (the scorer
            fails on this answer).

    Raises:
        UserError: reasoning-gym is not installed.
        ValueError: A row names no dataset of Reasoning Gym, or the scorer fails on its own answer.

    >>> reasoning_gym_reward(["<think> 2 pairs. </think><answer> 4 </answer>"], answer=["4"], metadata=[None])
    [None]
    """
    if not deadline > 0:
        raise UserError(f"rewards: reasoning_gym: deadline: {deadline} is not a number of seconds above 0")
    scores: list[float | None] = [None] * len(completions)
    items = {}
    for i, (turn, gold, entry) in enumerate(zip(completions, answer, metadata, strict=True)):
        if entry is not None:
            scores[i] = Score(0.0, "no_answer")
            final = final_text(turn) or ""
            block = answer_block(final)
            if given := (final if block is None else block).strip():
                items[i] = (given, gold, json.loads(entry) if isinstance(entry, str) else entry)
    if not items:
        return scores
    if importlib.util.find_spec("reasoning_gym") is None:
        raise UserError("rewards: reasoning_gym: reasoning-gym is not installed: pip install reasoning-gym")
    for i, outcome in zip(items, pool.shared(TASK).map(list(items.values()), deadline=deadline)):
        scores[i] = _score(outcome)
    return scores


def _score(outcome: pool.Outcome) -> Score:
    if outcome.status == "error":
        raise ValueError(f"metadata: {outcome.value}")
    if outcome.status != "ok":
        return Score(0.0, "timeout" if outcome.status == "timeout" else "unscorable")
    if outcome.value is None:
        return Score(0.0, "unscorable")
    value = min(1.0, max(0.0, outcome.value))
    return Score(value, "correct" if value == 1 else "partial" if value > 0 else "wrong")
