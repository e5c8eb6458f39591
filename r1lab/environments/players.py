"""Players without a model, for tests and checks: the gold player of an environment, and one that does nothing.

A player is a function from what was said last (the text with which the prompt ends, or the replies to the turn before)
to a turn: a text, or a list of calls.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from r1lab.environments.base import Call, Turn
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
    """

    said: list[str] = field(default_factory=list)
    turns: list[str | list[Call]] = field(default_factory=list)
    reward: float | dict[str, float] | None = None
    info: dict[str, Any] = field(default_factory=dict)
    ended: bool = False


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
