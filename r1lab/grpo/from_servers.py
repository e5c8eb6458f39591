"""Groups of asynchronous training from rollout servers, which generate while the trainer trains."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import TYPE_CHECKING, Any, cast

from r1lab import ranks
from r1lab.engines import EpisodeEngine, seed_of
from r1lab.episodes.background import Background
from r1lab.episodes.engine import task_seed
from r1lab.episodes.play import Job
from r1lab.episodes.record import Episode
from r1lab.grpo import dynamic_sampling, episodes, objectives, parity
from r1lab.grpo.asynchronous import without_figures
from r1lab.grpo.dynamic_sampling import Group
from r1lab.grpo.pacing import Ticket

if TYPE_CHECKING:
    from r1lab.engines.fleet import Sampled
    from r1lab.engines.served import FleetStream, ServedVLLM
    from r1lab.grpo.trainer import GRPOTrainer


class FromServers:
    """A source of `r1lab.grpo.asynchronous.Groups`.

    The servers get new weights before the first group of an update is started, or for an evaluation before it.
    Completions in progress are interrupted for it and continue with the new weights, so that a completion may have
    tokens from several versions; or, without `in_flight`, they are all finished before.

    Whether the servers sample from the policy is seen from the tokens of its own weights in groups that are finished
    before the update, or, if no completion is in flight after a sync, from a few tokens that are sampled for it.

    Completions are graded in the trainer's thread, when it waits for groups. A group that is finished but not graded
    when a checkpoint is written is generated again by the run that resumes from it.

    Args:
        trainer: A trainer whose completions come from servers.
        in_flight: Whether completions in progress are interrupted.

    Of several ranks, rank 0 alone starts and grades groups.
    """

    concurrent = True
    fresh: Group | None = None

    def __init__(self, trainer: GRPOTrainer, *, in_flight: bool):
        self.trainer = trainer
        self._running: dict[Future[Any], Ticket] = {}  # of the completions, or the episodes, of a group
        self._background: Background | None = None  # plays episodes
        self._of_sync: dict[int, int] = {}  # the updates in the weights of each sync
        self._idle_since: float | None = None
        self._served.after_sync = self._synced
        if trainer.rewards is not None:
            trainer.rewards.alone = True
        if not in_flight:
            self._served.before_sync = self._drain

    @property
    def _served(self) -> ServedVLLM:
        return cast("ServedVLLM", self.trainer.vllm_generation)

    def sync(self) -> None:
        """See `Source`."""
        self._log_idle()
        trainer = self.trainer
        with trainer.engine():  # which syncs if the weights have changed
            self._synced(self._served.version)
        # A probe would wait behind completions in flight.
        if objectives.stale(trainer) and ranks.from_main(lambda: all(future.done() for future in self._running)):
            parity.probe(trainer, trainer.train_dataset[0]["prompt"])

    def start(self, tickets: list[Ticket]) -> None:
        """See `Source`."""
        self._log_idle()
        trainer, settings = self.trainer, self._served.settings()
        if trainer.setting is not None:
            self._play(tickets)
            return
        texts = [trainer.train_dataset[ticket.prompt]["prompt"] for ticket in tickets]
        ids, *_ = trainer._tokenize_prompts(texts)
        for ticket, prompt in zip(tickets, ids, strict=True):
            seed = seed_of(trainer.args.seed, ticket.number)
            self._started(ticket, self._served.fleet.submit(prompt, trainer.num_generations, settings, seed))

    def _started(self, ticket: Ticket, future: Future) -> None:
        future.add_done_callback(self._note_idle)
        self._running[future] = ticket

    def _play(self, tickets: list[Ticket]) -> None:
        """Starts groups of episodes; those in flight continue with the limits and the temperature of these."""
        trainer, engine, sampling = self.trainer, self._served.engine(), episodes.sampling_of(self.trainer)
        setting, rewards = trainer.setting, trainer.rewards
        assert setting is not None and rewards is not None and isinstance(engine, EpisodeEngine)
        if self._background is None:
            self._background = Background(setting.player(engine, sampling))
        self._background.player.limits = setting.limits_with(engine, sampling)
        cast("FleetStream", self._background.player.turns).sampling = sampling
        for ticket in tickets:
            row, seed = trainer.train_dataset[ticket.prompt]["row"], seed_of(trainer.args.seed, ticket.number)
            task = task_seed(trainer.args.seed, row, ticket.number)
            jobs = [Job(rewards.rows[row], task, seed_of(seed, i)) for i in range(trainer.num_generations)]
            self._started(ticket, self._background.submit(jobs))

    def _note_idle(self, _: Future) -> None:
        if all(future.done() for future in list(self._running)):
            self._idle_since = time.perf_counter()

    def _log_idle(self) -> None:
        if self._idle_since is not None and all(future.done() for future in self._running):
            self.trainer.log_spent("servers_waiting", time.perf_counter() - self._idle_since)
        self._idle_since = None

    def _drain(self) -> None:
        wait(self._running)

    def _synced(self, version: int) -> None:
        """Notes a sync; weights in the middle of several updates on a rollout count as those after all of them."""
        groups = self.trainer.groups
        self._of_sync[version] = groups.pacing.version if groups is not None else 0

    def finished(self) -> list[tuple[int, Group]]:
        """See `Source`.

        Raises:
            UserError: No server is left.
        """
        wait(self._running, return_when=FIRST_COMPLETED)
        done = sorted((future for future in self._running if future.done()), key=lambda one: self._running[one].number)
        tickets = [self._running.pop(future) for future in done]
        made = [future.result() for future in done]
        groups = self._graded(tickets, made) if self._background is None else self._graded_episodes(tickets, made)
        present = self.trainer.groups.pacing.version if self.trainer.groups is not None else 0
        of_own = (group for group in groups if any(present in versions for versions in group.versions or ()))
        self.fresh = self.fresh or next(of_own, None)
        return [(ticket.number, group) for ticket, group in zip(tickets, groups, strict=True)]

    def _graded(self, tickets: Sequence[Ticket], sampled: Sequence[list[Sampled]]) -> list[Group]:
        trainer, size = self.trainer, self.trainer.num_generations
        rows = [trainer.train_dataset[ticket.prompt] for ticket in tickets for _ in range(size)]
        ids, *_ = trainer._tokenize_prompts([row["prompt"] for row in rows])
        every = [one for group in sampled for one in group]
        completions = [one.token_ids for one in every]
        texts = trainer.processing_class.batch_decode(completions, skip_special_tokens=True)
        logprobs = [one.logprobs for one in every]
        with without_figures(trainer):
            groups = dynamic_sampling.graded(trainer, rows, ids, completions, texts, logprobs)
        for group, one_group in zip(groups, sampled, strict=True):
            group.versions = [[self._of_sync[version] for version in one.versions] for one in one_group]
        return groups

    def _graded_episodes(self, tickets: Sequence[Ticket], played: Sequence[list[Episode]]) -> list[Group]:
        trainer = self.trainer
        rows = [
            trainer.train_dataset[ticket.prompt] | {"episode": episode}
            for ticket, group in zip(tickets, played, strict=True)
            for episode in group
        ]
        every = [episode for group in played for episode in group]
        made = episodes.as_completions(every, episodes.pad_of(trainer), mask_cut=trainer.masks_cut)
        prompts, ids, logprobs, masks = made.values()
        texts = trainer.processing_class.batch_decode(ids, skip_special_tokens=True)
        with without_figures(trainer):
            groups = dynamic_sampling.graded(trainer, rows, prompts, ids, texts, logprobs, masks)
        for group, of_group in zip(groups, played, strict=True):
            versions = [episode.versions or [None] for episode in of_group]  # without a turn it has a masked token
            group.versions = [[None if v is None else self._of_sync[v] for v in one] for one in versions]
        return groups
