"""Evaluation: samples and a greedy answer for each question, scored by the same grader as training."""

import time
import zlib
from pathlib import Path

from r1lab import rundir, stats
from r1lab.grader import build as build_grader
from r1lab.rewards.answers import committed
from r1lab.stages.common import as_data, asked, build_rows, load_engine, load_tokenizer, report_gold

CHUNK = 1024  # samples that are drawn from one seed and written down together: what a kill may cost


def run(recipe, run_dir: Path) -> int:
    """Evaluate one model on the recipe's tasks; writes `samples/questions.jsonl` and `result.json`.

    Records are written to `samples/partial.jsonl` as they come, from which an interrupted evaluation goes on.
    """
    started = time.time()
    tasks = eval_tasks(recipe)
    engine = load_engine(recipe)
    tokenizer = None if recipe.rollout.engine == "server" else load_tokenizer(recipe)
    progress = progress_writer(run_dir, "eval", step=0)
    partial = run_dir / "samples" / "partial.jsonl"
    settings = {"progress": progress, "partial": partial, "seed": recipe.seed}
    result, questions = evaluate(engine, tokenizer, tasks, recipe, run_dir, **settings)
    rundir.write_jsonl(run_dir / "samples" / "questions.jsonl", questions)
    partial.unlink(missing_ok=True)
    seconds = round(time.time() - started, 1)
    rundir.write_json_atomic(run_dir / "result.json", {"stage": "eval", "seconds": seconds, "tasks": result})
    return 0


def eval_tasks(recipe) -> dict[str, list[dict]]:
    """The rows of each task, by its name. An eval recipe without `tasks` evaluates its own `data`.

    `eval.size` says how many questions: `data.size` is that of the training, in a pipeline that shares its `data`.
    """
    size = recipe.eval.size
    if not recipe.eval.tasks:
        split = recipe.data.split if recipe.stage == "eval" else "test"  # never the rows that a grpo stage trains on
        return {recipe.data.builder: build_rows(recipe.data, seed=recipe.seed, split=split, size=size)}
    tasks = {}
    for task in recipe.eval.tasks:
        if isinstance(task, str):
            data = recipe.data.model_copy(update={"size": None})
            if task != recipe.data.builder:
                data = type(recipe.data)(builder=task)
            tasks[task] = build_rows(data, seed=recipe.seed, split="test", size=size)
        else:
            data = as_data(type(recipe.data), task)
            tasks[task.name or task.builder] = build_rows(data, seed=recipe.seed, split="test", size=data.size or size)
    return tasks


def progress_writer(run_dir: Path, phase: str, step: int):
    """Appends a row of progress to `metrics.jsonl` each time the engine finishes a chunk of prompts."""
    started = time.time()

    def progress(done: int, total: int, tokens: int) -> None:
        now = time.time()
        row = {"phase": phase, "step": step, "done": done, "total": total, "time": now}
        rate = round(tokens / max(now - started, 1e-6))
        rundir.append_jsonl(run_dir / "metrics.jsonl", row | {"tokens_per_second": rate})

    return progress


