"""Sampling: generates and grades completions for each row, and keeps those that are useful for SFT or DPO."""

import dataclasses
import random
import sys
import time
from pathlib import Path

from r1lab import engines, ranks
from r1lab.engines import Completion
from r1lab.episodes.engine import Setting, completion, task_seed
from r1lab.episodes.record import Episode
from r1lab.errors import UserError
from r1lab.evaluation import provenance
from r1lab.evaluation.records import episode_figures, own_tokens
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
from r1lab.stages.playing import environment_settings, played_by, setting_of
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
    setting = setting_of(recipe, tokenizer, recipe.rollout.max_model_length or sys.maxsize)
    rewards = [reward.model_dump() for reward in recipe.rewards]
    grader = build_grader(rewards, prefill=setting.prefill if setting else "") if rewards else None
    if grader:
        report_gold(grader, rows, run_dir)
    texts, prefills = engine_prompts(rows, recipe, tokenizer)
    parts = Parts(run_dir)
    groups = _sampled(recipe, run_dir, parts, rows, texts, setting)
    if not ranks.is_main():
        return 0
    if len(groups) < len(rows):
        warn(
            run_dir,
            f"rollout: {len(rows) - len(groups)} of {len(rows)} rows have no completions, for the reasons in log.txt",
        )
    found = [(i, one) for i in sorted(groups) for one in groups[i]]
    if failed := sum(one.episode is not None and not one.episode.counted for _, one in found):
        warn(run_dir, f"environment: failed in {failed} of {len(found)} episodes, twice each, which are left out")
        found = [(i, one) for i, one in found if one.episode.counted]
    samples = [rows[i] | _record(one, prefills[i], recipe.seed, i) for i, one in found]
    episodes = [one.episode for _, one in found if one.episode is not None]
    if grader:
        turns = [one.text for _, one in found] if episodes else [sample["completion"] for sample in samples]
        graded = grader.grade(turns, samples, [one.token_ids for _, one in found], episodes)
        graded.stop_if_failed(samples, run_dir / "samples" / "failed.jsonl")
        for sample, record, right in zip(samples, graded.records(samples, step=0), graded.right):
            sample |= {key: record[key] for key in ("rewards", "reasons", "reward")} | {"right": right}
    kept, dropped = keep(samples, recipe.keep, seed=recipe.seed)
    dropped |= {"environment failed": failed} if failed else {}
    if not kept:
        reasons = ", ".join(f"{count} {why}" for why, count in dropped.items() if count)
        what = f"keep: none of the {len(samples) + failed} samples is kept ({reasons})"
        raise UserError(f"{what}: relax keep; they are in {run_dir}/samples", status=1)
    storage.write_jsonl(run_dir / "samples" / "samples.jsonl", kept)
    result = {
        "stage": "sample",
        "seconds": round(time.time() - started, 1),
        "sampled": len(samples) + failed,
        "kept": len(kept),
        "dropped": dropped,
    }
    if grader:
        result["right"] = round(sum(sample["right"] for sample in samples) / len(samples), 4)
    if episodes:
        result["episodes"] = episode_figures([episode.summary() for episode in episodes])
    parts.delete()
    storage.write_json_atomic(run_dir / "result.json", result)
    return 0


def _record(one: Completion, prefill: str, seed: int, row: int) -> dict:
    """What is added to a row: the completion, and of an episode all its turns with their tokens.

    Args:
        row: The number of the row, which decides the task of its episodes: rows with the same prompt differ in it.
    """
    record = {"completion": prefill + one.text, "truncated": one.truncated}
    if one.episode is None:
        return record
    return record | {"task_seed": task_seed(seed, row)} | one.episode.summary(ids=True)


def _origins(recipe: SampleRecipe, run_dir: Path, rows: list[dict], texts: list) -> list[str]:
    """Returns a digest for each row of what its samples depend on: its prompt and, if it is local, the model.

    Episodes also depend on the environment and on all columns of the row.
    """
    fingerprint = None
    if recipe.rollout.engine != "server":
        fingerprint = provenance.fingerprint(recipe.model.path, recipe.model.revision, run_dir=run_dir)
    shared: dict = {"model": fingerprint if fingerprint and fingerprint.startswith("sha256:") else ""}
    shared |= (played := environment_settings(recipe))
    given = [{"prompt": text} | ({"row": row} if played else {}) for text, row in zip(texts, rows)]
    return [provenance.rows_digest([shared | one])[:16] for one in given]


def _sampled(
    recipe: SampleRecipe, run_dir: Path, parts: Parts, rows: list[dict], texts: list, setting: Setting | None
) -> dict[int, list[Completion]]:
    """Generates completions for the rows that have none, and writes each to `parts` as soon as it is complete.

    Returns:
        The completions by row: those of all workers in the first one, which waits for the others.
    """
    origins = _origins(recipe, run_dir, rows, texts)
    groups: dict[int, list[Completion]] = {}
    seen: set[int] = set()

    def read() -> int:
        """Adds the completions that other workers have written meanwhile, and returns the number of their tokens."""
        count = 0
        for row in parts.read():
            i = row["row"]
            seen.add(i)
            if i < len(texts) and row.get("origin") == origins[i]:
                groups[i] = [_read(one) for one in row["completions"]]
                count += sum(own_tokens(one) for one in groups[i])
        return count

    read()
    if again := len(seen - groups.keys()):
        note(run_dir, f"{again} rows are sampled again, because they or the model changed since the interruption")
    if len(groups) == len(texts):
        return groups
    doing(run_dir, f"loading the model, starting {engines.description(recipe.rollout.engine)}")
    engine = played_by(load_engine(recipe, max_failed=1.0), setting, rows)  # a row that fails on a server is left out
    sampling = sampling_of(recipe)
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
        parts.append({"row": i, "origin": origins[i], "completions": [_saved(one) for one in group]})
        tokens += sum(own_tokens(one) for one in group) + read()
        report()
    while ranks.is_main() and ranks.world_size() > 1 and len(groups) < len(texts):
        time.sleep(POLL)
        if found := read():
            tokens += found
            report()
    for line in engine.notes:
        warn(run_dir, line)
    return groups


def _saved(one: Completion) -> dict:
    """A completion as a row of `Parts` has it; an episode has all that the completion is made of."""
    return dataclasses.asdict(one) if one.episode is None else {"episode": dataclasses.asdict(one.episode)}


def _read(saved: dict) -> Completion:
    """The completion that `_saved` made a row of."""
    return completion(Episode.read(saved["episode"])) if saved.get("episode") else Completion(**saved)


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
    """Returns the task of a sample and what the model said, in all turns of an episode."""
    said = [sample["completion"]]
    if "task_seed" in sample:
        said = [turn["text"] for turn in sample["turns"] if turn["own"]]
    return _task(sample), "\n".join(" ".join(turn.split()) for turn in said)


def _task(sample: dict) -> str:
    """Returns what the samples of a row share: the prompt, and what an environment draws."""
    return repr((sample["prompt"], sample.get("task_seed")))


def _worth(sample: dict) -> tuple:
    """Returns a key that sorts by reward, and equal rewards by brevity."""
    return sample["reward"], -len(sample["completion"])


def _by_prompt(samples: list[dict]) -> list[list[dict]]:
    groups: dict[str, list[dict]] = {}
    for sample in samples:
        groups.setdefault(_task(sample), []).append(sample)
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
