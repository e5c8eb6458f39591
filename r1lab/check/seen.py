"""The inputs of a check: one stage with its tokenizer and a sample of its rows."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from r1lab.recipe.schema import StageRecipe
from r1lab.recipe.sections import Prompt, Reward, Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROWS = 256
"""Rows of a stage's data that are checked one by one."""
GENERATED = 1024
"""Maximum number of rows that are built if the builder is a generator."""


@dataclass
class Seen:
    """A stage and those of its inputs that exist before the run.

    Attributes:
        tokenizer: None if it exists only during the run, or could not be loaded.
        rows: At most `ROWS` rows of its data, spread over all of it; none if they exist only during the run.
        tasks: All available rows (at most `GENERATED` from a generator), by evaluation task.
        data: The same in one list.
        tools: The schemas of the tools of the stage's environment, which its prompts show.
        rendered: Each row's rendered prompt, and the part of the assistant's turn that it contains (`<think>`).
        prompt_ids: The tokens of each of these prompts.
        examples: The tokens of each row's prompt and completions, from `prompts.example`; none in a stage that does
            not train on completions.
    """

    recipe: StageRecipe
    tokenizer: "PreTrainedTokenizerBase | None" = None
    rows: list[dict] = field(default_factory=list)
    tasks: dict[str, list[dict]] = field(default_factory=dict)
    data: list[dict] = field(default_factory=list)
    tools: list[dict] = field(default_factory=list)
    rendered: list[tuple[str, str]] = field(default_factory=list)
    prompt_ids: list[list[int]] = field(default_factory=list)
    examples: list[dict[str, list[int]]] = field(default_factory=list)

    @property
    def prompt(self) -> Prompt | None:
        """The recipe's `prompt` section; None in a kind of stage without one."""
        return getattr(self.recipe, "prompt", None)

    @property
    def rewards(self) -> list[Reward]:
        """The recipe's rewards; none in a kind of stage that grades nothing."""
        return getattr(self.recipe, "rewards", [])

    @property
    def rollout(self) -> Rollout | None:
        """The recipe's `rollout` section; None in a kind of stage that generates nothing."""
        return getattr(self.recipe, "rollout", None)

    @property
    def train(self) -> dict[str, Any]:
        """The recipe's `train` section; empty in a kind of stage that trains nothing."""
        return getattr(self.recipe, "train", {})
