"""How long prompts and known answers are, beside every limit that would cut them."""

from transformers import AutoConfig, PretrainedConfig, PreTrainedTokenizerBase

from r1lab.check.seen import Seen
from r1lab.findings import Finding, Verdict
from r1lab.models import loading, prompts
from r1lab.recipe.schema import EvalRecipe
from r1lab.recipe.sections import Rollout, Schedule


def length_findings(seen: Seen, start: str, settings: dict) -> list[Finding]:
    """Percentiles of prompts and known answers in tokens, and the share that each limit cuts.

    Args:
        start: The model that the stage starts from, `@STAGE/model` followed.
        settings: How transformers loads that model's small files.
    """
    if seen.tokenizer is None or not seen.prompt_ids:
        return []
    asked = [len(ids) for ids in seen.prompt_ids]
    written, what = _written(seen, seen.tokenizer)
    found = [Finding("ok", "lengths", f"prompts: {percentiles(asked)}")]
    if written:
        found.append(Finding("ok", "lengths", f"{what}: {percentiles(written)}"))
    context = _context(start, settings)
    if seen.rollout:
        found += _generated(seen, seen.rollout, asked, written, what, context)
    elif seen.recipe.trl:
        found += _trained(seen, asked, written, context)
    return found


def percentiles(lengths: list[int]) -> str:
    """Lengths in words.

    >>> percentiles([10, 20, 30, 40])
    'median 25, 95 % up to 40, longest 40 tokens'
    """
    ordered, n = sorted(lengths), len(lengths)
    median = (ordered[(n - 1) // 2] + ordered[n // 2]) // 2
    return f"median {median:,}, 95 % up to {ordered[min(n - 1, int(0.95 * n))]:,}, longest {ordered[-1]:,} tokens"


def _written(seen: Seen, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], str]:
    """Tokens of what each row says a full answer is: its completions, its solution, or its answer alone."""
    columns = seen.recipe.learns
    if seen.examples:
        longest = [max(len(example[f"{column}_ids"]) for column in columns) for example in seen.examples]
        return longest, " and ".join(columns)
    if all(row.get("completion") for row in seen.rows):
        texts = [prompts.text_of(row["completion"]) for row in seen.rows]
        return [len(ids) + 1 for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]], "completion"
    for column, what in (("solution", "worked solutions"), ("answer", "gold answers")):
        texts = [row[column] for row in seen.rows if isinstance(row.get(column), str) and row[column]]
        if len(texts) > len(seen.rows) / 2:
            return [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]], what
    return [], ""


def _context(start: str, settings: dict) -> int | None:
    """The tokens that a model can read, as its config says; None where it does not."""
    if loading.is_adapter(start) or start.startswith("scratch:"):
        return None
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(loading.resolve(start), **settings)
    except (OSError, ValueError):  # told by the tokenizer's loading, or custom code
        return None
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def _generated(
    seen: Seen, rollout: Rollout, asked: list[int], written: list[int], what: str, context: int | None
) -> list[Finding]:
    """Of a stage that generates: completions against their limit, prompts with completions against the contexts."""
    recipe, found = seen.recipe, []
    limit, keys = rollout.max_completion_length, ("rollout", "max_completion_length")
    schedule: Schedule | None = getattr(recipe, "schedule", None)
    if schedule and schedule.max_completion_length:
        limit, keys = max(schedule.max_completion_length.values()), ("schedule", "max_completion_length")
    if isinstance(recipe, EvalRecipe) and recipe.eval.max_completion_length:
        limit, keys = recipe.eval.max_completion_length, ("eval", "max_completion_length")
    if written:
        long = sum(length > limit for length in written) / len(written)
        near = sorted(written)[min(len(written) - 1, int(0.95 * len(written)))]
        seen_text = f"{limit}: {long:.0%} of {what} are longer and would be cut"
        if long:
            found.append(Finding("warning", "lengths", seen_text, f"set at least {near}", keys))
    longest = max(asked) + limit

    def verdict(reads: int) -> Verdict:
        """A grpo stage makes its engine as large as its longest row; others cut completions at the engine's end."""
        return "error" if recipe.stage == "grpo" or max(asked) >= reads else "warning"

    engine = rollout.max_model_length
    if engine and longest > engine:
        cut = sum(n + limit > engine for n in asked) / len(asked)
        what = f"{engine}: too short for {cut:.0%} of the prompts with a completion of {limit}"
        fix = f"set at least {longest}"
        found.append(Finding(verdict(engine), "lengths", what, fix, ("rollout", "max_model_length")))
    if context and longest > context:
        cut = sum(n + limit > context for n in asked) / len(asked)
        what = f"the model reads {context:,} tokens, and {cut:.0%} of the prompts have more with {limit} to write"
        left = context - max(asked)
        fix = f"set {'.'.join(keys)} to {left} or less" if left > 0 else "leave long prompts out by data.max_tokens"
        found.append(Finding(verdict(context), "lengths", what, fix, keys))
    return found


def _trained(seen: Seen, asked: list[int], written: list[int], context: int | None) -> list[Finding]:
    """Of a stage that learns from rows: prompt and completion together against `max_length` and the context."""
    if not written:
        return []
    whole = [a + w for a, w in zip(asked, written)]
    limit, keys = seen.train.get("max_length"), ("train", "max_length")
    found = [Finding("ok", "lengths", f"prompt and completion: {percentiles(whole)}")]
    long = sum(limit is not None and n > limit for n in whole) / len(whole)
    if long:
        cut = seen.train.get("truncation_mode")
        done = "cut" if cut else "left out"
        what = f"{limit}: {long:.0%} of the rows are longer and would be {done}"
        verdict = "error" if long == 1 and not cut else "warning"  # nothing is left to train on
        found.append(Finding(verdict, "lengths", what, f"set {max(whole)} to keep them all", keys))
    beyond = sum(context is not None and n > min(context, limit or n) for n in whole) / len(whole)
    if context and not limit and beyond:
        what = f"the model reads {context:,} tokens, and {beyond:.0%} of the rows have more"
        found.append(Finding("warning", "lengths", what, f"set {context}", keys))
    return found
