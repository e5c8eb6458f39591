"""What a check of a recipe looks at: one stage with its tokenizer and a sample of its rows."""

from dataclasses import dataclass, field

from r1lab.recipe.schema import StageRecipe

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
    tokenizer: object | None = None
    rows: list[dict] = field(default_factory=list)
    tasks: dict[str, list[dict]] = field(default_factory=dict)
    data: list[dict] = field(default_factory=list)
    rendered: list[tuple[str, str]] = field(default_factory=list)
    prompt_ids: list[list[int]] = field(default_factory=list)
    examples: list[dict[str, list[int]]] = field(default_factory=list)
