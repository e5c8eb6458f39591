"""Evaluation: samples and a greedy answer for each question, scored by the same grader as training."""

import json
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from r1lab import engines
from r1lab.evaluation import provenance, records
from r1lab.models.prompts import wording
from r1lab.recipe.schema import EvalRecipe
from r1lab.rundir import manifest, storage
from r1lab.stages.common import asked, doing, load_engine, load_tokenizer, note, report_gold, warn
from r1lab.stages.rows import Evaluated, eval_of, eval_tasks, samples_of

CHUNK, SECONDS = 128, 10.0
"""Answers are graded and written down so many at a time, or after so many seconds: a kill costs no more."""
FAILED = "samples/failed.jsonl"  # completions that a reward fails on
FEW = 100  # questions below which a figure carries a warning


def run(recipe: EvalRecipe, run_dir: Path) -> int:
    """Evaluate one model on the recipe's tasks; writes `evaluation.json`, `samples/questions.jsonl`, `result.json`.

    Records are written to `samples/partial.jsonl` as answers come. An interrupted evaluation resumes from there,
    unless what `evaluation.json` says has changed since: another model may be in the same folder by now.
    """
    started = time.time()
    tasks = eval_tasks(recipe)
    tokenizer = None if recipe.rollout.engine == "server" else load_tokenizer(recipe)
    partial, file = run_dir / "samples" / "partial.jsonl", run_dir / "evaluation.json"
    doing(run_dir, f"loading the model, starting {engines.told(recipe.rollout.engine)}")
    engine = load_engine(recipe)  # which puts a model of the Hub where its commit can be read
    said = settings_of(recipe, run_dir, tasks, tokenizer)
    if partial.exists() and (changed := _changed(file, said)):
        note(run_dir, f"begun again from the first question: {changed} changed since it was interrupted")
        partial.unlink()
    run_dir.mkdir(parents=True, exist_ok=True)
    storage.write_json_atomic(file, said)
    doing(run_dir, "generating the first answers")
    progress = progress_writer(run_dir, "eval", step=0)
    settings = {"progress": progress, "partial": partial, "seed": recipe.seed}
    result, questions = evaluate(engine, prepare(tasks, recipe, tokenizer, run_dir), recipe, run_dir, **settings)
    storage.write_jsonl(run_dir / "samples" / "questions.jsonl", questions)
    partial.unlink(missing_ok=True)
    for line in engine.notes:
        warn(run_dir, line)
    few = [_told(name, found) for name, found in result.items() if "/" not in name and found["n_questions"] < FEW]
    if few:
        warn(run_dir, f"so few questions leave a figure open: {', '.join(few)}")
    for name, found in result.items():
        if "/" not in name and found.get("timeouts"):
            warn(run_dir, f"{name}: {found['timeouts']} answers were not graded in time and count as wrong, so its "
                 "figures are too low: set a longer deadline for the reward")  # fmt: skip
    seconds = round(time.time() - started, 1)
    storage.write_json_atomic(run_dir / "result.json", {"stage": "eval", "seconds": seconds, "tasks": result})
    return 0


def _told(name: str, figures: dict) -> str:
    low, high = (100 * bound for bound in figures["ci95"])
    return f"{name} ({figures['n_questions']}) {low:.0f} to {high:.0f} %"


