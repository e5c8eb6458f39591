"""Compares the lengths of prompts and known answers with every limit that would truncate them."""

from transformers import AutoConfig, PretrainedConfig, PreTrainedTokenizerBase

from r1lab.check.seen import Seen
from r1lab.findings import Finding, Verdict
from r1lab.models import loading, prompts
from r1lab.recipe.schema import EvalRecipe
from r1lab.recipe.sections import Rollout
from r1lab.recipe.training import Schedule


def length_findings(seen: Seen, start: str, settings: dict) -> list[Finding]:
    """Percentiles of prompts and known answers in tokens, and the share that each limit truncates.

    Args:
        start: The model that the stage starts from, with `@STAGE/model` resolved.
        settings: Keyword arguments with which transformers loads that model's small files.
    """
    if seen.tokenizer is None or not seen.prompt_ids:
        return []
    prompt_lengths = [len(ids) for ids in seen.prompt_ids]
    answer_lengths, what = _answers(seen, seen.tokenizer)
    found = [Finding("ok", "lengths", f"prompts: {percentiles(prompt_lengths)}")]
    if answer_lengths:
        found.append(Finding("ok", "lengths", f"{what}: {percentiles(answer_lengths)}"))
    context = _context(start, settings)
    if seen.rollout:
        found += _generated(seen, seen.rollout, prompt_lengths, answer_lengths, what, context)
    elif seen.recipe.trl:
        found += _trained(seen, prompt_lengths, answer_lengths, context)
    return found


def percentiles(lengths: list[int]) -> str:
    """Statistics of lengths as text.

    >>> percentiles([10, 20, 30, 40])
    'median 25, 95th percentile 40, maximum 40 tokens'
    """
    ordered, n = sorted(lengths), len(lengths)
    median = (ordered[(n - 1) // 2] + ordered[n // 2]) // 2
    p95 = ordered[min(n - 1, int(0.95 * n))]
    return f"median {median:,}, 95th percentile {p95:,}, maximum {ordered[-1]:,} tokens"


def _answers(seen: Seen, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], str]:
    """Tokens of the full answer in each row (its completions, its solution, or its bare answer), and which it is."""
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
    """The model's context length in tokens according to its config; None if the config does not say."""
    if loading.is_adapter(start) or start.startswith("scratch:"):
        return None
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(loading.resolve(start), **settings)
    except (OSError, ValueError):  # reported by the tokenizer's loading, or custom code
        return None
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def _generated(
    seen: Seen,
    rollout: Rollout,
    prompt_lengths: list[int],
    answer_lengths: list[int],
    what: str,
    context: int | None,
) -> list[Finding]:
    """For a stage that generates: completions compared with their limit, whole sequences with the contexts."""
    recipe, found = seen.recipe, []
    limit, keys = rollout.max_completion_length, ("rollout", "max_completion_length")
    schedule: Schedule | None = getattr(recipe, "schedule", None)
    if schedule and schedule.max_completion_length:
        limit, keys = max(schedule.max_completion_length.values()), ("schedule", "max_completion_length")
    if isinstance(recipe, EvalRecipe) and recipe.eval.max_completion_length:
        limit, keys = recipe.eval.max_completion_length, ("eval", "max_completion_length")
    if answer_lengths:
        long = sum(length > limit for length in answer_lengths) / len(answer_lengths)
        near = sorted(answer_lengths)[min(len(answer_lengths) - 1, int(0.95 * len(answer_lengths)))]
        message = f"{limit}: {long:.0%} of {what} are longer and would be truncated"
        if long:
            found.append(Finding("warning", "lengths", message, f"set at least {near}", keys))
    longest = max(prompt_lengths) + limit

    def verdict(length: int) -> Verdict:
        """A grpo stage sizes its engine for its longest row; others truncate completions at the engine's limit."""
        return "error" if recipe.on_policy or max(prompt_lengths) >= length else "warning"

    engine = rollout.max_model_length
    if engine and longest > engine:
        share = sum(n + limit > engine for n in prompt_lengths) / len(prompt_lengths)
        what = f"{engine}: too short for {share:.0%} of the prompts with a completion of {limit}"
        fix = f"set at least {longest}"
        found.append(Finding(verdict(engine), "lengths", what, fix, ("rollout", "max_model_length")))
    if context and longest > context:
        share = sum(n + limit > context for n in prompt_lengths) / len(prompt_lengths)
        what = f"the model's context is {context:,} tokens, and {share:.0%} of the prompts exceed it with a completion"
        what += f" of {limit}"
        left = context - max(prompt_lengths)
        fix = f"set {'.'.join(keys)} to {left} or less" if left > 0 else "remove long prompts with data.max_tokens"
        found.append(Finding(verdict(context), "lengths", what, fix, keys))
    return found


def _trained(seen: Seen, prompt_lengths: list[int], answer_lengths: list[int], context: int | None) -> list[Finding]:
    """For a stage that trains on rows: prompt plus completion compared with `max_length` and the context."""
    if not answer_lengths:
        return []
    whole = [prompt + answer for prompt, answer in zip(prompt_lengths, answer_lengths)]
    limit, keys = seen.train.get("max_length"), ("train", "max_length")
    found = [Finding("ok", "lengths", f"prompt and completion: {percentiles(whole)}")]
    long = sum(limit is not None and n > limit for n in whole) / len(whole)
    if long:
        truncates = seen.train.get("truncation_mode")
        what = f"{limit}: {long:.0%} of the rows are longer and would be {'truncated' if truncates else 'left out'}"
        verdict = "error" if long == 1 and not truncates else "warning"  # nothing is left to train on
        found.append(Finding(verdict, "lengths", what, f"set {max(whole)} to keep them all", keys))
    beyond = sum(context is not None and n > min(context, limit or n) for n in whole) / len(whole)
    if context and not limit and beyond:
        what = f"the model's context is {context:,} tokens, and {beyond:.0%} of the rows are longer"
        found.append(Finding("warning", "lengths", what, f"set {context}", keys))
    return found
