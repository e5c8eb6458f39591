"""Evaluation: samples and a greedy answer for each question, scored by the same grader as training."""

import json
import time
import zlib
from pathlib import Path

from r1lab import engines, forms, provenance, records, rundir
from r1lab.stages.common import as_data, asked, build_rows, load_engine, load_tokenizer, note, report_gold, warn

CHUNK = {"vllm": 1024, "transformers": 128, "server": 128}
"""Samples drawn from one seed and written down together, by engine: enough to fill it, and what a kill may cost."""
FEW = 100  # questions below which a figure carries a warning


def run(recipe, run_dir: Path) -> int:
    """Evaluate one model on the recipe's tasks; writes `evaluation.json`, `samples/questions.jsonl`, `result.json`.

    Records are written to `samples/partial.jsonl` as they come, from which an interrupted evaluation goes on, unless
    what `evaluation.json` says has changed since: another model may lie in the same folder by now.
    """
    started = time.time()
    tasks = eval_tasks(recipe)
    tokenizer = None if recipe.rollout.engine == "server" else load_tokenizer(recipe)
    partial, file = run_dir / "samples" / "partial.jsonl", run_dir / "evaluation.json"
    engine = load_engine(recipe)  # which puts a model of the Hub where its commit can be read
    said = settings_of(recipe, tasks, tokenizer)
    if partial.exists() and (changed := _changed(file, said)):
        note(run_dir, f"begun again from the first question: {changed} changed since it was interrupted")
        partial.unlink()
    run_dir.mkdir(parents=True, exist_ok=True)
    rundir.write_json_atomic(file, said)
    progress = progress_writer(run_dir, "eval", step=0)
    settings = {"progress": progress, "partial": partial, "seed": recipe.seed}
    result, questions = evaluate(engine, tokenizer, tasks, recipe, run_dir, **settings)
    rundir.write_jsonl(run_dir / "samples" / "questions.jsonl", questions)
    partial.unlink(missing_ok=True)
    few = [_told(name, found) for name, found in result.items() if "/" not in name and found["n_questions"] < FEW]
    if few:
        warn(run_dir, f"so few questions leave a figure open: {', '.join(few)}")
    seconds = round(time.time() - started, 1)
    rundir.write_json_atomic(run_dir / "result.json", {"stage": "eval", "seconds": seconds, "tasks": result})
    return 0


def _told(name: str, figures: dict) -> str:
    low, high = (100 * bound for bound in figures["ci95"])
    return f"{name} ({figures['n_questions']}) {low:.0f} to {high:.0f} %"


def settings_of(recipe, tasks: dict[str, list[dict]], tokenizer) -> dict:
    """All that the figures hang on, for `evaluation.json`: model, prompts, sampling, seed, grader.

    Args:
        tasks: Rows by task name.
        tokenizer: None where a server applies the chat template.
    """
    rollout, rewards = recipe.rollout, [reward.model_dump() for reward in recipe.rewards]
    asks_server = rollout.engine == "server"
    return {
        "model": {
            "path": recipe.model.path,
            "revision": recipe.model.revision,
            "fingerprint": None if asks_server else provenance.fingerprint(recipe.model.path, recipe.model.revision),
        },
        "prompt": recipe.prompt.model_dump(),
        "tasks": {
            name: provenance.prompts_digest(asked(rows, recipe, tokenizer)[0])
            | {"rows": provenance.rows_digest(rows), "samples": samples_of(recipe, name)}
            for name, rows in tasks.items()
        },
        "sampling": {
            "engine": engines.choose(rollout.engine),
            "dtype": recipe.model.dtype,
            "temperature": recipe.eval.temperature,
            "top_p": rollout.top_p,
            "top_k": rollout.top_k,
            "max_tokens": recipe.eval.max_completion_length or rollout.max_completion_length,
            "greedy": recipe.eval.greedy,
        },
        "seed": {"recipe": recipe.seed, "samples_a_seed": CHUNK[engines.choose(rollout.engine)]},
        "rewards": rewards,
        "grader": provenance.grader_version(rewards),
        "versions": rundir.versions(),
    }


def _changed(file: Path, now: dict) -> str:
    """The parts of `evaluation.json` that are no longer as they were, in words; empty if none."""
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "its evaluation.json"
    before.get("model", {}).pop("path", None)  # the run may have been moved: the fingerprint tells
    now = json.loads(json.dumps(now))
    now["model"].pop("path")
    return ", ".join(key for key in now if before.get(key) != now[key])


