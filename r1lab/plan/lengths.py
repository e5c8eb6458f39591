"""The number and the lengths of a stage's rows, counted with its tokenizer, or assumed if that is not available."""

import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from r1lab import lookup
from r1lab.check.look import look
from r1lab.check.seen import GENERATED, Seen
from r1lab.recipe.acting import environment_of
from r1lab.recipe.references import REFERENCE
from r1lab.recipe.schema import EvalRecipe, SampleRecipe, StageRecipe
from r1lab.recipe.sections import Data, Eval, Rollout, Task
from r1lab.stages.playing import longest

CHARACTERS, TEMPLATE = 3, 128
"""Assumed characters per token without a tokenizer, and tokens of the template around the prompt."""

WRITTEN, SHORT = 0.3, 45
"""Assumed mean length of completions: a share of the maximum (measured: 0.16 to 0.35), or these tokens if that is more
(measured: 47 of at most 64), but never more than three quarters of the maximum (docs/plan.md)."""

PROMPT, COMPLETION = 512, 1024
"""Assumed tokens of a row that cannot be read; the latter is TRL's default for `max_length`."""


@dataclass(frozen=True)
class Lengths:
    """Rows of a stage's data, in tokens.

    Attributes:
        rows: The number of rows; None if only the run knows it.
        prompt: The length of the longest prompt.
        whole: The length of the longest row, prompt and known completion together.
        mean: The mean length of rows.
        assumed: The assumption about the lengths; empty if they were counted.
        replies: The maximum number of tokens that an environment puts into an episode; 0 without one.
    """

    rows: int | None
    prompt: int
    whole: int
    mean: float
    assumed: str = ""
    replies: int = 0

    @property
    def equal(self) -> bool:
        """Whether no row needs padding."""
        return self.mean == self.whole

    @property
    def mean_replies(self) -> float:
        """The assumed mean number of tokens that an environment puts into an episode."""
        return WRITTEN * self.replies


def mean_written(limit: int) -> float:
    """The assumed mean length of completions of at most `limit` tokens.

    >>> mean_written(1000), mean_written(64), mean_written(20)
    (300.0, 45, 15.0)
    """
    return max(WRITTEN * limit, min(SHORT, 0.75 * limit))


def lengths(recipe: StageRecipe, earlier: dict[str, StageRecipe]) -> Lengths:
    """The lengths of a stage's rows; `earlier` are the stages before it by name.

    An environment adds its replies, each of at most `max_reply_length` tokens, to the context of an episode.
    """
    found = _of_rows(recipe, earlier)
    if not (most := longest(environment_of(recipe), 0, 0)):
        return found
    said = f"replies of at most {most:,} tokens in an episode (environment.max_turns times max_reply_length), and of "
    said += f"{WRITTEN:.0%} of that on average; what an environment says at the start, and its time, are not counted"
    return replace(found, replies=most, assumed="; ".join(filter(None, [found.assumed, said])))


def _of_rows(recipe: StageRecipe, earlier: dict[str, StageRecipe]) -> Lengths:
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
    new = recipe.model.path.startswith("scratch:")  # its tokenizer is made from the words of the rows
    if guessed := _guessed(seen.rows, recipe.learns, by_words=new):
        each = "word" if new else f"{CHARACTERS} characters"
        assumed = f"one token per {each}, because its tokenizer is not available"
        return Lengths(rows, *guessed, assumed)
    limit = getattr(recipe, "train", {}).get("max_length")
    data: Data | None = getattr(recipe, "data", None)
    most = data.max_tokens if data else None
    prompt = most or PROMPT
    if recipe.generates:
        return Lengths(rows, prompt, prompt, prompt, f"prompts of {prompt:,} tokens (could not be counted)")
    whole = limit or most or COMPLETION
    return Lengths(rows, min(prompt, whole), whole, whole, f"rows of {whole:,} tokens (could not be counted)")


def _guessed(rows: list[dict], learned: tuple[str, ...], *, by_words: bool) -> tuple[int, int, float] | None:
    """The lengths of the longest prompt, the longest row and rows on average, estimated; None without texts."""
    if not rows or not all(isinstance(row.get(key), str) for row in rows for key in ("prompt", *learned)):
        return None

    def tokens(text: str) -> int:
        return len(re.findall(r"\w+|[^\w\s]", text)) if by_words else -(-len(text) // CHARACTERS)

    prompts = [tokens(row["prompt"]) + TEMPLATE for row in rows]
    wholes = [n + max((tokens(row[key]) for key in learned), default=0) for n, row in zip(prompts, rows, strict=True)]
    return max(prompts), max(wholes), sum(wholes) / len(wholes)


def _whole(seen: Seen) -> list[int]:
    """Tokens of each row: its prompt, and the text that it is trained on."""
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
    """Rows of a stage's data, or questions of an evaluation; by default what the builder makes by default."""
    if isinstance(recipe, EvalRecipe):
        return sum(size for size, _ in tasks(recipe.eval))
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


def tasks(evaluation: Eval) -> list[tuple[int, int]]:
    """For each task of an evaluation its questions, and the sampled answers to each of them."""
    own = [task if isinstance(task, Task) else None for task in evaluation.tasks or [""]]
    return [
        (task and task.size or evaluation.size, task and task.num_samples or evaluation.num_samples) for task in own
    ]


def _made(recipe: StageRecipe, earlier: dict[str, StageRecipe]) -> Lengths | None:
    """The lengths of rows that an earlier sample stage makes: the maximum number of rows, with the maximum length."""
    data: Data | None = getattr(recipe, "data", None)
    path = data.parameters.get("path") if data and data.builder != "mix" else None
    match = REFERENCE.fullmatch(path) if isinstance(path, str) else None
    if not data or not match or match[1] not in earlier:
        return None
    source = earlier[match[1]]
    before = lengths(source, earlier)
    whole, mean, rows = before.whole, before.mean, before.rows
    if isinstance(source, SampleRecipe):
        each, keep = source.rollout.num_generations, source.keep
        each = min(each, 1 if keep.which in ("best", "pairs") else keep.per_prompt or each)
        limit = source.rollout.max_completion_length
        whole, mean = before.prompt + limit + before.replies, mean + mean_written(limit) + before.mean_replies
        rows = rows * each if rows else rows
    limit = getattr(recipe, "train", {}).get("max_length")
    whole = min(whole, limit) if limit else whole
    if data.size:
        rows = min(rows or data.size, data.size)
    return Lengths(rows, before.prompt, whole, min(mean, whole), f"all rows that {match[1]} may keep")
