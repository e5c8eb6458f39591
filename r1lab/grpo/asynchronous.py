"""Asynchronous GRPO: groups are started before the update that they are trained in, and wait in a queue.

`Groups` keeps the queue of `r1lab.grpo.pacing` filled from a `Source`, and hands out the groups of each update. One
source is rollout servers, which generate while the trainer trains (`r1lab.grpo.from_servers`). The other is
`InProcess`: the engine that shares the process, and the time, with the trainer. It saves no time. It is there to study
staleness: what servers do at random, it does exactly. Before the
update with weights of version v, groups are generated with these weights until the queue is full, so that from update
`staleness` on, each update trains on groups from weights exactly `staleness` updates old, on any machine and also
after a resume. With `staleness: 0` it generates the same batches at the same times as the synchronous trainer, so that
losses and weights are the same bit for bit.

Prompts come in the order in which TRL's sampler gives them, or from the curriculum, which sees the pass rates of all
groups that are finished. Dynamic sampling drops a group without signal as soon as it is finished, and starts the next
prompt in its place, up to `max_rounds` times the groups of an update; the synchronous trainer draws a random prompt
instead.

Several ranks need servers. Rank 0 alone schedules, asks the servers and grades. The others take part in each sync of
the weights, and get the groups of each update, of which each rank trains on its share, as in synchronous training.

Rewards are computed when a group is finished, and advantages when it is trained on. `samples/` has a completion under
the step before which it was generated. The metrics of a step are those of the groups that it trains on.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import torch
from accelerate.utils import broadcast_object_list
from trl.trainer.utils import RepeatSampler, pad

from r1lab import ranks
from r1lab.errors import UserError
from r1lab.grpo import dynamic_sampling, parity
from r1lab.grpo.dynamic_sampling import Group
from r1lab.grpo.pacing import Pacing, Ticket
from r1lab.grpo.rewards import log_figures
from r1lab.recipe.sections import Asynchronous

if TYPE_CHECKING:
    from r1lab.grpo.trainer import GRPOTrainer


class Source(Protocol):
    """What generates and grades groups.

    Attributes:
        concurrent: Whether it generates while the trainer trains. If not, the queue is filled before each update.
        fresh: A group of which the present weights have sampled tokens, to compare their log-probabilities; None if
            there is none, or if the source compares them.
    """

    concurrent: bool
    fresh: Group | None

    def sync(self) -> None:
        """Gets the present weights if it has others. All ranks call it, before rank 0 starts groups."""
        ...

    def start(self, tickets: list[Ticket]) -> None:
        """Starts the groups of some prompts, in this order, with the weights that it has."""
        ...

    def finished(self) -> list[tuple[int, Group]]:
        """Waits until at least one group is finished; returns the number of its ticket and the group, of all such."""
        ...


class InProcess:
    """The trainer's own engine: vLLM in process, or transformers.

    Args:
        count: The maximum number of groups that are generated together, those of an update, for which the memory of
            the engine is planned.
        scored: Whether groups need the log-probabilities of the policy that sampled.
    """

    concurrent, fresh = False, None

    def __init__(self, trainer: GRPOTrainer, count: int, *, scored: bool):
        self.trainer, self.count, self.scored = trainer, count, scored
        self._started: list[Ticket] = []

    def sync(self) -> None:
        """See `Source`: the engine gets the weights when it generates."""

    def start(self, tickets: list[Ticket]) -> None:
        """See `Source`; `finished` generates them."""
        self._started += tickets

    def finished(self) -> list[tuple[int, Group]]:
        """See `Source`: at most `count`."""
        trainer = self.trainer
        tickets, self._started = self._started[: self.count], self._started[self.count :]
        rows = [trainer.train_dataset[ticket.prompt] for ticket in tickets for _ in range(trainer.num_generations)]
        with without_figures(trainer):
            groups = dynamic_sampling.generate(trainer, rows)
        if self.scored:
            _score(trainer, groups)
        for ticket, group in zip(tickets, groups, strict=True):
            masks = group.masks or [[1] * len(ids) for ids in group.completion_ids]
            group.versions = [[ticket.version if own else None for own in mask] for mask in masks]
        return [(ticket.number, group) for ticket, group in zip(tickets, groups)]


class Groups:
    """The groups of a trainer's updates, generated ahead.

    Args:
        trainer: The trainer, with a chooser if it has a curriculum or dynamic sampling.
        settings: A recipe's section `rollout.async`.
        source: What generates; the trainer's own engine if None.

    Attributes:
        pacing: The groups in flight, on rank 0.
        newest: This rank's groups of the newest update.
        repeats: Whether `next` returns the groups of the newest update once more, for updates on them that are left.

    Raises:
        UserError: Several ranks would each generate with their own engine.
    """

    def __init__(self, trainer: GRPOTrainer, settings: Asynchronous, source: Source | None = None):
        dynamic, rows = trainer.dynamic_sampling, trainer.args.generation_batch_size
        assert rows is not None  # TRL's config sets it
        count = rows // trainer.num_generations
        if source is None and trainer.accelerator.num_processes > 1:
            raise UserError("rollout.async: without servers it is for one rank: set launch.rollout: server")
        self.trainer, self.settings, self.repeats = trainer, settings, False
        self.source = source or InProcess(trainer, count, scored=settings.staleness > 0)
        dropped = dynamic.max_rounds * count if dynamic else 0
        self.pacing = Pacing(count, settings.staleness, max_dropped=dropped)
        self.newest: list[Group] = []
        self._order = data_order(trainer, count)
        self._used: set[int] = set()  # prompts that were drawn for the present version
        self._draws = 0
        self._again: list[Ticket] = []  # those of a checkpoint that have to be started again
        self._taken: list[Ticket] = []  # those of the newest update

    def next(self) -> list[Group]:
        """Returns this rank's groups of the next update. All ranks call it at the same place of their step."""
        trainer, accelerator = self.trainer, self.trainer.accelerator
        optimizer_steps = trainer.state.max_steps * trainer.args.gradient_accumulation_steps
        self.pacing.updates = -(-optimizer_steps // trainer.rollout_micro_steps)
        if ranks.from_main(lambda: not self.repeats and bool(self._again or self.pacing.room())):
            self.source.sync()
        ranks.from_main(self._take)  # before the broadcast, because a collective has a timeout
        taken = [([ticket.group for ticket in self._taken], self.pacing.version - 1, self.source.fresh)]
        groups, version, fresh = broadcast_object_list(taken)[0]
        self.source.fresh = None
        if fresh is not None and self.settings.staleness:  # on all ranks, because the model may be sharded over them
            log_drift(trainer, fresh, torch.tensor([v == version for row in fresh.versions or () for v in row]))
        sampled = [v for group in groups for versions in group.versions or () for v in versions if v is not None]
        ages = [version - v for v in sampled]
        metrics = trainer._metrics["train"]
        metrics["async/staleness"].append(sum(ages) / max(1, len(ages)))
        metrics["async/staleness_max"].append(max(ages, default=0))
        share = len(groups) // accelerator.num_processes
        self.newest = groups[accelerator.process_index * share :][:share]
        for group in self.newest:
            log_figures(group.of_rewards or {}, trainer._log_metric)
        return self.newest

    def _take(self) -> None:
        """Waits for the groups of the next update, and starts further ones meanwhile."""
        if self.repeats:
            self.repeats = False
            return
        trainer, pacing, began = self.trainer, self.pacing, time.perf_counter()
        seen: list[tuple[bool, Group]] = []
        while True:
            room, again, self._again = pacing.room(), self._again, []
            if room or again:
                self.source.start([*again, *(pacing.start(prompt) for prompt in self._prompts(room))])
            if pacing.ready() and (self.source.concurrent or not any(pacing.unfinished())):
                break
            seen += [(self._finish(number, group), group) for number, group in self.source.finished()]
        trainer.log_spent("waiting", time.perf_counter() - began)
        if trainer.dynamic_sampling is not None and seen:
            _log_sampled(trainer, seen)
        self._taken = pacing.take()
        self._used, self._draws = set(), 0

    def _prompts(self, count: int) -> list[int]:
        """Returns the prompts of the next `count` groups."""
        chosen, pacing = self.trainer.chooser, self.pacing
        if chosen is None or chosen.curriculum is None:
            return [self._order(pacing.started + i) for i in range(count)]
        flying = {ticket.prompt for ticket in pacing.queue}
        drawn = chosen.draw(pacing.version, self._draws, count, but=flying | self._used)
        self._draws += 1
        self._used |= set(drawn)
        return drawn

    def _finish(self, number: int, group: Group) -> bool:
        trainer = self.trainer
        if trainer.chooser is not None and group.right is not None:
            rate = sum(group.right) / len(group.right)
            trainer.chooser.see([(group.inputs["row"], rate)], self.pacing.version)
        dynamic = trainer.dynamic_sampling
        weights = trainer.reward_weights.tolist()
        keep = dynamic is None or dynamic_sampling.has_signal(group, dynamic.metric, weights)
        return self.pacing.finish(number, group, keep=keep)

    def state(self) -> dict:
        """Returns its state for a checkpoint, of plain values: finished groups are in it, others are started again.

        If more updates on the newest groups follow, these are in it too: another number of ranks needs them.
        """
        state = self.pacing.state()
        taken = [] if self.trainer.rollout_is_due() else [vars(ticket).copy() for ticket in self._taken]
        for ticket in state["queue"] + taken:
            if ticket["group"] is not None:
                ticket["group"] = {k: v for k, v in vars(ticket["group"]).items() if k != "inputs"}
        rewards = self.trainer.rewards
        state |= {"draws": self._draws, "used": sorted(self._used), "taken": taken}
        return state | {"rewards": rewards.statistics if rewards is not None else {}}

    def load(self, state: dict) -> None:
        """Restores the state of a checkpoint; the groups that were not finished are started again by `next`."""
        state = dict(state)
        self._draws, self._used = state.pop("draws"), set(state.pop("used"))
        statistics = state.pop("rewards")
        if self.trainer.rewards is not None:  # for a step before which no group is graded
            self.trainer.rewards.statistics.update(statistics)
        self._taken = [Ticket(**ticket) for ticket in state.pop("taken")]
        self._again = self.pacing.load(state)
        for ticket in self.pacing.queue + self._taken:
            if ticket.group is not None:
                ticket.group = Group(inputs=self.trainer.train_dataset[ticket.prompt], **ticket.group)


def data_order(trainer: GRPOTrainer, count: int) -> Callable[[int], int]:
    """Returns the function from the number of a group to its row in the data, over all epochs, as TRL's sampler.

    The sampler shuffles each epoch with a generator of its own, and leaves out what does not fill a batch of `count`.
    """
    data, args = trainer.train_dataset, trainer.args
    sampler = RepeatSampler(data, 1, batch_size=count, shuffle=bool(trainer.shuffle_dataset), seed=args.seed)
    epochs: list[list[int]] = []

    def row(number: int) -> int:
        epoch, place = divmod(number, len(data) // count * count)
        while len(epochs) <= epoch:
            epochs.append(list(sampler))
        return epochs[epoch][place]

    return row


@contextmanager
def without_figures(trainer: GRPOTrainer):
    """A context in which TRL's metrics are not recorded: they are computed when the groups are trained on."""
    metrics, tokens = trainer._metrics["train"], trainer.state.num_input_tokens_seen
    pending = trainer._pending_metrics
    trainer._metrics["train"], trainer._pending_metrics = defaultdict(list), defaultdict(list)
    try:
        yield
    finally:
        trainer._metrics["train"], trainer.state.num_input_tokens_seen = metrics, tokens
        trainer._pending_metrics = pending


def _score(trainer: GRPOTrainer, groups: Sequence[Group]) -> None:
    """Adds the log-probabilities of transformers, which returns none; of vLLM's, compares those of one group.

    The trainer still has the weights that have sampled, so the difference is that of the engine's numerics alone.
    Later the policy differs by design.
    """
    if groups[0].logprobs is None:
        for group in groups:
            group.logprobs = policy_logprobs(trainer, group)
        return
    log_drift(trainer, groups[0], torch.ones(sum(map(len, groups[0].completion_ids))))


def log_drift(trainer: GRPOTrainer, group: Group, own: torch.Tensor) -> None:
    """Logs how much the engine's log-probabilities of a group differ from the policy's.

    Args:
        own: The tokens, one completion after another, that the present weights of the policy have sampled.
    """
    ours = torch.tensor([x for row in policy_logprobs(trainer, group) for x in row])
    theirs = torch.tensor([float("nan") if x is None else x for row in group.logprobs or () for x in row])
    parity.record(trainer, parity.gaps(ours, theirs, own))


@torch.no_grad()
def policy_logprobs(trainer: GRPOTrainer, group: Group) -> list[list[float]]:
    """Returns the log-probability of each token of each completion of a group under the present policy."""
    device, rows = trainer.accelerator.device, [torch.tensor(ids) for ids in group.completion_ids]
    prompt = torch.tensor(group.prompt_ids).expand(len(rows), -1)
    masks = [torch.ones_like(row) for row in rows]
    ids = torch.cat([prompt, pad(rows, padding_value=0)], dim=1).to(device)
    mask = torch.cat([torch.ones_like(prompt), pad(masks, padding_value=0)], dim=1).to(device)
    size = trainer.args.per_device_train_batch_size
    found, *_ = trainer._get_per_token_logps_and_entropies(
        trainer.model, ids, mask, max(map(len, rows)), batch_size=size
    )
    return [values[: len(row)] for values, row in zip(found.tolist(), rows)]


def _log_sampled(trainer: GRPOTrainer, seen: Iterable[tuple[bool, Group]]) -> None:
    """Logs the groups that were finished before this step, under the names of synchronous dynamic sampling."""
    metrics, weights, seen = trainer._metrics["train"], trainer.reward_weights.tolist(), list(seen)
    totals = [sum(w * v for w, v in zip(weights, values) if v == v) for _, group in seen for values in group.rewards]
    metrics["sampled/groups"].append(len(seen))
    metrics["sampled/signal"].append(sum(kept for kept, _ in seen) / len(seen))
    metrics["sampled/reward"].append(sum(totals) / len(totals))
