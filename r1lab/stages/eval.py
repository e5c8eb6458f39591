"""Evaluation: samples and a greedy answer per question, scored by the same grader as in training."""

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
from r1lab.stages.common import doing, engine_prompts, load_engine, load_tokenizer, note, report_gold, warn
from r1lab.stages.rows import Evaluated, eval_of, eval_tasks, samples_of

CHUNK, SECONDS = 128, 10.0
"""Answers are graded and saved after this number of them, or of seconds, so that a kill loses no more."""
FAILED = "samples/failed.jsonl"  # completions on which a reward failed
FEW = 100  # a score from fewer questions gets a warning


def run(recipe: EvalRecipe, run_dir: Path) -> int:
    """Evaluates one model on the recipe's tasks; writes `evaluation.json`, `samples/questions.jsonl`, `result.json`.

    Records are written to `samples/partial.jsonl` as answers arrive. An interrupted evaluation resumes from there,
    unless `evaluation.json` has changed since, for example because another model is now in the same folder.
    """
    started = time.time()
    tasks = eval_tasks(recipe)
    tokenizer = None if recipe.rollout.engine == "server" else load_tokenizer(recipe)
    partial, file = run_dir / "samples" / "partial.jsonl", run_dir / "evaluation.json"
    doing(run_dir, f"loading the model, starting {engines.description(recipe.rollout.engine)}")
    engine = load_engine(recipe)  # this downloads a Hub model, whose commit is then known
    settings = settings_of(recipe, run_dir, tasks, tokenizer)
    if partial.exists() and (changed := _changed(file, settings)):
        note(run_dir, f"restarted from the first question: {changed} changed since the interruption")
        partial.unlink()
    run_dir.mkdir(parents=True, exist_ok=True)
    storage.write_json_atomic(file, settings)
    doing(run_dir, "generating the first answers")
    progress = progress_writer(run_dir, "eval", step=0)
    prepared = prepare(tasks, recipe, tokenizer, run_dir)
    result, questions = evaluate(
        engine, prepared, recipe, run_dir, progress=progress, partial=partial, seed=recipe.seed
    )
    storage.write_jsonl(run_dir / "samples" / "questions.jsonl", questions)
    partial.unlink(missing_ok=True)
    for line in engine.notes:
        warn(run_dir, line)
    few = [_score(name, found) for name, found in result.items() if "/" not in name and found["n_questions"] < FEW]
    if few:
        warn(run_dir, f"too few questions for a precise score: {', '.join(few)}")
    for name, found in result.items():
        if "/" not in name and found.get("timeouts"):
            warn(run_dir, f"{name}: {found['timeouts']} answers were not graded in time and count as wrong, so its "
                 "scores are too low: raise the timeout of the reward")  # fmt: skip
    seconds = round(time.time() - started, 1)
    storage.write_json_atomic(run_dir / "result.json", {"stage": "eval", "seconds": seconds, "tasks": result})
    return 0


def _score(name: str, scores: dict) -> str:
    low, high = (100 * bound for bound in scores["ci95"])
    return f"{name} ({scores['n_questions']}) {low:.0f} to {high:.0f} %"


