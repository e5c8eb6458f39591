"""Sampling: completions for each row, graded, all or only the right ones kept, ready for SFT."""

import time
from pathlib import Path

from r1lab import models, prompts, rundir
from r1lab.errors import UserError
from r1lab.grader import build as build_grader
from r1lab.stages.common import build_rows, load_engine, report_gold
from r1lab.stages.eval import progress_writer


def run(recipe, run_dir: Path) -> int:
    """Write `samples/samples.jsonl`: each row of the data with a `completion`, its rewards and whether it is right."""
    started = time.time()
    rows = build_rows(recipe.data, seed=recipe.seed)
    settings = {"revision": recipe.model.revision, "trust_remote_code": recipe.model.trust_remote_code}
    tokenizer = models.load_tokenizer(recipe.model.path, **settings)
    template = {"template": recipe.prompt.template, "system": recipe.prompt.system}
    rendered = [prompts.render(row["prompt"], tokenizer, **template) for row in rows]
    grader = build_grader([r.model_dump() for r in recipe.rewards]) if recipe.rewards else None
    if grader:
        report_gold(grader, rows, run_dir)
    engine = load_engine(recipe)
    rollout = recipe.rollout
    groups = engine.generate(
        [text for text, _ in rendered],
        n=rollout.num_generations,
        max_tokens=rollout.max_completion_length,
        temperature=rollout.temperature,
        top_p=rollout.top_p,
        top_k=rollout.top_k,
        progress=progress_writer(run_dir, "sample", step=0),
    )
    samples = [
        {**row, "completion": prefill + completion.text, "truncated": completion.truncated}
        for row, (_, prefill), group in zip(rows, rendered, groups)
        for completion in group
    ]
    if grader:
        token_ids = [completion.token_ids for group in groups for completion in group]
        graded = grader.grade([sample["completion"] for sample in samples], samples, token_ids)
        graded.stop_if_failed(samples, run_dir / "samples" / "failed.jsonl")
        for sample, record, right in zip(samples, graded.records(samples, step=0), graded.right):
            sample |= {key: record[key] for key in ("rewards", "reasons", "reward")} | {"right": right}
    kept = _keep(samples, recipe.keep, rollout.num_generations)
    if not kept:
        raise UserError(f"keep: {recipe.keep}: none of {len(samples)} samples was right; see log.txt", status=1)
    rundir.write_jsonl(run_dir / "samples" / "samples.jsonl", kept)
    result = {
        "stage": "sample",
        "seconds": round(time.time() - started, 1),
        "sampled": len(samples),
        "kept": len(kept),
    }
    if grader:
        result["right"] = round(sum(sample["right"] for sample in samples) / len(samples), 4)
    rundir.write_json_atomic(run_dir / "result.json", result)
    return 0


def _keep(samples: list[dict], keep: str, n: int) -> list[dict]:
    """`all`; the `right` ones; or the `best` of each prompt: the highest reward, of these the shortest."""
    if keep == "all":
        return samples
    if keep == "right":
        return [sample for sample in samples if sample["right"]]
    groups = [samples[i : i + n] for i in range(0, len(samples), n)]
    best = (max(group, key=lambda s: (s["reward"], -len(s["completion"]))) for group in groups)
    return [sample for sample in best if sample["right"]]
