"""How many rows a stage has and how long they are, as its tokenizer counts them; assumed where neither is here."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from r1lab import lookup
from r1lab.check.look import look
from r1lab.check.seen import GENERATED, Seen
from r1lab.recipe.references import REFERENCE
from r1lab.recipe.schema import EvalRecipe, SampleRecipe, StageRecipe
from r1lab.recipe.sections import Data, Rollout

CHARACTERS, TEMPLATE = 3, 128
"""Characters assumed of a token where the tokenizer is not here, and tokens of a template around the prompt."""

PROMPT, COMPLETION = 512, 1024
"""Tokens that are assumed of a row that cannot be read; the latter is TRL's own default of `max_length`."""


@dataclass(frozen=True)
class Lengths:
    """Rows of a stage's data, in tokens.

    Attributes:
        rows: How many; None where only the run knows.
        prompt: The longest prompt.
        whole: The longest row, prompt and known completion together.
        mean: The mean of the latter.
        assumed: What was assumed of them, empty where they were counted.
    """

    rows: int | None
    prompt: int
    whole: int
    mean: float
    assumed: str = ""

    @property
    def equal(self) -> bool:
        """Whether no row needs padding."""
        return self.mean == self.whole


def lengths(recipe: StageRecipe, earlier: dict[str, StageRecipe]) -> Lengths:
    """Of a stage, `earlier` the stages before it by name."""
    made = _made(recipe, earlier)
    if made:
        return made
    rollout: Rollout | None = getattr(recipe, "rollout", None)
    if rollout and rollout.engine == "server":
        return Lengths(_size(recipe, 0), PROMPT, PROMPT, PROMPT, "a server's tokens are not counted here")
    with tempfile.TemporaryDirectory() as folder:
        seen, _ = look(recipe, earlier, Path(folder))
    rows = _size(recipe, len(seen.data))
    if seen.prompt_ids and (whole := _whole(seen)):
        return Lengths(rows, max(map(len, seen.prompt_ids)), max(whole), sum(whole) / len(whole))
    if guessed := _guessed(seen.rows, recipe.learns):
        told = f"a token for every {CHARACTERS} characters, since its tokenizer is not here"
        return Lengths(rows, guessed[0], guessed[1], guessed[1], told)
    limit = getattr(recipe, "train", {}).get("max_length")
    data: Data | None = getattr(recipe, "data", None)
    most = data.max_tokens if data else None
    prompt = most or PROMPT
    if recipe.generates:
        return Lengths(rows, prompt, prompt, prompt, f"prompts of {prompt:,} tokens, since none could be counted")
    whole = limit or most or COMPLETION
    return Lengths(rows, min(prompt, whole), whole, whole, f"rows of {whole:,} tokens, since none could be counted")


def _guessed(rows: list[dict], learned: tuple[str, ...]) -> tuple[int, int] | None:
    """The longest prompt and the longest row by their characters; None where there are no texts."""
    if not rows or not all(isinstance(row.get(key), str) for row in rows for key in ("prompt", *learned)):
        return None
    asked = [-(-len(row["prompt"]) // CHARACTERS) for row in rows]
    answers = [max((-(-len(row[key]) // CHARACTERS) for key in learned), default=0) for row in rows]
    return max(asked) + TEMPLATE, max(a + b for a, b in zip(asked, answers, strict=True)) + TEMPLATE


def _whole(seen: Seen) -> list[int]:
    """Tokens of each row: its prompt, and what is learnt of it."""
    recipe = seen.recipe
    if not recipe.learns:
        return [len(ids) for ids in seen.prompt_ids]
    limit = seen.train.get("max_length")
    whole = [len(ids["prompt_ids"]) + max(len(ids[f"{key}_ids"]) for key in recipe.learns) for ids in seen.examples]
    if not limit or not whole:
        return whole
    kept = [min(n, limit) for n in whole if n <= limit or seen.train.get("truncation_mode")]
    return kept or [limit]


def _size(recipe: StageRecipe, seen: int) -> int | None:
    """Rows of a stage's data, or questions of an evaluation; what the builder makes by default where none is said."""
    if isinstance(recipe, EvalRecipe):
        return recipe.eval.size * max(1, len(recipe.eval.tasks))
    data: Data | None = getattr(recipe, "data", None)
    if data is None:
        return seen or None
    takes = lookup.parameters(lookup.function("data", data.builder))
    default = takes["size"].default if "size" in takes else None
    if data.size:
        return min(data.size, seen) if 0 < seen < min(data.size, GENERATED) else data.size
    if isinstance(default, int):
        return default
    return seen or None


def _made(recipe: StageRecipe, earlier: dict[str, StageRecipe]) -> Lengths | None:
    """Of rows that an earlier sample stage makes: as many and as long as they can be."""
    data: Data | None = getattr(recipe, "data", None)
    path = data.parameters.get("path") if data and data.builder != "mix" else None
    match = REFERENCE.fullmatch(path) if isinstance(path, str) else None
    if not data or not match or match[1] not in earlier:
        return None
    source = earlier[match[1]]
    before = lengths(source, earlier)
    whole, rows = before.whole, before.rows
    if isinstance(source, SampleRecipe):
        each, keep = source.rollout.num_generations, source.keep
        each = min(each, 1 if keep.which in ("best", "pairs") else keep.per_prompt or each)
        whole, rows = before.prompt + source.rollout.max_completion_length, rows * each if rows else rows
    limit = getattr(recipe, "train", {}).get("max_length")
    whole = min(whole, limit) if limit else whole
    if data.size:
        rows = min(rows or data.size, data.size)
    told = f"all that {match[1]} may keep, each as long as it may be"
    return Lengths(rows, before.prompt, whole, whole, told)