def settings_of(recipe: EvalRecipe, run_dir: Path, tasks: dict[str, list[dict]], tokenizer) -> dict:
    """Returns everything that the scores depend on, for `evaluation.json`: model, prompts, sampling, seed, grader.

    Args:
        tasks: Rows by task name.
        tokenizer: None if a server applies the chat template.
    """
    rollout, rewards = recipe.rollout, [reward.model_dump() for reward in recipe.rewards]
    local = rollout.engine != "server"
    path, revision = recipe.model.path, recipe.model.revision
    return {
        "model": {
            "path": path,
            "revision": revision,
            "fingerprint": provenance.fingerprint(path, revision, run_dir=run_dir) if local else None,
        },
        "prompt": recipe.prompt.model_dump(),
        "tasks": {
            name: provenance.prompts_digest(engine_prompts(rows, recipe, tokenizer)[0])
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
    """Returns the keys of `evaluation.json` that have changed, as text; empty if none."""
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "its evaluation.json"
    before.get("model", {}).pop("path", None)  # the run may have been moved; the fingerprint identifies the model
    now = json.loads(json.dumps(now))
    now["model"].pop("path")
    return ", ".join(key for key in now if before.get(key) != now[key])


def progress_writer(run_dir: Path, phase: str, step: int):
    """Returns a function that appends a row of progress to `metrics.jsonl` after each chunk of prompts."""
    started = time.time()

    def progress(done: int, total: int, tokens: int) -> None:
        now = time.time()
        row = {"phase": phase, "step": step, "done": done, "total": total, "time": now}
        rate = round(tokens / max(now - started, 1e-6))
        storage.append_jsonl(run_dir / "metrics.jsonl", row | {"tokens_per_second": rate})

    return progress


@dataclass(frozen=True)
class PreparedTask:
    """A task that is ready for evaluation, any number of times.

    Attributes:
        name: Its name in results.
        rows: Its questions.
        prompts: The engine's prompt for each row: text, or messages for a server.
        judge: Scores the answers.
    """

    name: str
    rows: list[dict]
    prompts: list[engines.Prompt]
    judge: records.Judge


def prepare(tasks: dict[str, list[dict]], recipe: Evaluated, tokenizer, run_dir: Path) -> list[PreparedTask]:
    """Renders the prompts of all tasks, builds their graders, and warns about gold answers that cannot score."""
    rewards, found = [reward.model_dump() for reward in recipe.rewards], []
    for name, rows in tasks.items():
        prompts, prefills = engine_prompts(rows, recipe, tokenizer)
        judge = records.Judge(rewards, template=wording(**recipe.prompt.model_dump()), prefill=prefills[0])
        report_gold(judge.grader, rows, run_dir)
        found.append(PreparedTask(name, rows, prompts, judge))
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
    """Samples and scores every question of every task.

    Args:
        tasks: From `prepare`.
        recipe: Its `rollout` and `eval` sections have the sampling parameters.
        run_dir: Gets the warnings, and the completions on which a reward failed.
        progress: Called with the number of finished questions, of all questions, and of generated tokens so far, for
            the sampled answers and then the greedy ones, task by task.
        partial: A file of records, which is read first and extended as answers arrive.
        seed: The sampling seed; the samples of a question do not depend on what is in `partial` already. Default: the
            global random state is used, and a training's random state is not changed.

    Returns:
        `(result, questions)`: scores by task, and by subtask, such as `knights_knaves/2ppl`, if there are several; and
        one record per question with its scores, for paired comparisons.
    """
    result, questions = {}, []
    for task in tasks:
        name = task.name
        made = _questions(engine, task, recipe, run_dir, progress, partial, seed)
        questions += made
        result[name] = records.figures(made)
        subtasks = sorted({record["subtask"] for record in made} - {name})
        for subtask in subtasks if len(subtasks) > 1 else []:
            result[subtask] = records.figures([record for record in made if record["subtask"] == subtask])
    return result, questions


def _questions(engine: engines.Engine, task: PreparedTask, recipe: Evaluated, run_dir: Path, progress, partial, seed):
    """Returns the records of a task's questions, in their order."""
    name, rows = task.name, task.rows
    parts, rollout, settings = records.parts_of(name, rows), recipe.rollout, eval_of(recipe)
    there = [r for r in (storage.read_jsonl(partial) if partial else ()) if r["task"] == name]
    greedy = engines.Sampling(
        max_tokens=settings.max_completion_length or rollout.max_completion_length,
        temperature=0.0,
        seed=None if seed is None else zlib.crc32(f"{seed}/{name}".encode()),
    )
    sampled_settings = replace(
        greedy,
        n=samples_of(recipe, name),
        temperature=settings.temperature,
        top_p=rollout.top_p,
        top_k=rollout.top_k,
    )

    def answered(known: dict[int, dict], to_record, sampling: engines.Sampling) -> dict[int, dict]:
        """Returns the records of all questions by index: the known ones, and the others once they are answered."""
        found, tokens = dict(known), 0
        for groups in _in_chunks(engine.stream(task.prompts, sampling, done=known)):
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
        sampled_settings,
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
    """Collects groups of completions into chunks that are large enough for grading."""
    chunk, size, began = [], 0, time.monotonic()
    for place, group in stream:
        chunk.append((place, group))
        size += len(group)
        if size >= CHUNK or time.monotonic() - began > SECONDS:
            yield chunk
            chunk, size, began = [], 0, time.monotonic()
    if chunk:
        yield chunk