def evaluate(
    engine,
    tokenizer,
    tasks: dict[str, list[dict]],
    recipe,
    run_dir: Path,
    *,
    progress=None,
    partial: Path | None = None,
    seed: int | None = None,
) -> tuple[dict, list[dict]]:
    """Sample and score every question of every task.

    Questions go to the engine in chunks of always the same ones. Each chunk is drawn from a seed of its own, so that
    what is resumed draws what it would have.

    Args:
        tasks: Rows by task name.
        recipe: Its `prompt`, `rewards`, `rollout` and `eval` sections say how to ask and how to score.
        run_dir: Where warnings go, and completions that a reward fails on.
        partial: A file of records, read first and written to chunk by chunk.
        seed: What the chunks are seeded by. Default: the random state is left alone, as a training needs it.

    Returns:
        `(result, questions)`: figures by task, and by the rows' own finer `task` (`knights_knaves/2ppl`) where a task
        has several; and one record a question with its scores, for paired comparisons.
    """
    settings = recipe.eval
    max_tokens = settings.max_completion_length or recipe.rollout.max_completion_length
    top = {"top_p": recipe.rollout.top_p, "top_k": recipe.rollout.top_k}
    result, questions = {}, []
    for name, rows in tasks.items():
        texts, prefills = asked(rows, recipe, tokenizer)
        grader = build_grader([r.model_dump() for r in recipe.rewards], prefill=prefills[0])
        report_gold(grader, rows, run_dir)
        there = {r["index"]: r for r in (rundir.read_jsonl(partial) if partial else ()) if r["task"] == name}
        records, tokens = [], 0
        step = max(1, CHUNK // settings.num_samples)
        for first in range(0, len(rows), step):
            places = range(first, min(first + step, len(rows)))
            if all(i in there for i in places):
                records += [there[i] for i in places]
                continue
            if seed is not None:
                from transformers import set_seed

                set_seed(zlib.crc32(f"{seed}/{name}/{first}".encode()))

            asked_now = [texts[i] for i in places]
            sampled = engine.generate(
                asked_now,
                n=settings.num_samples,
                max_tokens=max_tokens,
                temperature=settings.temperature,
                progress=_after(progress, first, len(rows), tokens),
                **top,
            )
            tokens += sum(len(c.token_ids) for group in sampled for c in group)
            greedy = None
            if settings.greedy:
                greedy = engine.generate(asked_now, n=1, max_tokens=max_tokens, temperature=0.0)
            failed = run_dir / "samples" / "failed.jsonl"
            made = _score(grader, [rows[i] for i in places], sampled, greedy, name, failed, first)
            for record in made if partial else ():
                rundir.append_jsonl(partial, record)
            records += made
        questions += records
        result[name] = _figures(records)
        finer = sorted({record["subtask"] for record in records} - {name})
        for subtask in finer if len(finer) > 1 else []:
            result[subtask] = _figures([record for record in records if record["subtask"] == subtask])
    return result, questions


def _after(progress, first: int, total: int, tokens: int):
    """What an engine is to call for a chunk that begins at `first` of `total`, after `tokens` were written."""
    if progress is None:
        return None
    return lambda done, _, written: progress(first + done, total, tokens + written)


def _score(grader, rows, sampled, greedy, name, failed: Path, first: int) -> list[dict]:
    n = len(sampled[0])
    flat = [completion for group in sampled for completion in group]
    repeated = [row for row in rows for _ in range(n)]
    graded = grader.grade([c.text for c in flat], repeated, [c.token_ids for c in flat])
    graded.stop_if_failed(repeated, failed)
    if greedy:
        greedy_graded = grader.grade([g[0].text for g in greedy], rows, [g[0].token_ids for g in greedy])
        greedy_graded.stop_if_failed(rows, failed)
    records = []
    for i, row in enumerate(rows):
        group = slice(i * n, (i + 1) * n)
        record = {
            "task": name,
            "subtask": row.get("task") or name,
            "index": first + i,
            "prompt": row["prompt"],
            "answer": row.get("answer"),
            "scores": [int(right) for right in graded.right[group]],
            "answers": [answer_of(turn) for turn in graded.completions[group]],
            "truncated": [c.truncated for c in flat[group]],
            "completion": flat[i * n].text,
        }
        if all(c.token_ids for c in flat[group]):  # not every server tells
            record["lengths"] = [len(c.token_ids) for c in flat[group]]
        if greedy:
            record["greedy"] = int(greedy_graded.right[i])
            record["greedy_completion"] = greedy[i][0].text
        records.append(record)
    return records


def _figures(records: list[dict]) -> dict:
    scores = [record["scores"] for record in records]
    n = len(scores[0])
    cut = [flag for record in records for flag in record["truncated"]]
    flat = [length for record in records for length in record.get("lengths", ())]
    figures = {
        "n_questions": len(records),
        "n_samples": n,
        "avg": stats.avg_at_n(scores),
        "ci95": list(stats.mean_ci95(stats.question_means(scores))),
        f"pass@{n}": stats.pass_at_k(scores, n),
        f"maj@{n}": stats.maj_at_n([record["answers"] for record in records], scores),
        "truncated": sum(cut) / len(cut),
    }
    if flat:
        figures["length"] = sum(flat) / len(flat)
    if "greedy" in records[0]:
        greedy = [record["greedy"] for record in records]
        figures |= {"greedy": stats.avg_at_n([[g] for g in greedy]), "greedy_ci95": list(stats.mean_ci95(greedy))}
    return {k: _rounded(v) for k, v in figures.items()}


def _rounded(value):
    return [round(v, 4) for v in value] if isinstance(value, list) else round(value, 4)


def answer_of(turn: str) -> str | None:
    """What an assistant turn votes for in maj@n: the answer that it commits to, in lower case."""
    found = committed(turn)
    return " ".join(found[0].lower().split()) or None if found else None
