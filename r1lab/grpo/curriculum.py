"""Chooses the prompts for the policy: fresh ones for groups without signal, and a curriculum by pass rate."""

import heapq
import random
from collections.abc import Set

from r1lab.recipe.training import Curriculum


class Chooser:
    """Samples rows of the training data; the same on every rank, and after a resume.

    Args:
        tasks: The task of each row; a row without a pass rate gets that of its task.
        seed: The samples depend only on it, the step, the round, and the pass rates so far.
        curriculum: Which rows are set aside, and whether learnable ones come first; None treats all rows alike.

    Attributes:
        seen: For each row used so far, `(step, pass rate)` of the last time.
    """

    def __init__(self, tasks: list[str | None], *, seed: int, curriculum: Curriculum | None = None):
        self.tasks, self.seed, self.curriculum = tasks, seed, curriculum
        self.seen: dict[int, tuple[int, float]] = {}

    def see(self, rates: list[tuple[int, float]], step: int) -> None:
        """Records the pass rates of rows, `(row, rate)`."""
        self.seen.update({row: (step, rate) for row, rate in rates})

    def set_aside(self, row: int, step: int) -> bool:
        """Whether a row was too hard or too easy the last time, and that was recent."""
        if self.curriculum is None or row not in self.seen:
            return False
        tried, rate = self.seen[row]
        low, high = self.curriculum.min_pass_rate, self.curriculum.max_pass_rate
        return not low <= rate <= high and step - tried < self.curriculum.retry_after

    def draw(self, step: int, extra_round: int, count: int, but: Set[int] = frozenset()) -> list[int]:
        """Samples distinct rows for a round of a step, none of `but` while there are others.

        With `learnability`, the weight of a row with pass rate p is p (1 - p), but not less than 0.02
        ("Learning to Reason at the Frontier of Learnability", arXiv:2502.12272).
        """
        rng = random.Random(f"{self.seed}/{step}/{extra_round}")
        rows = range(len(self.tasks))
        left_out = {row for row in self.seen if self.set_aside(row, step)} | but
        keys = [rng.random() for _ in rows]
        if self.curriculum is not None and self.curriculum.learnability:
            rates = self._task_rates()
            for row in rows:
                p = self.seen[row][1] if row in self.seen else rates.get(self.tasks[row], 0.5)
                # Efraimidis and Spirakis: the largest u ** (1 / w) are a sample without replacement by weight w.
                keys[row] **= 1 / max(p * (1 - p), 0.02)
        fresh = [row for row in rows if row not in left_out] if left_out else rows
        chosen = heapq.nlargest(count, fresh, key=keys.__getitem__)
        if len(chosen) < count:  # too few are left: add those set aside longest ago, then any
            taken = set(chosen)
            rest = [row for row in rows if row not in taken]
            rest.sort(key=lambda row: (row in but, self.seen.get(row, (-1,))[0], -keys[row]))
            chosen += rest[: count - len(chosen)]
        while len(chosen) < count:  # fewer rows than groups
            chosen += chosen[: count - len(chosen)]
        return chosen

    def _task_rates(self) -> dict[str | None, float]:
        sums: dict[str | None, list[float]] = {}
        for row, (_, rate) in self.seen.items():
            sums.setdefault(self.tasks[row], []).append(rate)
        return {task: sum(rates) / len(rates) for task, rates in sums.items()}

    def state(self) -> dict:
        """Returns its state for a checkpoint, as JSON."""
        return {"seen": [[row, step, rate] for row, (step, rate) in sorted(self.seen.items())]}

    def load(self, state: dict) -> None:
        """Restores its state from a checkpoint."""
        self.seen = {row: (step, rate) for row, step, rate in state["seen"]}
