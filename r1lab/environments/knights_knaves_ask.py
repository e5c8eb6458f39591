"""Knights and Knaves with questions: the statements leave several worlds, and the people can be asked."""

import random
import re

from r1lab.environments import Call, ToolError, Turn


class KnightsKnavesAsk:
    """A puzzle whose statements fit several worlds; a right answer earns 1, and questions beyond the needed ones cost.

    The people are asked one at a time whether another one is a knight. Knights tell the truth and knaves lie, as in
    their statements. The seed decides in which of the worlds the people are.

    Args:
        price: What each question costs beyond those that the best strategy needs at most; a reward is at least 0.
    """

    def __init__(self, *, price: float = 0.2):
        self._price = price

    def reset(self, *, seed: int, names: list[str], worlds: list[list[bool]], needed: int, **columns) -> None:
        world = random.Random(f"knights_knaves_ask/{seed}").choice(worlds)
        self._knights, self._needed, self._asked = dict(zip(names, world)), needed, 0
        self.info = {}

    def ask(self, person: str, about: str) -> str:
        """
        Asks a person whether somebody is a knight.

        Args:
            person: The name of the person who is asked.
            about: The name of the person whom the question is about.
        """
        for name in (person, about):
            if name not in self._knights:
                raise ToolError(f"nobody here is called {name}")
        self._asked += 1
        says = self._knights[about] if self._knights[person] else not self._knights[about]
        return f"{person} says that {about} is a {'knight' if says else 'knave'}."

    def get_reward(self, turn: Turn) -> float:
        wrong = [name for name, knight in self._knights.items() if _kinds(turn, name) != {knight}]
        asked = f"{self._asked} asked, {self._needed} needed"
        self.info = {"reason": f"wrong about {', '.join(wrong)}; {asked}" if wrong else f"right; {asked}"}
        return 0.0 if wrong else max(0.0, 1 - self._price * max(0, self._asked - self._needed))

    @staticmethod
    def solve(row: dict):
        """Asks the question whose answers leave the fewest worlds, until one world is left."""
        names, worlds = row["names"], [tuple(world) for world in row["worlds"]]
        while len(worlds) > 1:
            person, about = best_question(worlds)
            said = yield Call("ask", {"person": names[person], "about": names[about]})
            knight = said.endswith("is a knight.")
            worlds = [world for world in worlds if (world[person] == world[about]) == knight]
        kinds = ("knight" if knight else "knave" for knight in worlds[0])
        yield "\n".join(f"({i}) {name} is a {kind}" for i, (name, kind) in enumerate(zip(names, kinds), 1))


def _kinds(turn: Turn, name: str) -> set[bool]:
    """The kinds that a last turn says a person is of."""
    said = "" if turn.calls else turn.answer
    return {kind == "knight" for kind in re.findall(rf"\b{re.escape(name)} is an? (knight|knave)\b", said)}


def needed(worlds: list[tuple[bool, ...]]) -> int | None:
    """The number of questions that the best strategy needs at most to distinguish worlds; None if none can.

    A person says that somebody is a knight if and only if both are of the same kind, so that a world and its opposite
    cannot be distinguished.

    >>> needed([(True, True), (True, False)]), needed([(True, False), (False, True)])
    (1, None)
    """
    return _best(frozenset(worlds))[0]


def best_question(worlds: list[tuple[bool, ...]]) -> tuple[int, int]:
    """The question, as person and whom it is about, with which the best strategy begins."""
    question = _best(frozenset(worlds))[1]
    assert question is not None, "no question distinguishes these worlds"
    return question


def _best(worlds: frozenset[tuple[bool, ...]]) -> tuple[int | None, tuple[int, int] | None]:
    """The number of questions of the best strategy, and the first of them."""
    if len(worlds) == 1:
        return 0, None
    people = range(len(next(iter(worlds))))
    found: tuple[int | None, tuple[int, int] | None] = (None, None)
    for question in ((person, about) for person in people for about in people if person < about):
        same = frozenset(world for world in worlds if world[question[0]] == world[question[1]])
        if not 0 < len(same) < len(worlds):
            continue
        first, second = _best(same)[0], _best(worlds - same)[0]
        if first is not None and second is not None and (found[0] is None or 1 + max(first, second) < found[0]):
            found = 1 + max(first, second), question
    return found
