"""The majority of a group's answers as the reference: test-time reinforcement learning (TTRL, arXiv:2504.16084)."""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from r1lab.errors import UserError
from r1lab.grading.parts import final_text
from r1lab.rewards.accuracy import accuracy_reward
from r1lab.rewards.choice import choice_reward, chosen
from r1lab.rewards.exact_match import exact_match_reward, given_answer
from r1lab.rewards.facts import reward
from r1lab.rewards.knights_knaves import claimed_in, knights_knaves_reward
from r1lab.rewards.score import Score


@dataclass(frozen=True)
class _Ballot:
    """The votes of a group.

    Attributes:
        voters: For each answer the completions that give it, literally; in the order of the first ones.
        agreeing: For each answer that can be compared those that equal it, itself included.
    """

    voters: dict[str, list[int]]
    agreeing: dict[str, list[str]]

    def count(self, answer: str) -> int:
        return sum(len(self.voters[other]) for other in self.agreeing[answer])

    def winner(self) -> str | None:
        """The answer with the most votes; of several, the one that was given first."""
        return max(self.agreeing, key=self.count, default=None)


@reward(looks_for="answer", compares=True)
def majority_reward(
    completions,
    *,
    groups,
    same_as: Literal["accuracy", "choice", "exact_match", "knights_knaves"] = "accuracy",
    deadline: float = 5.0,
    answer: list | None = None,
    choices: list | None = None,
    **columns,
) -> list[float]:
    """1 if the answer of a response is the one that most responses of its group give, else 0; no gold is used.

    The vote of TTRL (arXiv:2504.16084): each response votes for its answer, and the answer with the most votes is the
    reference for the whole group. Two answers are the same if the reward `same_as` gives 1 to a response with the one
    where the other is the gold answer. Of answers with equally many votes, the one that was given first in the group
    wins. A response without an answer has no vote and scores 0.

    A group that always gives the same answer scores 1, right or wrong: the vote only makes the model surer of what it
    already says most often. If the rows have gold answers, they are not rewarded, and only show in the metrics how
    often the vote is right.

    Args:
        completions: Responses, with a prefilled `<think>` restored.
        groups: For each completion the number of its group.
        same_as: The reward that compares answers: `accuracy` for math, `choice` for letters, `exact_match` for texts,
            `knights_knaves` for puzzles, whose responses must be well-formed.
        deadline: Seconds of CPU time for one comparison by `accuracy`.
        answer: A column of the data, if it exists: for each row the gold answer, or None.
        choices: A column of the data for `choice`, if it exists: for each row the texts of the options.

    Returns:
        `Score`s with the reason `majority: ANSWER`, `minority: ANSWER`, no_answer, or `unparsed: ANSWER` for an answer
            that cannot be compared. Their figures are `votes`, the share of the group that gives the winning answer,
            and `majority_right`, 1 if that answer equals the gold answer.

    >>> turns = ["It is 7.", r"So \\boxed{7}", "It is 8.", "<think> 8, or 7?"]
    >>> scores = majority_reward(turns, groups=[0] * 4, answer=["8"] * 4)
    >>> scores, scores[0].figures
    ([1.0, 1.0, 0.0, 0.0], {'votes': 0.5, 'majority_right': 0.0})
    """
    if same_as not in _READ:
        raise UserError(f"rewards: majority: same_as: {same_as!r} is not {', '.join(_READ)}")
    for name, column in (("answer", answer), ("choices", choices)):
        if column is not None and len(column) != len(completions):
            raise UserError(f"rewards: majority: {name}: is a column of the data, not a setting")
    options = choices or [None] * len(completions)
    answers = [_READ[same_as](turn, options[i] or []) for i, turn in enumerate(completions)]

    def equal(pairs: list[tuple[str, object, int]]) -> list[float | None]:
        """The value of `same_as` for pairs of a response and a gold answer, for the row of a completion."""
        turns, golds = [turn for turn, _, _ in pairs], [gold for _, gold, _ in pairs]
        if same_as == "accuracy":
            return accuracy_reward([final_text(turn) or "" for turn in turns], answer=golds, deadline=deadline)
        if same_as == "choice":
            return choice_reward(turns, answer=golds, choices=[options[i] or [] for _, _, i in pairs])
        return (exact_match_reward if same_as == "exact_match" else knights_knaves_reward)(turns, answer=golds)

    ballots = _ballots(completions, groups, answers, equal)
    winners = {group: ballot.winner() for group, ballot in ballots.items()}
    judged = [
        (group, (completions[ballots[group].voters[winner][0]] if winner else "", answer[i], i))
        for group, winner in winners.items()
        for i in [groups.index(group)]
        if answer is not None and answer[i] is not None
    ]
    right = {group: verdict for (group, _), verdict in zip(judged, equal([pair for _, pair in judged]), strict=True)}
    sizes, scores = Counter(groups), []
    for group, given in zip(groups, answers, strict=True):
        ballot, winner = ballots[group], winners[group]
        figures = {"votes": ballot.count(winner) / sizes[group] if winner else 0.0}
        if (verdict := right.get(group)) is not None:
            figures["majority_right"] = float(verdict >= 1)
        if given is None:
            score = Score(0.0, "no_answer", figures)
        else:
            agrees = winner is not None and given in ballot.agreeing[winner]
            reason = "majority" if agrees else "minority" if given in ballot.agreeing else "unparsed"
            score = Score(float(agrees), f"{reason}: {' '.join(given.split())[:60]}", figures)
        scores.append(score)
    return scores


def _ballots(completions, groups, answers: list[str | None], equal: Callable) -> dict[int, _Ballot]:
    """The votes of each group. All comparisons are made in one call, so that they run in parallel."""
    voters: dict[int, dict[str, list[int]]] = defaultdict(dict)
    for i, (group, answer) in enumerate(zip(groups, answers, strict=True)):
        votes = voters[group]
        if answer is not None:
            votes.setdefault(answer, []).append(i)
    wanted = [  # the empty response shows whether an answer can be compared at all
        (group, answer, other, ("" if other == answer else completions[votes[other][0]], answer, votes[answer][0]))
        for group, votes in voters.items()
        for answer in votes
        for other in votes
    ]
    agreeing: dict[int, dict[str, list[str]]] = {group: {} for group in voters}
    unreadable = set()
    for (group, answer, other, _), value in zip(wanted, equal([pair for *_, pair in wanted]), strict=True):
        same = agreeing[group].setdefault(answer, [])
        if value is None:
            unreadable.add((group, answer))
        if other == answer or (value or 0) >= 1:
            same.append(other)
    for group, answer in unreadable:
        del agreeing[group][answer]
    return {group: _Ballot(voters[group], agreeing[group]) for group in voters}


def _number(turn: str, choices: list[str]) -> str | None:
    from r1lab.grading.answers import readings  # its patterns take long to compile, and `r1lab show` needs none

    return next(reversed(readings(turn)), None)


def _letter(turn: str, choices: list[str]) -> str | None:
    named = chosen(turn, choices)
    return named if len(named) == 1 else None


def _text(turn: str, choices: list[str]) -> str | None:
    return given_answer(turn).strip() or None


def _people(turn: str, choices: list[str]) -> str | None:
    claimed = claimed_in(turn)
    if isinstance(claimed, str):
        return None
    return "\n".join(f"({i}) {name} is a {kind}" for i, (name, kind) in enumerate(sorted(claimed.items()), 1))


_READ = {"accuracy": _number, "choice": _letter, "exact_match": _text, "knights_knaves": _people}
