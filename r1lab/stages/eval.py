"""Evaluation: samples and a greedy answer per question, scored by the same grader as in training."""

import json
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from r1lab import engines, ranks
from r1lab.episodes.engine import Setting
from r1lab.evaluation import budgets, provenance, records
from r1lab.models.prompts import wording
from r1lab.recipe.schema import EvalRecipe
from r1lab.rundir import directory, manifest, storage
from r1lab.stages import forcing
from r1lab.stages.common import doing, engine_prompts, load_engine, load_tokenizer, note, report_gold, warn
from r1lab.stages.parts import POLL, Parts, of_others, own_devices
from r1lab.stages.playing import environment_settings, played_by, setting_of
from r1lab.stages.rows import Evaluated, eval_of, eval_tasks, samples_of

CHUNK, SECONDS = 128, 10.0
"""Answers are graded and saved after this number of them, or of seconds, so that a kill loses no more."""
FAILED = "samples/failed.jsonl"  # completions on which a reward failed
FEW = 100  # a score from fewer questions gets a warning


def run(recipe: EvalRecipe, run_dir: Path) -> int:
    """Evaluates one model on the recipe's tasks; writes `evaluation.json`, `samples/questions.jsonl`, `result.json`.

    Several workers share the questions. Records are written to files in `samples/` as answers arrive, see
    `r1lab.stages.parts`. An interrupted evaluation resumes from there, unless `evaluation.json` has changed since, for
    example because another model is now in the same folder.
    """
    started = time.time()
    own_devices(recipe.rollout.tensor_parallel)
    tasks = eval_tasks(recipe)
    tokenizer = None if recipe.rollout.engine == "server" else load_tokenizer(recipe)
    doing(run_dir, f"loading the model, starting {engines.description(recipe.rollout.engine)}")
    engine = load_engine(recipe)  # this downloads a Hub model, whose commit is then known
    _agree(settings_of(recipe, run_dir, tasks, tokenizer), run_dir)
    doing(run_dir, "generating the first answers")
    prepared, parts = prepare(tasks, recipe, tokenizer, run_dir), Parts(run_dir)
    progress = progress_writer(run_dir, "eval", step=0) if ranks.is_main() else None
    answers = answer(engine, prepared, recipe, run_dir, progress=progress, parts=parts, seed=recipe.seed)
    if not ranks.is_main():
        return 0
    result, questions = scored(answers)
    storage.write_jsonl(run_dir / "samples" / "questions.jsonl", questions)
    parts.delete()
    for line in engine.notes:
        warn(run_dir, line)
    few = [_score(name, found) for name, found in result.items() if "/" not in name and found["n_questions"] < FEW]
    if few:
        warn(run_dir, f"too few questions for a precise score: {', '.join(few)}")
    for name, found in result.items():
        if "/" not in name and found.get("not_counted"):
            warn(run_dir, f"{name}: the environment failed in {found['not_counted']} episodes, twice each, which "
                 "count as wrong, so its scores are too low: read `info` in samples/questions.jsonl")  # fmt: skip
        if "/" not in name and found.get("timeouts"):
            warn(run_dir, f"{name}: {found['timeouts']} answers were not graded in time and count as wrong, so its "
                 "scores are too low: raise the timeout of the reward")  # fmt: skip
    seconds = round(time.time() - started, 1)
    storage.write_json_atomic(run_dir / "result.json", {"stage": "eval", "seconds": seconds, "tasks": result})
    return 0


