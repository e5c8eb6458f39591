"""Sampling: generates and grades completions for each row, and keeps those that are useful for SFT or DPO."""

import dataclasses
import random
import time
from pathlib import Path

from r1lab import engines, ranks
from r1lab.engines import Completion
from r1lab.errors import UserError
from r1lab.evaluation import provenance
from r1lab.grading.grader import build as build_grader
from r1lab.recipe.schema import SampleRecipe
from r1lab.recipe.sections import Keep
from r1lab.rundir import storage
from r1lab.stages.common import (
    doing,
    engine_prompts,
    load_engine,
    load_tokenizer,
    note,
    report_gold,
    sampling_of,
    warn,
)
from r1lab.stages.parts import POLL, Parts, of_others, own_devices
from r1lab.stages.rows import build_rows


def run(recipe: SampleRecipe, run_dir: Path) -> int:
    """Writes `samples/samples.jsonl`: rows of the data with a `completion`, its rewards and whether it is correct.

    Several workers share the rows. Completions are written to files in `samples/` as they arrive, see
    `r1lab.stages.parts`, and an interrupted stage resumes from there.
    """
    started = time.time()
    own_devices(recipe.rollout.tensor_parallel)
    tokenizer = None if recipe.rollout.engine == "server" else load_tokenizer(recipe)
    rows = build_rows(recipe.data, seed=recipe.seed, run_dir=run_dir, tokenizer=tokenizer)
    grader = build_grader([r.model_dump() for r in recipe.rewards]) if recipe.rewards else None
    if grader:
        report_gold(grader, rows, run_dir)
    texts, prefills = engine_prompts(rows, recipe, tokenizer)
    parts = Parts(run_dir)
    groups = _sampled(recipe, run_dir, parts, texts)
    if not ranks.is_main():
        return 0
    if len(groups) < len(rows):
        warn(
            run_dir,
            f"rollout: {len(rows) - len(groups)} of {len(rows)} rows have no completions, for the reasons in log.txt",
        )
    samples, token_ids = [], []
    for i in sorted(groups):
        for completion in groups[i]:
            turn = {"completion": prefills[i] + completion.text, "truncated": completion.truncated}
            samples.append(rows[i] | turn)
            token_ids.append(completion.token_ids)
    if grader:
        graded = grader.grade([s["completion"] for s in samples], samples, token_ids)
        graded.stop_if_failed(samples, run_dir / "samples" / "failed.jsonl")
        for sample, record, right in zip(samples, graded.records(samples, step=0), graded.right):
            sample |= {key: record[key] for key in ("rewards", "reasons", "reward")} | {"right": right}
    kept, dropped = keep(samples, recipe.keep, seed=recipe.seed)
    if not kept:
        reasons = ", ".join(f"{count} {why}" for why, count in dropped.items() if count)
        raise UserError(
            f"keep: none of the {len(samples)} samples is kept ({reasons}): relax keep; they are in {run_dir}/samples",
            status=1,
        )
    storage.write_jsonl(run_dir / "samples" / "samples.jsonl", kept)
    result = {
        "stage": "sample",
        "seconds": round(time.time() - started, 1),
        "sampled": len(samples),
        "kept": len(kept),
        "dropped": dropped,
    }
    if grader:
        result["right"] = round(sum(sample["right"] for sample in samples) / len(samples), 4)
    parts.delete()
    storage.write_json_atomic(run_dir / "result.json", result)
    return 0


def _origins(recipe: SampleRecipe, run_dir: Path, texts: list) -> list[str]:
    """Returns a digest for each row of what its samples depend on: its prompt and, if it is local, the model."""
    fingerprint = None
    if recipe.rollout.engine != "server":
        fingerprint = provenance.fingerprint(recipe.model.path, recipe.model.revision, run_dir=run_dir)
    weights = fingerprint if fingerprint and fingerprint.startswith("sha256:") else ""
    return [provenance.rows_digest([{"model": weights, "prompt": text}])[:16] for text in texts]


