"""Calling functions: ages and friends that stand in no prompt, and tools that look them up."""

import random
import re

from r1lab.environments import Call, ToolError, Turn


class Desk:
    """Questions about the ages and friends of people, which only the tools know. A right last turn earns 1.

    Each seed gives everybody another age, from 10 to 99, and another friend, so that nothing can be memorized.

    Args:
        closed: Whether every call is refused, as a control: what a model then still gets right is chance.
    """

    def __init__(self, *, closed: bool = False):
        self.closed = closed
        if closed:
            vars(self)["solve"] = None  # nobody can

    def reset(self, *, seed: int, people: list[str], start: list[str], hops: int, **columns) -> None:
        rng = random.Random(f"desk/{seed}")
        self._ages = {person: rng.randint(10, 99) for person in people}
        self._friends = {person: rng.choice([other for other in people if other != person]) for person in people}
        self._right = 0
        for person in start:
            for _ in range(hops):
                person = self._friends[person]
            self._right += self._ages[person]
        self.info = {}

    def age(self, person: str) -> int:
        """
        Looks up the age of a person.

        Args:
            person: The name of the person.
        """
        return self._ages[self._known(person)]

    def friend(self, person: str) -> str:
        """
        Looks up the friend of a person.

        Args:
            person: The name of the person.
        """
        return self._friends[self._known(person)]

    def add(self, a: int, b: int) -> int:
        """
        Adds two numbers.

        Args:
            a: The first number.
            b: The second number.
        """
        self._check_open()
        return int(a) + int(b)

    def _check_open(self) -> None:
        if self.closed:
            raise ToolError("the desk is closed")

    def _known(self, person: str) -> str:
        self._check_open()
        if person not in self._ages:
            raise ToolError(f"nobody here is called {person}")
        return person

    def get_reward(self, turn: Turn) -> float:
        numbers = [] if turn.calls else re.findall(r"-?\d+", turn.answer)
        right = numbers[-1:] == [str(self._right)]
        self.info = {"reason": "right" if right else f"{numbers[-1] if numbers else 'nothing'}, not {self._right}"}
        return float(right)

    @staticmethod
    def solve(row: dict):
        """Follows the friends, looks up the ages, and adds them."""
        total = None
        for person in row["start"]:
            for _ in range(row["hops"]):
                person = yield Call("friend", {"person": person})
            age = int((yield Call("age", {"person": person})))
            total = age if total is None else int((yield Call("add", {"a": total, "b": age})))
        yield f"<answer> {total} </answer>"
