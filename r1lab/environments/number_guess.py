"""Guessing a number: a secret within bounds, and replies that say whether it is higher or lower."""

import random
import re

from r1lab.environments import Reply, Turn


class NumberGuess:
    """A secret number within bounds; each guess is answered with `higher` or `lower`. Finding it earns 1.

    A turn that has no number is a guess that is lost. The last number of a turn counts.

    Args:
        guesses: The number of guesses. Default: as many as halving needs at most.
        inside: A reward for each guess that the replies so far allow.
    """

    def __init__(self, *, guesses: int | None = None, inside: float = 0.0):
        self.guesses, self.inside = guesses, inside

    def reset(self, *, seed: int, low: int, high: int, **columns) -> str:
        self.low, self.high, self.found = low, high, False
        self.secret = random.Random(f"number_guess/{seed}").randint(low, high)
        self.left = self.guesses or (high - low + 1).bit_length()
        self.info = {"reason": "no guess"}
        return f"You have {self.left} guesses. After each, I say whether my number is higher or lower."

    def step(self, turn: Turn) -> Reply:
        self.left -= 1
        numbers = re.findall(r"-?\d+", turn.answer)
        if not numbers or len(numbers[-1]) > 18:
            return self._reply("Write a number.", error="no number")
        guess = int(numbers[-1])
        reward = self.inside * (self.low <= guess <= self.high)
        self.found = guess == self.secret
        if self.found:
            return self._reply("Right.", reward=reward)
        if guess < self.secret:
            self.low = max(self.low, guess + 1)
            return self._reply("higher", reward=reward)
        self.high = min(self.high, guess - 1)
        return self._reply("lower", reward=reward)

    def _reply(self, said: str, *, reward: float = 0.0, error: str = "") -> Reply:
        self.info = {"reason": "found" if self.found else f"not found, with {self.left} guesses left"}
        ended = self.found or self.left == 0
        if ended and not self.found:
            said = f"{said}. You have no guesses left." if not error else "You have no guesses left."
        return Reply(said, role="user", done=ended, reward=reward or None, error=error)

    def get_reward(self) -> float:
        return float(self.found)

    @staticmethod
    def solve(row: dict):
        """Halves what is left."""
        low, high = row["low"], row["high"]
        while True:
            guess = (low + high) // 2
            said = yield f"<answer> {guess} </answer>"
            low, high = (guess + 1, high) if said.startswith("higher") else (low, guess - 1)