def _sampled(recipe: SampleRecipe, run_dir: Path, parts: Parts, texts: list) -> dict[int, list[Completion]]:
    """Generates completions for the rows that have none, and writes each to `parts` as soon as it is complete.

    Returns:
        The completions by row: those of all workers in the first one, which waits for the others.
    """
    origins = _origins(recipe, run_dir, texts)
    groups: dict[int, list[Completion]] = {}
    seen: set[int] = set()

    def read() -> int:
        """Adds the completions that other workers have written meanwhile, and returns the number of their tokens."""
        count = 0
        for row in parts.read():
            i = row["row"]
            seen.add(i)
            if i < len(texts) and row.get("origin") == origins[i]:
                groups[i] = [Completion(**c) for c in row["completions"]]
                count += sum(len(c.token_ids) for c in groups[i])
        return count

    read()
    if again := len(seen - groups.keys()):
        note(run_dir, f"{again} rows are sampled again, because they or the model changed since the interruption")
    if len(groups) == len(texts):
        return groups
    doing(run_dir, f"loading the model, starting {engines.description(recipe.rollout.engine)}")
    engine, sampling = (
        load_engine(recipe, max_failed=1.0),
        sampling_of(recipe),
    )  # a row that fails on a server is left out
    done = groups.keys() | of_others(len(texts), engine.together(sampling.n))
    started, reported, tokens = time.time(), 0.0, 0

    def report() -> None:
        nonlocal reported
        ranks.beat(run_dir)
        now = time.time()
        if ranks.is_main() and (len(groups) == len(texts) or now - reported > 1):
            reported = now
            row = {"phase": "sample", "step": 0, "done": len(groups), "total": len(texts), "time": now}
            row["tokens_per_second"] = round(tokens / max(now - started, 1e-6))
            storage.append_jsonl(run_dir / "metrics.jsonl", row)

    for i, group in engine.stream(texts, sampling, done=done):
        groups[i] = group
        parts.append({"row": i, "origin": origins[i], "completions": [dataclasses.asdict(c) for c in group]})
        tokens += sum(len(c.token_ids) for c in group) + read()
        report()
    while ranks.is_main() and ranks.world_size() > 1 and len(groups) < len(texts):
        time.sleep(POLL)
        if found := read():
            tokens += found
            report()
    for line in engine.notes:
        warn(run_dir, line)
    return groups


def keep(samples: list[dict], settings: Keep, *, seed: int) -> tuple[list[dict], dict[str, int]]:
    """Returns the samples that `keep` selects, and how many of the others each rule removed.

    Args:
        samples: Graded samples, with those of a prompt adjacent.
        settings: `which`, `at_least`, `per_prompt` and `deduplicate`, see `r1lab.recipe.sections.Keep`.

    Returns:
        `(kept, dropped)`. Pairs are rows with `chosen` and `rejected` instead of `completion`.
    """
    dropped: dict[str, int] = {}

    def drop(kept: list[dict], left: list[dict], why: str) -> list[dict]:
        if len(left) < len(kept):
            dropped[why] = len(kept) - len(left)
        return left

    kept = samples
    if settings.which in ("right", "best"):
        kept = drop(kept, [s for s in kept if s["right"]], "not correct")
    for name, lowest in settings.at_least.items():
        # A reward that does not apply to a row does not exclude it.
        left = [s for s in kept if s["rewards"][name] is None or s["rewards"][name] >= lowest]
        kept = drop(kept, left, f"{name} below {lowest:g}")
    if settings.deduplicate:
        kept = drop(kept, list({_said(s): s for s in reversed(kept)}.values())[::-1], "duplicates")
    if settings.which == "pairs":
        return _pairs(kept), dropped
    if settings.which == "best":
        kept = drop(kept, [max(group, key=_worth) for group in _by_prompt(kept)], "not the best of its prompt")
    if settings.per_prompt:
        groups = [_subset(group, settings.per_prompt, seed) for group in _by_prompt(kept)]
        kept = drop(kept, [s for group in groups for s in group], f"more than {settings.per_prompt} per prompt")
    return kept, dropped


def _said(sample: dict) -> tuple[str, str]:
    return repr(sample["prompt"]), " ".join(sample["completion"].split())


def _worth(sample: dict) -> tuple:
    """Returns a key that sorts by reward, and equal rewards by brevity."""
    return sample["reward"], -len(sample["completion"])


def _by_prompt(samples: list[dict]) -> list[list[dict]]:
    groups: dict[str, list[dict]] = {}
    for sample in samples:
        groups.setdefault(repr(sample["prompt"]), []).append(sample)
    return list(groups.values())


def _subset(group: list[dict], count: int, seed: int) -> list[dict]:
    places = random.Random(f"{seed}/{group[0]['prompt']!r}").sample(range(len(group)), min(count, len(group)))
    return [group[i] for i in sorted(places)]


def _pairs(samples: list[dict]) -> list[dict]:
    """Returns the best and the worst sample of each prompt, if their rewards differ."""
    pairs = []
    for group in _by_prompt(samples):
        best, worst = max(group, key=_worth), min(group, key=lambda s: (s["reward"], len(s["completion"])))
        if best["reward"] > worst["reward"]:
            shared = {k: v for k, v in best.items() if k not in ("completion", "truncated", "reasons", "right")}
            pair = {"chosen": best["completion"], "rejected": worst["completion"]}
            pair |= {"reward": best["reward"], "rejected_reward": worst["reward"]}
            pairs.append(shared | pair)
    return pairs
