"""The output at the end of a run: completions, accuracy before and after, the curve, and paths."""

import shlex
from pathlib import Path

from rich.console import Console
from rich.text import Text

from r1lab.errors import UserError
from r1lab.evaluation import comparison
from r1lab.evaluation.records import families
from r1lab.recipe.schema import on_policy, trains
from r1lab.report import learning_curve
from r1lab.run.display import rows_by_step
from r1lab.rundir import directory, storage
from r1lab.text import duration, number, part_of_steps, percent, shortened

LABEL, VALUE = 14, 20  # column widths: three columns of values end before column 80
COMPLETIONS = 3
_FORMS = ("strict", "lenient")  # accuracy in the format that the prompt requires, and in any format


def stage_line(name: str, kind: str, path: Path, result: dict, seconds: float) -> str:
    """The result of a finished stage in one line. `seconds` is its duration, including the start of its process."""
    rows = train_rows(path)
    steps = f"{rows[-1]['step']} steps " if rows else ""
    parts = [f"{name}  {kind} {steps}in {duration(seconds)}"]
    if kind == "eval":
        for task, scores in families(result).items():
            greedy = f", greedy {percent(scores.get('greedy'))}" if scores.get("greedy") is not None else ""
            parts.append(f"{task} {percent(scores.get('avg'), scores.get('ci95'))} %{greedy}")
    elif rows:
        key = "reward" if "reward" in rows[-1] else "loss"
        parts.append(f"{key} {_change(rows, key)}")
        if "length" in rows[-1]:
            parts.append(f"length {_change(rows, 'length', 0)}")
    elif "kept" in result:
        parts.append(f"{result['kept']:,} of {result['sampled']:,} samples kept")
    return "  ".join(parts)


def train_rows(path: Path) -> list[dict]:
    """The training metrics of a stage, one row per step."""
    rows = storage.read_jsonl(path / "metrics.jsonl")
    return rows_by_step([row for row in rows if row.get("phase") == "train" and row.get("step") is not None])


