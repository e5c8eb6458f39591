"""What a check of a recipe finds, and what it looks at: one stage with its tokenizer and a sample of its rows."""

from dataclasses import dataclass, field
from typing import Literal

from r1lab.recipe.schema import StageRecipe
from r1lab.recipe.yaml_source import Keys

ROWS = 256
"""Rows of a stage's data that are looked at one by one."""

COLORS = {"ok": "32", "warning": "33", "error": "1;31"}
"""The terminal's color codes of verdicts."""

GENERATED = 1024
"""Rows that are asked of a builder which makes them."""


@dataclass(frozen=True)
class Finding:
    """A verdict with what was seen and what to change.

    Attributes:
        check: What was looked at, as in `rewards`, `prompt`, `lengths`, `data`, `batch`, `settings`.
        seen: What was seen, in one line.
        fix: What to type instead; empty where all is well.
        keys: The keys in the stage's recipe that it is about; empty for all of it.
        unreached: What could not be looked at because the Hub cannot be reached.
    """

    verdict: Literal["ok", "warning", "error"]
    check: str
    seen: str
    fix: str = ""
    keys: Keys = ()
    unreached: tuple[str, ...] = ()

    @property
    def message(self) -> str:
        """What was seen and the fix, as one line."""
        return f"{self.seen}: {self.fix}" if self.fix else self.seen


@dataclass
class Seen:
    """A stage and what of its inputs could be had before the run.

    Attributes:
        tokenizer: None where only the run makes it, or it could not be loaded.
        rows: At most `ROWS` rows of its data, spread over all of it; none where only the run makes them.
        tasks: All rows that could be had, of generators at most `GENERATED`, by the task of an evaluation.
        data: The same in one list.
        rendered: Each row's prompt as the model reads it, and what that holds of the assistant's turn (`<think>`).
        prompt_ids: The tokens of each of these prompts.
        examples: The tokens of each row's prompt and completions, as `prompts.example` gives them; none in a stage
            that is not trained on completions.
    """

    recipe: StageRecipe
    tokenizer: object | None = None
    rows: list[dict] = field(default_factory=list)
    tasks: dict[str, list[dict]] = field(default_factory=dict)
    data: list[dict] = field(default_factory=list)
    rendered: list[tuple[str, str]] = field(default_factory=list)
    prompt_ids: list[list[int]] = field(default_factory=list)
    examples: list[dict[str, list[int]]] = field(default_factory=list)