def task_name(task) -> str:
    """What a task of `eval.tasks` is called in results."""
    return task if isinstance(task, str) else task.name or task.builder


def samples_of(recipe, name: str) -> int:
    """How many answers a question of a task gets."""
    own = [task for task in recipe.eval.tasks if not isinstance(task, str) and task_name(task) == name]
    return (own[0].num_samples if own else None) or recipe.eval.num_samples


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
            rows = build_rows(data, seed=recipe.seed, split="test", size=data.size or size)
            if task.instruction and recipe.prompt.template not in forms.TAGGED:
                rows = [row | {"prompt": instructed(row["prompt"], task.instruction)} for row in rows]
            tasks[task_name(task)] = rows
    return tasks


def instructed(prompt: str | list[dict], instruction: str) -> str | list[dict]:
    """A question with an instruction below it; of chat messages, below the last.

    >>> instructed("2+2?", "Answer in a box.")
    '2+2?\\n\\nAnswer in a box.'
    """
    if isinstance(prompt, str):
        return f"{prompt}\n\n{instruction}"
    return [*prompt[:-1], prompt[-1] | {"content": instructed(prompt[-1]["content"], instruction)}]


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
        `(result, questions)`: figures by task and by its parts, as `knights_knaves/2ppl`, where the rows have several;
        and one record a question with its scores, for paired comparisons.
    """
    result, questions = {}, []
    for name, rows in tasks.items():
        texts, prefills = asked(rows, recipe, tokenizer)
        rewards = [reward.model_dump() for reward in recipe.rewards]
        judge = records.Judge(rewards, template=recipe.prompt.template, prefill=prefills[0])
        report_gold(judge.grader, rows, run_dir)
        there = {r["index"]: r for r in (rundir.read_jsonl(partial) if partial else ()) if r["task"] == name}
        made, tokens, parts = [], 0, records.parts_of(name, rows)
        step = max(1, CHUNK[engine.name] // samples_of(recipe, name))
        for first in range(0, len(rows), step):
            places = range(first, min(first + step, len(rows)))
            if all(i in there for i in places):
                made += [there[i] for i in places]
                continue
            if seed is not None:
                from transformers import set_seed

                set_seed(zlib.crc32(f"{seed}/{name}/{first}".encode()))
            chunk = {i: (parts[i], rows[i], texts[i]) for i in places}
            told = _after(progress, first, len(rows), tokens)
            new = _records(engine, judge, name, chunk, recipe, run_dir / "samples" / "failed.jsonl", told)
            tokens += sum(sum(record.get("lengths", ())) for record in new)
            for record in new if partial else ():
                rundir.append_jsonl(partial, record)
            made += new
        questions += made
        result[name] = records.figures(made)
        finer = sorted({record["subtask"] for record in made} - {name})
        for subtask in finer if len(finer) > 1 else []:
            result[subtask] = records.figures([record for record in made if record["subtask"] == subtask])
    return result, questions


def _after(progress, first: int, total: int, tokens: int):
    """What an engine is to call for a chunk that begins at `first` of `total`, after `tokens` were written."""
    if progress is None:
        return None
    return lambda done, _, written: progress(first + done, total, tokens + written)


def _records(engine, judge: records.Judge, name: str, chunk: dict, recipe, failed: Path, progress) -> list[dict]:
    """The records of a chunk of questions, each given as its part, its row and its prompt by its place in the task."""
    n, asks = samples_of(recipe, name), [text for _, _, text in chunk.values()]
    rows = [row for _, row, _ in chunk.values()]
    settings = {"max_tokens": recipe.eval.max_completion_length or recipe.rollout.max_completion_length}
    top = {"top_p": recipe.rollout.top_p, "top_k": recipe.rollout.top_k}
    sampled = engine.generate(asks, n=n, temperature=recipe.eval.temperature, progress=progress, **settings, **top)
    flat = [completion for group in sampled for completion in group]
    judged = judge.judge(flat, [row for row in rows for _ in range(n)], failed)
    made = [
        records.record(name, part, place, row, group, judged[i * n : (i + 1) * n])
        for i, ((place, (part, row, _)), group) in enumerate(zip(chunk.items(), sampled))
    ]
    if recipe.eval.greedy:
        greedy = [group[0] for group in engine.generate(asks, n=1, temperature=0.0, **settings)]
        for record, completion, one in zip(made, greedy, judge.judge(greedy, rows, failed)):
            record |= {"greedy": int(one["right"]), "greedy_completion": completion.text}
            record |= {"greedy_reason": one["reason"], "greedy_truncated": completion.truncated}
    return made