def settings_of(recipe: EvalRecipe, run_dir: Path, tasks: dict[str, list[dict]], tokenizer) -> dict:
    """All that the figures hang on, for `evaluation.json`: model, prompts, sampling, seed, grader.

    Args:
        tasks: Rows by task name.
        tokenizer: None where a server applies the chat template.
    """
    rollout, rewards = recipe.rollout, [reward.model_dump() for reward in recipe.rewards]
    here = rollout.engine != "server"
    path, revision = recipe.model.path, recipe.model.revision
    return {
        "model": {
            "path": path,
            "revision": revision,
            "fingerprint": provenance.fingerprint(path, revision, run_dir=run_dir) if here else None,
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
        "seed": recipe.seed,
        "rewards": rewards,
        "grader": provenance.grader_version(rewards),
        "versions": manifest.versions(),
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


def progress_writer(run_dir: Path, phase: str, step: int):
    """Appends a row of progress to `metrics.jsonl` each time the engine finishes a chunk of prompts."""
    started = time.time()

    def progress(done: int, total: int, tokens: int) -> None:
        now = time.time()
        row = {"phase": phase, "step": step, "done": done, "total": total, "time": now}
        rate = round(tokens / max(now - started, 1e-6))
        storage.append_jsonl(run_dir / "metrics.jsonl", row | {"tokens_per_second": rate})

    return progress


@dataclass(frozen=True)
class PreparedTask:
    """A task that is ready to be asked, as often as one likes.

    Attributes:
        name: What results call it.
        rows: Its questions.
        asks: What the engine is given for each row: text, or messages for a server.
        judge: Scores the answers.
    """

    name: str
    rows: list[dict]
    asks: list[engines.Prompt]
    judge: records.Judge


def prepare(tasks: dict[str, list[dict]], recipe: Evaluated, tokenizer, run_dir: Path) -> list[PreparedTask]:
    """Renders the prompts of all tasks, builds their graders, and warns once of gold answers that cannot score."""
    rewards, found = [reward.model_dump() for reward in recipe.rewards], []
    for name, rows in tasks.items():
        asks, prefills = asked(rows, recipe, tokenizer)
        judge = records.Judge(rewards, template=wording(**recipe.prompt.model_dump()), prefill=prefills[0])
        report_gold(judge.grader, rows, run_dir)
        found.append(PreparedTask(name, rows, asks, judge))
    return found


def evaluate(
    engine: engines.Engine,
    tasks: list[PreparedTask],
    recipe: Evaluated,
    run_dir: Path,
    *,
    progress=None,
    partial: Path | None = None,
    seed: int | None = None,
) -> tuple[dict, list[dict]]:
    """Sample and score every question of every task.

    Args:
        tasks: From `prepare`.
        recipe: Its `rollout` and `eval` sections say how to sample.
        run_dir: Where warnings go, and completions that a reward fails on.
        progress: Called with the questions done, all of them, and the tokens written so far, of the sampled answers
            and then of the greedy ones, task by task.
        partial: A file of records, read first and written to as answers come.
        seed: Of the draws; what is drawn for a question does not depend on what is in `partial` already. Default: the
            random state is left alone, as a training needs it.

    Returns:
        `(result, questions)`: figures by task and by its parts, as `knights_knaves/2ppl`, where the rows have several;
        and one record a question with its scores, for paired comparisons.
    """
    result, questions = {}, []
    for task in tasks:
        name = task.name
        made = _questions(engine, task, recipe, run_dir, progress, partial, seed)
        questions += made
        result[name] = records.figures(made)
        finer = sorted({record["subtask"] for record in made} - {name})
        for subtask in finer if len(finer) > 1 else []:
            result[subtask] = records.figures([record for record in made if record["subtask"] == subtask])
    return result, questions


def _questions(engine: engines.Engine, task: PreparedTask, recipe: Evaluated, run_dir: Path, progress, partial, seed):
    """The records of a task's questions, in their order."""
    name, rows = task.name, task.rows
    parts, rollout, settings = records.parts_of(name, rows), recipe.rollout, eval_of(recipe)
    there = [r for r in (storage.read_jsonl(partial) if partial else ()) if r["task"] == name]
    greedy = engines.Sampling(
        max_tokens=settings.max_completion_length or rollout.max_completion_length,
        temperature=0.0,
        seed=None if seed is None else zlib.crc32(f"{seed}/{name}".encode()),
    )
    drawn = replace(
        greedy,
        n=samples_of(recipe, name),
        temperature=settings.temperature,
        top_p=rollout.top_p,
        top_k=rollout.top_k,
    )

    def answered(known: dict[int, dict], to_record, sampling: engines.Sampling) -> dict[int, dict]:
        """Records of all questions by their place: those known, and the others as they are answered."""
        found, tokens = dict(known), 0
        for groups in _in_chunks(engine.stream(task.asks, sampling, done=known)):
            flat = [completion for _, group in groups for completion in group]
            judged = task.judge.judge(flat, [rows[i] for i, group in groups for _ in group], run_dir / FAILED)
            of_each = iter(judged)
            for i, group in groups:
                found[i] = to_record(i, group, [next(of_each) for _ in group])
                if partial:
                    storage.append_jsonl(partial, found[i])
            tokens += sum(len(completion.token_ids) for completion in flat)
            if progress:
                progress(len(found), len(rows), tokens)
        return found

    sampled = answered(
        {r["index"]: r for r in there if "scores" in r},
        lambda i, group, judged: records.record(name, parts[i], i, rows[i], group, judged),
        drawn,
    )
    if not settings.greedy:
        return [sampled[i] for i in range(len(rows))]
    best = answered(
        {r["index"]: r for r in there if "greedy" in r},
        lambda i, group, judged: {"task": name, "index": i} | records.greedy(group[0], judged[0]),
        greedy,
    )
    return [sampled[i] | best[i] for i in range(len(rows))]


def _in_chunks(stream: Iterator[tuple[int, list]]) -> Iterator[list[tuple[int, list]]]:
    """Groups of completions as they come, together in chunks that are worth grading at once."""
    chunk, size, began = [], 0, time.monotonic()
    for place, group in stream:
        chunk.append((place, group))
        size += len(group)
        if size >= CHUNK or time.monotonic() - began > SECONDS:
            yield chunk
            chunk, size, began = [], 0, time.monotonic()
    if chunk:
        yield chunk
