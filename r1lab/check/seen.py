"""What a check of a recipe looks at: one stage with its tokenizer and a sample of its rows."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from r1lab.recipe.schema import StageRecipe
from r1lab.recipe.sections import Prompt, Reward, Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROWS = 256
"""Rows of a stage's data that are looked at one by one."""
GENERATED = 1024
"""Rows that are asked of a builder which makes them."""


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
    tokenizer: "PreTrainedTokenizerBase | None" = None
    rows: list[dict] = field(default_factory=list)
    tasks: dict[str, list[dict]] = field(default_factory=dict)
    data: list[dict] = field(default_factory=list)
    rendered: list[tuple[str, str]] = field(default_factory=list)
    prompt_ids: list[list[int]] = field(default_factory=list)
    examples: list[dict[str, list[int]]] = field(default_factory=list)

    @property
    def prompt(self) -> Prompt | None:
        """The recipe's section `prompt`; None in a kind of stage without one."""
        return getattr(self.recipe, "prompt", None)

    @property
    def rewards(self) -> list[Reward]:
        """The recipe's rewards; none in a kind of stage that grades nothing."""
        return getattr(self.recipe, "rewards", [])

    @property
    def rollout(self) -> Rollout | None:
        """The recipe's section `rollout`; None in a kind of stage that generates nothing."""
        return getattr(self.recipe, "rollout", None)

    @property
    def train(self) -> dict[str, Any]:
        """The recipe's section `train`; empty in a kind of stage that trains nothing."""
        return getattr(self.recipe, "train", {})
