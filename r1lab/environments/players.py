"""Players without a model, for tests and checks: the gold player of an environment, and others that do not solve it.

A player is a function from what was said last (the text with which the prompt ends, or the replies to the turn before)
to a turn: a text, or a list of calls.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from r1lab.environments.base import Call, Reply, Turn
from r1lab.environments.host import Event, Host
from r1lab.environments.make import make
from r1lab.environments.toolset import Session

Player = Callable[[str], "str | list[Call]"]


@dataclass
class Game:
    """An episode that was played without a model.

    Attributes:
        said: What the environment said: at the start, and after each turn.
        turns: What the player said.
        reward: What the environment says the episode is worth; None if it says nothing.
        info: What the environment says of the episode.
        ended: Whether the episode ended before the maximum number of turns.
        failed: The request to a host that failed, `reset`, `step` or `end`, or nothing.
        problem: Why it failed.
        late: Whether it failed because it exceeded its deadline.
    """

    said: list[str] = field(default_factory=list)
    turns: list[str | list[Call]] = field(default_factory=list)
    reward: float | dict[str, float] | None = None
    info: dict[str, Any] = field(default_factory=dict)
    ended: bool = False
    failed: str = ""
    problem: str = ""
    late: bool = False


def gold(environment: Any, row: dict) -> Player | None:
    """The player of an environment's own `solve(row)`; None if it has none.

    `solve` is a generator: it yields a text, a call or a list of calls, and receives what was said to it.
    """
    if not callable(getattr(environment, "solve", None)):
        return None
    turns = environment.solve(row)
    begun = False

    def player(said: str) -> str | list[Call]:
        nonlocal begun
        try:
            turn = turns.send(said if begun else None)
        except StopIteration:
            return ""
        begun = True
        return [turn] if isinstance(turn, Call) else turn

    return player


def nothing(said: str) -> str:
    """A player that says nothing."""
    return ""


def at_random(schemas: Sequence[dict], row: dict, seed: int) -> Player:
    """A player that knows no rules: it calls tools with, and answers, random words of what was said to it.

    Args:
        schemas: The tools, as of `r1lab.environments.toolset.schema`.
    """
    rng, words = random.Random(seed), re.findall(r"\w+", str(row.get("prompt")))

    def value(schema: dict) -> Any:
        kind = schema.get("type")
        if "enum" in schema:
            return rng.choice(schema["enum"])
        if kind in ("integer", "number"):
            return rng.randint(0, 99)
        if kind in ("boolean", "array", "object"):
            return {"boolean": rng.random() < 0.5, "array": [], "object": {}}[kind]
        return rng.choice(words or ["x"])

    def player(said: str) -> str | list[Call]:
        words.extend(re.findall(r"\w+", said)[:1000])
        if not schemas or rng.random() < 0.4:
            return f"<answer> {rng.choice(words or ['x'])} </answer>"
        function = rng.choice(schemas)["function"]
        given = function.get("parameters", {}).get("properties", {})
        return [Call(function["name"], {name: value(about) for name, about in given.items()})]

    return player


class Solving(Session):
    """A session whose turns are those of the environment's own `solve`, whatever turns it gets.

    The gold player is a user's code too, so that it runs where the environment does, under the same deadlines.
    """

    def reset(self, row: dict, seed: int) -> str | None:
        """See `Session`."""
        said = super().reset(row, seed)
        self.said, self.player, self.solved = said or "", gold(self.environment, row), []
        return said

    def step(self, turn: Turn) -> list[Reply]:
        """See `Session`."""
        assert self.player is not None  # only for environments with `solve`
        found = self.player(self.said)
        text, calls = (found, []) if isinstance(found, str) else ("", found)
        self.solved.append({"text": text, "calls": [asdict(call) for call in calls]})
        replies = super().step(Turn(text, calls, turn.number))
        self.said = "\n".join(reply.content for reply in replies)
        return replies

    def info(self) -> dict[str, Any]:
        """See `Session`; also the turns, as `solved`."""
        return super().info() | {"solved": self.solved}


def solving(spec: dict[str, Any]) -> Solving:
    """As `r1lab.environments.make.make`, for the gold player."""
    session = make(spec)
    return Solving(session.environment, session.added)


def hosted(
    host: Host, jobs: Sequence[tuple[dict, int, Player]], *, turns: int = 6, together: bool = False
) -> list[Game]:
    """Plays episodes on a host, one after another or all at the same time.

    Args:
        jobs: Of each episode the row, the seed and the player.
        turns: The maximum number of turns.
    """
    games = [Game() for _ in jobs]

    def go_on(key: int, event: Event) -> bool:
        """Handles an event; returns whether the episode goes on."""
        game = games[key]
        if event.kind == "end":
            game.reward, game.info = event.reward, event.info
            return False
        if event.kind == "failed":
            game.failed, game.problem, game.late = event.during, str(event.text), event.timeout
            if event.during != "end":
                host.end(key)
            return event.during != "end"
        if event.kind == "reset":
            game.said.append(event.text or "")
        else:
            game.ended = not event.replies or any(reply.done for reply in event.replies)
            game.said += ["\n".join(reply.content for reply in event.replies)] if event.replies else []
        if game.ended or len(game.turns) == turns:
            host.end(key)
            return True
        turn = jobs[key][2](game.said[-1])
        game.turns.append(turn)
        text, calls = (turn, []) if isinstance(turn, str) else ("", turn)
        host.step(key, Turn(text, calls, len(game.turns)))
        return True

    for wave in [range(len(jobs))] if together else [[key] for key in range(len(jobs))]:
        for key in wave:
            host.reset(key, *jobs[key][:2])
        left = len(wave)
        while left:
            left -= sum(not go_on(event.key, event) for event in host.events(wait=True))
    return games


def played(session: Session, row: dict, seed: int, player: Player, *, turns: int = 6) -> Game:
    """Plays an episode.

    Args:
        turns: The maximum number of turns.
    """
    game = Game(said=[session.reset(row, seed) or ""])
    try:
        for number in range(1, turns + 1):
            turn = player(game.said[-1])
            game.turns.append(turn)
            text, calls = (turn, []) if isinstance(turn, str) else ("", turn)
            replies = session.step(Turn(text, calls, number))
            game.ended = not replies or any(reply.done for reply in replies)
            if replies:
                game.said.append("\n".join(reply.content for reply in replies))
            if game.ended:
                break
        game.reward, game.info = session.reward(), session.info()
    finally:
        session.close()
    return game
