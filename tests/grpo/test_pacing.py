"""The staleness bound holds and no prompt is lost, whatever the delays and wherever a training is killed."""

import copy
import random

import pytest

from r1lab.grpo.pacing import Pacing


def made(rng: random.Random) -> Pacing:
    return Pacing(
        groups=rng.randint(1, 5), staleness=rng.randint(0, 4), updates=rng.choice([None, 12]),
        max_dropped=rng.choice([0, 3, 50]),
    )  # fmt: skip


class Training:
    """A training with a source that finishes groups in any order, and with an account of its own.

    The version of each token of a group lies between that of its start and that of its end, as with weights that are
    exchanged in flight.
    """

    def __init__(self, pacing: Pacing, rng: random.Random):
        self.pacing, self.rng = pacing, rng
        self.cursor = 0
        self.trained: list[int] = []
        self.dropped: list[int] = []
        self.running: dict[int, float] = {}
        self.now = 0.0

    def fill(self) -> None:
        while self.pacing.room():
            ticket = self.pacing.start(self.cursor)
            self.cursor += 1
            self.run(ticket)

    def run(self, ticket) -> None:
        self.running[ticket.number] = self.now + self.rng.expovariate(1.0) ** 2

    def finish_until(self, time: float) -> None:
        """Finishes groups whose time has come, and starts others in the place of those that are dropped."""
        while self.running and min(self.running.values()) <= time:
            number = min(self.running, key=lambda n: self.running[n])
            self.now = max(self.now, self.running.pop(number))
            prompt = next(ticket.prompt for ticket in self.pacing.queue if ticket.number == number)
            if not self.pacing.finish(number, f"group {prompt}", keep=self.rng.random() < 0.7):
                self.dropped.append(prompt)
            self.fill()
        self.now = max(self.now, time)

    def update(self) -> None:
        self.fill()
        while not self.pacing.ready():
            self.finish_until(min(self.running.values()))
        version = self.pacing.version
        for ticket in self.pacing.take():
            assert ticket.group == f"group {ticket.prompt}"
            assert 0 <= version - ticket.version <= self.pacing.staleness
            self.trained.append(ticket.prompt)
        self.fill()  # the engine goes on while the update is computed
        self.finish_until(self.now + self.rng.expovariate(1.0))

    def check(self) -> None:
        flying = [ticket.prompt for ticket in self.pacing.queue]
        assert sorted(self.trained + self.dropped + flying) == list(range(self.cursor))
        assert self.trained == sorted(self.trained) and flying == sorted(flying)
        assert all(a < b for a in self.trained[-1:] for b in flying[:1])
        assert len(self.trained) == self.pacing.version * self.pacing.groups


def test_the_bound_holds_and_no_prompt_is_lost_over_random_schedules():
    reached = set()
    for seed in range(300):
        rng = random.Random(seed)
        training = Training(made(rng), rng)
        for _ in range(12):
            before = training.pacing.version
            training.update()
            training.check()
            reached.add(training.pacing.version - before)
        if training.pacing.updates is not None:  # nothing was started that is not trained
            assert not training.pacing.queue and training.pacing.room() == 0
    assert reached == {1}


def test_no_prompt_is_skipped_or_trained_twice_over_random_kills():
    kills = 0
    for seed in range(60):
        rng = random.Random(seed)
        training = Training(made(rng), rng)
        whole = 0
        while training.pacing.version < 12:
            saved = copy.deepcopy((training.pacing.state(), training.trained, training.dropped, training.cursor))
            for _ in range(rng.randint(1, 3)):  # updates that the kill undoes
                if training.pacing.version < 12:
                    training.update()
            if rng.random() < 0.7 and whole < 40:
                kills += 1
                pacing = Pacing(training.pacing.groups, training.pacing.staleness, training.pacing.updates,
                                training.pacing.max_dropped)  # fmt: skip
                state, trained, dropped, cursor = saved
                killed, training = training, Training(pacing, rng)
                training.trained, training.dropped, training.cursor = trained, dropped, cursor
                assert training.cursor == state["started"]  # the place in the data needs no state of its own
                for ticket in pacing.load(state):
                    training.run(ticket)
                if pacing.version + 1 <= killed.pacing.version:
                    training.update()
            whole += 1
            training.check()
    assert kills >= 200


def test_staleness_is_used_up_and_not_exceeded():
    for staleness in range(4):
        pacing = Pacing(groups=3, staleness=staleness)
        for update in range(10):
            while pacing.room():
                pacing.finish(pacing.start(0).number, "done")
            ages = {update - ticket.version for ticket in pacing.take()}
            assert ages == {min(update, staleness)}


def test_without_any_signal_groups_are_kept_in_the_end():
    pacing = Pacing(groups=2, staleness=0, max_dropped=6)
    for _ in range(3):
        kept = []
        while pacing.room():
            kept.append(pacing.finish(pacing.start(0).number, "done", keep=False))
        assert kept == [False] * 6 + [True] * 2
        pacing.take()
    assert pacing.dropped == 18


def test_a_finished_group_waits_for_older_ones():
    pacing = Pacing(groups=1, staleness=1)
    slow, quick = pacing.start(7), pacing.start(8)
    pacing.finish(quick.number, "quick")
    assert not pacing.ready()
    pacing.finish(slow.number, "slow")
    assert [ticket.prompt for ticket in pacing.take()] == [7] and pacing.ready()


def test_more_groups_than_there_is_room_for_are_refused():
    pacing = Pacing(groups=1, staleness=0)
    pacing.start(0)
    with pytest.raises(AssertionError):
        pacing.start(1)