def _change(rows: list[dict], key: str, digits: int = 2) -> str:
    """The mean of the first tenth of the steps → the mean of the last tenth."""
    values = [row[key] for row in rows if row.get(key) is not None]
    if not values:
        return "-"
    tenth = max(1, len(values) // 10)
    first, last = sum(values[:tenth]) / tenth, sum(values[-tenth:]) / tenth
    return f"{number(first, digits)} → {number(last, digits)}"


def accuracy_table(columns: list[tuple[str, dict]], compare: list[dict]) -> Text:
    """Accuracy of one or more evaluations side by side, task by task, with what changed if there are two.

    Args:
        columns: Names and results of eval stages, the earlier first.
        compare: The rows of a pipeline's `compare` for these two.
    """
    changes = {(row["task"], row["metric"]): row for row in compare}
    heads = [name for name, _ in columns] + (["difference"] if changes else [])
    table = Text(f"{'':{LABEL}}" + "".join(f"{head[: VALUE - 2]:{VALUE}}" for head in heads).rstrip() + "\n", "bold")
    for task in dict.fromkeys(task for _, result in columns for task in result.get("tasks", {})):
        results = [result.get("tasks", {}).get(task, {}) for _, result in columns]
        counts = dict.fromkeys(str(scores["n_questions"]) for scores in results if "n_questions" in scores)
        table.append(task, "bold cyan")
        table.append(f" · {' / '.join(counts)} question{'s' * (list(counts) != ['1'])}\n", "dim")
        samples = next((scores["n_samples"] for scores in results if "n_samples" in scores), None)
        plain = [key for scores in results for key in scores if key.startswith(("pass@", "maj@")) and samples != 1]
        _row(table, f"avg@{samples}" if samples else "avg", [_accuracy(s, "avg", "ci95") for s in results],
             changes.get((task, "avg")))  # fmt: skip
        if any(scores.get("greedy") is not None for scores in results):
            _row(table, "greedy", [_accuracy(s, "greedy", "greedy_ci95") for s in results],
                 changes.get((task, "greedy")))  # fmt: skip
        for key in dict.fromkeys(plain):
            _row(table, key, [percent(scores.get(key)) for scores in results])
        if "/" in task:
            continue
        if any(scores.get(key, scores["avg"]) != scores["avg"] for scores in results if scores for key in _FORMS):
            for key in _FORMS:
                _row(table, key, [_accuracy(scores, key, f"{key}_ci95") for scores in results],
                     changes.get((task, key)))  # fmt: skip
        if any(scores.get("format", 1) < 1 for scores in results):
            _row(table, "format ok", [percent(scores.get("format")) for scores in results])
        for name in dict.fromkeys(name for scores in results for name in scores.get("rewards", {})):
            _row(table, name, [number(scores.get("rewards", {}).get(name)) for scores in results])
        if any(scores.get("truncated") for scores in results):
            _row(table, "truncated", [percent(scores.get("truncated")) for scores in results])
        if any(scores.get("timeouts") for scores in results):
            _row(table, "timed out", [str(scores.get("timeouts", 0)) if scores else "-" for scores in results])
            table.append("  answers that timed out count as wrong, so the scores are too low\n", "yellow")
        if any("length" in scores for scores in results):
            _row(table, "length", [number(scores.get("length"), 0) + " tokens" for scores in results])
        for kind in ("correct", "wrong", "truncated"):
            lengths = [scores.get("length_right" if kind == "correct" else f"length_{kind}") for scores in results]
            if any(length is not None for length in lengths):
                _row(table, f"  {kind}", [number(length, 0) for length in lengths])
    paired = "; differences paired by question" if changes else ""
    table.append(f"percent, 95 % intervals over questions{paired}", "dim")
    return table


def stages_tables(evals: list[tuple[str, dict]], compare: list[dict]) -> list[Text]:
    """For each task, a table with a line for each evaluation and its difference from the one it is compared with."""
    width = max(len(name) for name, _ in evals) + 2
    tables = []
    for task in dict.fromkeys(task for _, result in evals for task in families(result)):
        rows = [(name, result["tasks"][task]) for name, result in evals if task in result.get("tasks", {})]
        counts = " / ".join(dict.fromkeys(str(scores.get("n_questions", "?")) for _, scores in rows))
        samples = next((scores["n_samples"] for _, scores in rows if "n_samples" in scores), None)
        table = Text()
        table.append(task, "bold cyan")
        table.append(f" · {counts} questions\n", "dim")
        heads = f"{'':{width}}{f'avg@{samples}' if samples else 'avg':{VALUE}}{'greedy':>6}{'tokens':>8}"
        table.append(f"{heads}{'truncated':>11}  difference\n", "bold")
        for name, scores in rows:
            average, length = _accuracy(scores, "avg", "ci95"), number(scores.get("length"), 0)
            greedy, truncated = percent(scores.get("greedy")), percent(scores.get("truncated"))
            table.append(f"{name:{width}}{average:{VALUE}}{greedy:>6}{length:>8}{truncated:>11}")
            against = [r for r in compare if r["after"] == name and r["task"] == task and r["metric"] == "avg"]
            for i, change in enumerate(against):
                low, high = change["ci95"]
                style = "bold green" if low > 0 else "bold red" if high < 0 else "yellow"
                table.append("  " if i == 0 else ", ")
                table.append(percent(change["diff"], change["ci95"], signed=True), style)
                table.append(f" from {change['before']}", "dim")
            table.append("\n")
        for name, scores in rows:
            if scores.get("timeouts"):
                table.append(f"{name}: {scores['timeouts']} answers timed out, so its scores are too low\n", "yellow")
        table.append("percent, 95 % intervals over questions; differences of avg, paired by question", "dim")
        tables.append(table)
    return tables


def _accuracy(scores: dict, key: str, interval: str) -> str:
    return percent(scores.get(key), scores.get(interval))


def _row(table: Text, label: str, values: list[str], change: dict | None = None) -> None:
    if len(label) > LABEL - 4:  # the name of a reward
        label = f"{label[: LABEL - 5]}…"
    cells = "".join(f"{value:{VALUE}}" for value in values)
    table.append(f"  {label:{LABEL - 2}}" + (cells if change else cells.rstrip()))
    if change:
        low, high = change["ci95"]
        style = "bold green" if low > 0 else "bold red" if high < 0 else "yellow"
        table.append(percent(change["diff"], change["ci95"], signed=True), style)
    table.append("\n")


def training_table(path: Path, result: dict) -> Text:
    """The metrics of a training or sampling stage, one per line."""
    rows = train_rows(path)
    last = rows[-1] if rows else {}
    keys = (("reward", 3), ("length", 0), ("no_signal", 2)) if "reward" in last else (("loss", 3), ("accuracy", 3))
    metrics = [
        ("equal rewards" if key == "no_signal" else key, _change(rows, key, digits))
        for key, digits in keys
        if last.get(key) is not None
    ]
    for name in last.get("rewards", {}):
        metrics.append((f"reward {name}", _change([row.get("rewards", {}) for row in rows], name, 3)))
    for key, value in result.items():
        if isinstance(value, (int, float)) and key != "seconds":
            metrics.append((key, f"{value:,}" if isinstance(value, int) else number(value)))
    width = max((len(label) for label, _ in metrics), default=0)
    table = Text("\n".join(f"  {label:{width}}  {value}" for label, value in metrics))
    if rows:
        part = part_of_steps(len(rows), 10)
        table.append(
            f"\nmean of the first {part} → of the last" if part != "step" else "\nfirst step → last step", "dim"
        )
    return table


def completions(path: Path) -> list[tuple[int, list[dict]]]:
    """The first completions that a stage kept of its first and last step, one per prompt, without selection."""
    steps, found = directory.samples_by_step(path), []
    for step in dict.fromkeys([*list(steps)[:1], *list(steps)[-1:]]):
        kept = [row for file in steps[step] for row in storage.read_jsonl(file)]
        rows = {str(row["prompt"]): row for row in reversed(kept)}
        found.append((step, list(reversed(rows.values()))[:COMPLETIONS]))
    return found


def show_question(console: Console, before: tuple[str, Path], after: tuple[str, Path]) -> None:
    """Prints one question that the first evaluation answered wrong and the second correctly, with both answers.

    The first sampled answer to each question counts. Of the questions that changed this way, the one whose correct
    answer has the median length is shown; how many changed in each direction is printed with it.
    """
    rows = [
        {comparison.question_key(row): row for row in storage.read_jsonl(path / "samples" / "questions.jsonl")}
        for _, path in (before, after)
    ]
    shared = [(rows[0][key], rows[1][key]) for key in rows[0] if key in rows[1]]
    shared = [pair for pair in shared if all(row.get("completions") and row.get("scores") for row in pair)]
    gained = [pair for pair in shared if pair[0]["scores"][0] < 1 <= pair[1]["scores"][0]]
    lost = [pair for pair in shared if pair[1]["scores"][0] < 1 <= pair[0]["scores"][0]]
    if not gained:
        return
    pair = sorted(gained, key=lambda pair: len(pair[1]["completions"][0]))[len(gained) // 2]
    console.rule(Text("one question before and after"), align="left", style="dim")
    console.print(Text(shortened(_question(pair[0]["prompt"]), 0, 600), "cyan"))
    for (name, _), row in zip((before, after), pair):
        verdict, color = ("correct", "green") if row["scores"][0] >= 1 else ("wrong", "red")
        console.print(Text.assemble("\n", (f"{name}: {verdict}", color)))
        console.print(Text(shortened(row["completions"][0].strip(), 600, 200)))
    counts = f"{len(gained)} went from wrong to correct, {len(lost)} from correct to wrong"
    console.print(Text(f"\nfirst answers to {len(shared)} questions: {counts}\n", "dim"))


def _question(prompt: str | list[dict]) -> str:
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def show_completions(console: Console, name: str, path: Path) -> None:
    """Prints sample completions, early and late."""
    for step, rows in completions(path):
        console.rule(Text(f"{name}: completions at step {step}"), align="left", style="dim")
        for row in rows:
            console.print(Text.assemble(("> ", "bold cyan"), (shortened(_question(row["prompt"]), 0, 200), "cyan")))
            console.print(Text(shortened(row["completion"], 260, 180)))
            console.print(Text.assemble(("= ", "bold"), _verdict(row), "\n"))


def _verdict(row: dict) -> Text:
    parts = []
    for name, value in row.get("rewards", {}).items():
        reason = (row.get("reasons") or {}).get(name)
        parts.append(f"{name} {number(value, 2)}" + (f" ({reason})" if reason else ""))
    style = "green" if (row.get("reward") or 0) > 0 else "red"
    return Text.assemble((f"reward {number(row.get('reward'), 2)}", style), "  ", (", ".join(parts), "dim"))


def curve(run_dir: Path, stages: list[tuple[str, str, Path]], compare: list[dict]) -> Path | None:
    """Draws `curve.png` from the metrics of all training stages and the evaluations before, between and after.

    A line joins an evaluation to the one that it is compared with, through those of the training between them.
    """
    step, segments = 0, []
    at: dict[str, list[learning_curve.Point]] = {}  # by eval stage
    since: list[learning_curve.Point] = []  # of trainings after the last eval stage
    during: dict[str, list[learning_curve.Point]] = {}  # the same, by the eval stage that follows
    for name, kind, path in stages:
        if kind == "eval":
            at[name], during[name], since = _points(step, directory.finished_result(path)["tasks"]), since, []
        if not trains(kind):
            continue
        rows = train_rows(path)
        evals = [row for row in storage.read_jsonl(path / "metrics.jsonl") if "tasks" in row]
        since += [point for row in rows_by_step(evals) for point in _points(step + row["step"], row["tasks"])]
        segments.append(learning_curve.Segment(name, step, rows))
        step += rows[-1]["step"] if rows else 0
    pairs = dict.fromkeys((row["before"], row["after"]) for row in compare)
    lines = [at[before] + during[after] + at[after] for before, after in pairs] + [since]
    if not segments:
        return None
    title = learning_curve.headline(run_dir.name, compare)
    return learning_curve.learning_curve(run_dir / "curve.png", segments, lines, title=title)


def _points(step: int, tasks: dict[str, dict]) -> list[learning_curve.Point]:
    found = []
    for task, scores in families({"tasks": tasks}).items():
        if scores.get("avg") is not None:
            low, high = scores.get("ci95") or (scores["avg"], scores["avg"])
            series = f"{task}, {scores['n_questions']} questions" if "n_questions" in scores else task
            found.append(learning_curve.Point(step, series, scores["avg"], low, high))
    return found


def show(
    console: Console, run_dir: Path, stages: list[tuple[str, str, Path]], result: dict, *, then: str = ""
) -> None:
    """Prints the end of a run and draws its curve.

    Args:
        console: Where to print.
        run_dir: The run directory.
        stages: Name, kind and folder of each stage.
        result: The result of the run.
        then: The next command, if it does not depend on the stages.
    """
    compare = result.get("compare", [])
    picture = curve(run_dir, stages, compare)
    for name, kind, path in stages:
        if on_policy(kind):
            show_completions(console, name, path)
    folders = {name: path for name, _, path in stages}
    if compare:
        before, after = compare[0]["before"], compare[0]["after"]
        show_question(console, (before, folders[before]), (after, folders[after]))
    console.rule(Text(f"{run_dir.name}: result"), align="left", style="dim")
    results = {name: directory.finished_result(path) for name, _, path in stages}
    evals = [(name, results[name]) for name, kind, _ in stages if kind == "eval"]
    pairs = list(dict.fromkeys((row["before"], row["after"]) for row in compare))
    if len(evals) > 2:
        tables = stages_tables(evals, compare)
    else:
        tables = [
            accuracy_table([(n, results[n]) for n in pair], [r for r in compare if (r["before"], r["after"]) == pair])
            for pair in pairs
        ]
        paired = {name for pair in pairs for name in pair}
        tables += [accuracy_table([column], []) for column in evals if column[0] not in paired]
    if not evals:
        name, _, path = stages[-1]
        tables.append(training_table(path, results[name]))
    for table in tables:
        console.print(table, soft_wrap=True)
        console.print()
    _where(console, run_dir, stages, picture, then)


def _where(console: Console, run_dir: Path, stages: list, picture: Path | None, then: str = "") -> None:
    """Prints where the outputs are, and the next command."""
    took = directory.seconds(run_dir)
    lines = [("run", f"{run_dir}/  ({duration(took)})" if took else f"{run_dir}/")]
    lines += [("curve", str(picture))] if picture else []
    trained = [path for _, kind, path in stages if trains(kind) and kind != "reward"]
    if len(trained) == 1:
        lines.append(("model", f"{trained[0] / 'model'}/"))
    elif trained:
        lines.append(("models", f"{run_dir}/STAGE/model/, STAGE one of {', '.join(path.name for path in trained)}"))
    lines.append(("report", _report(run_dir)))
    lines.append(("next", then or _next(run_dir, stages, trained)))
    for label, place in lines:
        console.print(Text.assemble((f"{label:<7}", "bold"), place), soft_wrap=True)


def _report(run_dir: Path) -> str:
    """Writes the report of a run and returns its path, or the error, because a finished run must not fail here."""
    from r1lab import report

    try:
        return str(report.write([run_dir])[0])
    except (OSError, UserError) as error:
        return f"not written: {error}; to write it: r1lab report {run_dir}"


def _next(run_dir: Path, stages: list, trained: list[Path]) -> str:
    """The command that the user is likely to need next."""
    if not trained:
        return f"r1lab report {run_dir} OTHER_RUN, to compare them"
    model = trained[-1] / "model"
    if any(kind == "eval" for _, kind, _ in stages):
        return f"r1lab eval {model} --protocol {run_dir}/recipe.yaml --samples 16, for a narrower interval"
    if own := _on_own_rows(trained[-1]):
        return f"r1lab eval {model} {own}"
    # The embedded models know only the puzzles of the quickstart.
    config = run_dir / "config.yaml"
    embedded = config.is_file() and "embedded:tiny-" in config.read_text(encoding="utf-8")
    return f"r1lab eval {model} --protocol {'quickstart' if embedded else 'greedy'}, to evaluate it"


def _on_own_rows(stage: Path) -> str:
    """The options that evaluate a model on other rows of the user, if it was trained on a file; otherwise empty."""
    config = storage.read_yaml(stage / "config.yaml") if (stage / "config.yaml").is_file() else {}
    data, rewards = config.get("data") or {}, config.get("rewards") or []
    if data.get("builder", "rows") != "rows" or not rewards or not Path(str(data.get("path"))).is_file():
        return ""
    names = ", ".join(f"{ours}: {theirs}" for ours, theirs in (data.get("columns") or {}).items())
    columns = " " + shlex.quote(f"eval.tasks.0.columns={{{names}}}") if names else ""
    grader = shlex.quote(rewards[0]["name"])
    return f"--tasks OTHER_ROWS.jsonl --grader {grader} --protocol greedy{columns}, on rows that it was not trained on"
