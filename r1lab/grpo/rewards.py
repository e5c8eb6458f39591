"""Rewards for TRL's trainer, which save every completion with its scores and reasons."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from accelerate.utils import gather_object

from r1lab import ranks
from r1lab.episodes.record import Episode
from r1lab.grading.grader import Graded, Grader, is_own, merged
from r1lab.rundir import storage


class BatchRewards:
    """The grader's rewards as functions for TRL, which calls them in order on each batch.

    The first one grades the batch and writes it to `samples/`; the others return their part of the result. Rows are
    found through the dataset's `row` column. A group may be graded before its batch is complete, in a thread:
    `started`, `finished`.

    Args:
        size: The completions of a group, which are next to each other in a batch.

    Attributes:
        functions: One function per reward.
        statistics: For each reward the share of None and its reasons in the newest batch, over all ranks.
        failed: For each reward the completions on which it failed since the start, over all ranks.
        newest: The newest batch of this rank, graded.
        alone: Whether this rank grades without the others, as in asynchronous training.
        any_thread: Whether groups may be graded early. A user's reward may need the main thread, like math-verify with
            its signal-based timeouts.
    """

    def __init__(self, grader: Grader, rows: list[dict], run_dir: Path, rank: int = 0, *, size: int):
        self.grader, self.rows, self.run_dir, self.rank, self.size = grader, rows, run_dir, rank, size
        self.statistics: dict = {}
        self.failed: Counter = Counter()
        self.newest: Graded | None = None
        self.alone = False
        self.functions = [self._grade] + [self._hand_out(name) for name in grader.names[1:]]
        self.functions = [_named(f, name) for f, name in zip(self.functions, grader.names)]
        self.any_thread = all(map(is_own, grader.functions))
        self._step, self._rounds = -1, []
        self._early: dict[int, Future] = {}
        self._waiting: dict[int, dict[int, list[int] | Episode]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grader")

    def started(self, row_numbers: list[int], decode) -> None:
        """Prepares for a batch that is being generated: its rows, and the decoding function."""
        self._batch, self._decode = row_numbers, decode
        self._early, self._waiting = {}, {}

    def finished(self, i: int, made: list[int] | Episode) -> Future | None:
        """Takes completion `i` of the batch; once its group is complete, the group is graded in the background.

        Args:
            made: Its tokens, or an episode.

        Returns:
            The verdicts on the group, if it is complete.
        """
        group = self._waiting.setdefault(i // self.size, {})
        group[i] = made if isinstance(made, Episode) else list(made)
        if len(group) < self.size:
            return None
        ranks.beat(self.run_dir)
        self._early[i // self.size] = self._thread.submit(self._grade_group, sorted(group.items()))
        return self._early[i // self.size]

    def _grade_group(self, group: list[tuple[int, list[int] | Episode]]) -> Graded:
        rows = [self.rows[self._batch[i]] for i, _ in group]
        groups = [0] * len(group)
        played = [made for _, made in group if isinstance(made, Episode)]
        if played:
            texts, ids = [episode.text for episode in played], [episode.completion_ids for episode in played]
            return self.grader.grade(texts, rows, completion_ids=ids, episodes=played, groups=groups)
        ids = [made for _, made in group if not isinstance(made, Episode)]
        return self.grader.grade(self._decode(ids), rows, completion_ids=ids, groups=groups)

    def _grade(self, prompts, completions, completion_ids, row, trainer_state, episode=None, log_metric=None, **_):
        batch = [self.rows[i] for i in row]
        if episode is not None:
            completions = [one.text for one in episode]
        early, self._early = [self._early[group].result() for group in sorted(self._early)], {}
        result = merged(early) if early else None
        if result is None or result.completions != [self.grader.prefill + text for text in completions]:
            groups = [i // self.size for i in range(len(batch))]
            result = self.grader.grade(completions, batch, completion_ids, episode, groups)
        self.newest = result
        ranks.beat(self.run_dir)
        step = trainer_state.global_step + 1
        suffix = f".rank{self.rank}" if self.rank else ""
        path = self.run_dir / "samples" / f"step_{step:06d}{suffix}.jsonl"
        if step != self._step:
            self._step, self._rounds = step, []
        self._rounds.append((result, batch))
        storage.write_jsonl(
            path, [record for graded, some in self._rounds for record in graded.records(some, step=step)]
        )
        result.stop_if_failed(batch, path)
        statistics = merged([graded for graded, _ in self._rounds]).statistics()
        own = [(statistics, self.grader.failed)]
        both = own if self.alone else gather_object(own)
        self.statistics.update(merged_statistics([one for one, _ in both]))
        self.failed = sum((failed for _, failed in both), Counter())
        if log_metric is not None:
            log_figures(result.figures, log_metric)
        return result.values[self.grader.names[0]]

    def _hand_out(self, name: str):
        def values(prompts, **_) -> list[float | None]:
            assert self.newest is not None  # TRL calls `_grade` first
            return self.newest.values[name]

        return values


def log_figures(figures: dict[str, list[dict[str, float]]], log_metric: Callable[[str, float], None]) -> None:
    """Logs what rewards say of completions besides their values, for a mean over all ranks.

    >>> log_figures({"majority": [{"votes": 0.5}]}, print)
    rewards/majority/votes 0.5
    """
    for name, of_all in figures.items():
        for of_one in of_all:
            for figure, value in of_one.items():
                log_metric(f"rewards/{name}/{figure}", value)


def _named(function, name: str):
    def named(prompts, **columns):
        return function(prompts, **columns)

    named.__name__ = name
    return named


def merged_statistics(of_ranks: list[dict]) -> dict:
    """Merges the share of None and the reasons of each reward over all ranks, whose batches have the same size.

    >>> of_ranks = [{"a": {"none": 0.5, "reasons": {"wrong": 1}}}, {"a": {"none": 0.0, "reasons": {"wrong": 2}}}]
    >>> merged_statistics(of_ranks)
    {'a': {'none': 0.25, 'reasons': {'wrong': 3}}}
    """
    return {
        name: {
            "none": sum(rank[name]["none"] for rank in of_ranks) / len(of_ranks),
            "reasons": dict(sum((Counter(rank[name]["reasons"]) for rank in of_ranks), Counter()).most_common()),
        }
        for name in of_ranks[0]
    }