def _agree(settings: dict, run_dir: Path) -> None:
    """Writes `evaluation.json`, and deletes records that were made with other settings.

    The first worker does so. The others wait for a file with their settings, before which they may not read or write
    records.
    """
    file = run_dir / "evaluation.json"
    if not ranks.is_main():
        while _changed(file, settings):
            time.sleep(POLL)
        return
    run_dir.mkdir(parents=True, exist_ok=True)
    if (files := directory.partial_files(run_dir)) and (changed := _changed(file, settings)):
        note(run_dir, f"restarted from the first question: {changed} changed since the interruption")
        for partial in files:
            partial.unlink()
    storage.write_json_atomic(file, settings)


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
        **forcing.settings_of(recipe),
        **environment_settings(recipe),
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
    last = started = time.time()
    of = None

    def progress(answers: str, done: int, total: int, tokens: int) -> None:
        nonlocal last, started, of
        now = time.time()
        if answers != of:  # tokens are counted per round, so its seconds are too
            of, started = answers, last
        last = now
        row = {"phase": phase, "step": step, "answers": answers, "done": done, "total": total, "time": now}
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
        setting: How episodes are played, if the recipe has an environment or tools.
        forcing: How thinking budgets are enforced, if the evaluation has some.
    """

    name: str
    rows: list[dict]
    prompts: list[engines.Prompt]
    judge: records.Judge
    setting: Setting | None = None
    forcing: budgets.Forcing | None = None


def prepare(tasks: dict[str, list[dict]], recipe: Evaluated, tokenizer, run_dir: Path) -> list[PreparedTask]:
    """Renders the prompts of all tasks, builds their graders, and warns about gold answers that cannot score."""
    rewards, found = [reward.model_dump() for reward in recipe.rewards], []
    setting = setting_of(recipe, tokenizer, recipe.rollout.max_model_length or sys.maxsize)
    for name, rows in tasks.items():
        prompts, prefills = engine_prompts(rows, recipe, tokenizer)
        judge = records.Judge(rewards, template=wording(**recipe.prompt.model_dump()), prefill=prefills[0])
        report_gold(judge.grader, rows, run_dir)
        forced = forcing.forcing_of(recipe, tokenizer, prefills[0])
        found.append(PreparedTask(name, rows, prompts, judge, setting, forced))
    return found


@dataclass(frozen=True)
class Round:
    """One pass over the questions of a task.

    Attributes:
        task: The task.
        key: What only the records of this round have: `scores` for sampled answers, `greedy` for greedy ones, and
            `budgets` for those under budgets.
        sampling: How the answers are generated.
        parts: The part of the task that each question belongs to.
        records: The records by index, as far as there are any.
        of: For `budgets`, the round with the sampled answers.
        groups: The tokens of each answer, and whether it was truncated, by index, if they are needed for budgets.
    """

    task: PreparedTask
    key: str
    sampling: engines.Sampling
    parts: list[str]
    records: dict[int, dict] = field(default_factory=dict)
    of: "Round | None" = None
    groups: dict[int, list[tuple[list[int], bool]]] = field(default_factory=dict)

    @property
    def answers(self) -> str:
        """What is answered in this round, for the progress display, which counts from 0 again in each."""
        return f"{self.task.name} ({'sampled' if self.key == 'scores' else self.key})"

    @property
    def complete(self) -> bool:
        return len(self.records) == len(self.task.rows)

    def record(self, index: int, group: list[engines.Completion], judged: list[dict]) -> dict:
        """Returns the record of a question that was answered."""
        task = self.task
        if self.key == "greedy":
            return {"task": task.name, "index": index} | records.greedy(group[0], judged[0])
        if self.of is not None and task.forcing is not None:
            natural, samples = self.of.records[index], self.of.groups[index]
            made = budgets.record(task.forcing, natural, samples, group, judged)
            return {"task": task.name, "index": index} | made
        return records.record(task.name, self.parts[index], index, task.rows[index], group, judged)


def _rounds(tasks: list[PreparedTask], recipe: Evaluated, seed: int | None) -> list[Round]:
    """The rounds of an evaluation in order: for each task sampled answers, greedy ones, and those under budgets."""
    rollout, settings, found = recipe.rollout, eval_of(recipe), []
    for task in tasks:
        parts = records.parts_of(task.name, task.rows)
        greedy = engines.Sampling(
            max_tokens=settings.max_completion_length or rollout.max_completion_length,
            temperature=0.0,
            seed=None if seed is None else zlib.crc32(f"{seed}/{task.name}".encode()),
        )
        sampled = replace(
            greedy,
            n=samples_of(recipe, task.name),
            temperature=settings.temperature,
            top_p=rollout.top_p,
            top_k=rollout.top_k,
        )
        found.append(of := Round(task, "scores", sampled, parts))
        if settings.greedy:
            found.append(Round(task, "greedy", greedy, parts))
        if task.forcing:
            found.append(Round(task, "budgets", sampled, parts, of=of))
    return found


def evaluate(
    engine: engines.Engine, tasks: list[PreparedTask], recipe: Evaluated, run_dir: Path, *, progress=None, seed=None
) -> tuple[dict, list[dict]]:
    """Samples and scores every question of every task in this process.

    See `answer` for the arguments, and `scored` for the result.
    """
    return scored(answer(engine, tasks, recipe, run_dir, progress=progress, seed=seed))


def answer(
    engine: engines.Engine,
    tasks: list[PreparedTask],
    recipe: Evaluated,
    run_dir: Path,
    *,
    progress=None,
    parts: Parts | None = None,
    seed: int | None = None,
) -> list[Round]:
    """Samples and grades answers to the questions of every task.

    Args:
        tasks: From `prepare`.
        recipe: Its `rollout` and `eval` sections have the sampling parameters.
        run_dir: Gets the warnings, and the completions on which a reward failed.
        progress: Called with the name of the round, and the number of its finished questions, of all its questions,
            and of the tokens that it has generated so far.
        parts: The records of all workers, which are read first and extended as answers arrive. Each worker answers its
            share of the questions that have no record, and the first one then waits for all others. Default: this
            process answers all questions, and keeps no files.
        seed: The sampling seed; the samples of a question do not depend on which questions have records already.
            Default: the global random state is used, and a training's random state is not changed.

    Returns:
        The rounds with their records: all of them in the first worker.
    """
    rounds = _rounds(tasks, recipe, seed)
    tokens, chunks, firsts = [0] * len(rounds), 0, {}

    def read() -> int:
        """Adds the records that other workers have written meanwhile, and returns their number."""
        rows = parts.read() if parts else []
        for row in rows:
            count, groups = row.pop("tokens", 0), row.pop("groups", None)
            for place, one in enumerate(rounds):
                if one.task.name == row["task"] and one.key in row:
                    one.records[row["index"]] = row
                    if groups is not None:
                        one.groups[row["index"]] = groups
                    tokens[place] += count
        return len(rows)

    def report(place: int) -> None:
        ranks.beat(run_dir)
        if progress:
            one = rounds[place]
            progress(one.answers, len(one.records), len(one.task.rows), tokens[place])

    read()
    tokens = [0] * len(rounds)  # those of an interrupted attempt took other seconds
    for place, one in enumerate(rounds):
        task, rows, known = one.task, one.task.rows, one.records
        played = played_by(engine, task.setting, rows)
        if one.of is not None and task.forcing is not None:
            played = forcing.forced_by(engine, task.forcing, one.of.groups)
        done, size = set(known), played.together(one.sampling.n)
        if one.key == "scores":
            firsts[task.name] = chunks
        if parts:  # a worker continues the answers that it has sampled
            done |= of_others(len(rows), size, firsts[task.name] if one.of else chunks)
        chunks += -(-len(rows) // size)
        for groups in _in_chunks(played.stream(task.prompts, one.sampling, done=done)):
            flat = [completion for _, group in groups for completion in group]
            of = [rows[i] for i, group in groups for _ in group]
            judged = iter(task.judge.judge(flat, of, run_dir / FAILED) if flat else [])
            for i, group in groups:
                known[i] = one.record(i, group, [next(judged) for _ in group])
                count = sum(records.own_tokens(completion) for completion in group)
                tokens[place] += count
                row = known[i] | {"tokens": count}
                if task.forcing and one.key == "scores":
                    one.groups[i] = [(completion.token_ids, completion.truncated) for completion in group]
                    row |= {"groups": one.groups[i]}
                if parts:
                    parts.append(row)
            read()
            report(place)
    while parts and ranks.is_main() and not all(one.complete for one in rounds):
        time.sleep(POLL)
        place = next(place for place, one in enumerate(rounds) if not one.complete)
        if read():
            report(place)
    return rounds


def scored(rounds: list[Round]) -> tuple[dict, list[dict]]:
    """Returns the scores of an evaluation, and one record per question with its scores, for paired comparisons."""
    made: dict[str, dict[int, dict]] = {}
    for one in rounds:
        of_task = made.setdefault(one.task.name, {})
        for i in range(len(one.task.rows)):
            of_task[i] = of_task.get(i, {}) | one.records[i]
    questions = [record for of_task in made.values() for record in of_task.values()]
    return scores_of(questions), questions


def scores_of(questions: list[dict]) -> dict:
    """Returns the scores by task, and by subtask, such as `knights_knaves/2ppl`, from the records of all questions."""
    result = {}
    for name in dict.fromkeys(record["task"] for record in questions):
        made = [record for record in questions if record["task"] == name]
        result[name] = records.figures(made)
        subtasks = sorted({record["subtask"] for record in made} - {name})
        for subtask in subtasks if len(subtasks) > 1 else []:
            result[subtask] = records.figures([record for record in made if record["subtask"] == subtask])
    return result


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
