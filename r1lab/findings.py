"""A finding of `r1lab check` or `r1lab doctor`: a verdict, what was seen, and the fix."""

from dataclasses import dataclass
from typing import Literal

from r1lab.recipe.yaml_source import Keys

Verdict = Literal["ok", "warning", "error"]

COLORS = {"ok": "32", "warning": "33", "error": "1;31"}
"""The terminal color codes of the verdicts."""


@dataclass(frozen=True)
class Finding:
    """A verdict with what was seen and how to fix it.

    Attributes:
        check: What was checked, as in `rewards`, `prompt`, `lengths`, `data`, `batch`, `settings`.
        seen: What was seen, in one line.
        fix: What to type instead; empty if there is nothing to fix.
        keys: The keys in the stage's recipe that it is about; empty for the whole recipe.
        unreached: What could not be checked because the Hub cannot be reached.
    """

    verdict: Verdict
    check: str
    seen: str
    fix: str = ""
    keys: Keys = ()
    unreached: tuple[str, ...] = ()

    @property
    def message(self) -> str:
        """The observation and the fix, as one line."""
        return f"{self.seen}: {self.fix}" if self.fix else self.seen
