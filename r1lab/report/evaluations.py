"""The evaluations of a run in full: strict, lenient and greedy accuracy, subtasks, pass@k and maj@n."""

from r1lab.episodes.record import ENDS
from r1lab.evaluation.records import families
from r1lab.report.content import NONE, Table, interval
from r1lab.report.read import Run, as_number, clean, section
from r1lab.text import number as shown
from r1lab.text import percent

_LENGTHS = ("length_right", "length_wrong", "length_truncated")


def evaluations_table(run: Run) -> Table | None:
    """A row for each task and subtask of each evaluation; None if no evaluation has more than an accuracy."""
    found = [(stage.name, task, scores) for stage in run.stages for task, scores in _tasks(stage.tasks).items()]
    has_greedy = any(as_number(scores.get("greedy")) is not None for _, _, scores in found)
    has_others = any(_others(scores) for _, _, scores in found)
    rows = []
    for name, task, scores in found:
        keys = ("avg", *(["greedy"] if has_greedy else []), "strict", "lenient")
        accuracy = [_percent(scores, key) for key in keys]
        shares = [percent(as_number(scores.get(key))) for key in ("format", "truncated")]
        several = [f"{clean(key)} {percent(as_number(value))}" for key, value in scores.items()
                   if key.startswith(("pass@", "maj@")) and as_number(scores.get("n_samples")) != 1]  # fmt: skip
        lengths = " / ".join(shown(as_number(scores.get(key)), 0) for key in _LENGTHS)
        means = [f"{clean(reward)} {shown(as_number(mean), 2)}" for reward, mean in _others(scores).items()]
        others = [", ".join(means)] if has_others else []
        rows.append([name, clean(task), *accuracy, *shares, ", ".join(several), lengths, *others])
    if not rows:
        return None
    greedy = ["greedy"] if has_greedy else []
    head = ["evaluation", "task", "% correct", *greedy, "strict", "lenient", "format ok", "truncated", "pass@k/maj@n",
            "tokens", *(["other rewards"] if has_others else [])]  # fmt: skip
    note = (
        "All but tokens in percent, with 95 % intervals over questions in brackets. Strict: correct and in the format "
        "that the prompt requires; lenient: correct in any format. Tokens: mean length of correct, wrong and "
        "truncated answers. Everything that a score depends on is in the stage's evaluation.json."
    )
    for name, task, scores in found:
        if "/" not in task and (late := as_number(scores.get("timeouts"))):
            note += f" {name}, {clean(task)}: {late:.0f} answers were not graded in time, so the scores are too low."
    return Table(head, rows, note)


def episodes_table(run: Run) -> Table | None:
    """A row for each task and subtask of each evaluation that played episodes; None if none did."""
    rows = []
    for stage in run.stages:
        for task, scores in stage.tasks.items():
            ends = section(scores, "ends")
            if not ends:
                continue
            hat = [f"{clean(key)} {percent(as_number(value))}" for key, value in scores.items() if "pass^" in key]
            means = [shown(as_number(scores.get(key)), 2) for key in ("turns", "calls")]
            shares = [f"{clean(end)} {percent(as_number(share))}" for end, share in ends.items()]
            failed, left = (
                percent(as_number(scores.get("call_errors"))),
                shown(as_number(scores.get("not_counted")), 0),
            )
            rows.append([stage.name, clean(task), *means, failed, ", ".join(hat), ", ".join(shares), left])
    if not rows:
        return None
    head = ["evaluation", "task", "turns", "calls", "errors", "pass^k", "ends", "not counted"]
    known = [end for end in ENDS if any(f"{end} " in row[6] for row in rows)]
    note = (
        "Turns and calls: means of an episode. Errors: the share of replies that are errors. It and the ends are in "
        "percent. pass^k: the probability in percent "
        f"that all of k samples are correct. Ends: {'; '.join(f'{end}, {ENDS[end]}' for end in known)}."
    )
    if any(row[7] != NONE for row in rows):
        note += " Not counted: episodes whose environment failed twice, which count as wrong."
    return Table(head, rows, note)


def _tasks(tasks: dict[str, dict]) -> dict[str, dict]:
    """Subtasks, and the tasks with more scores than their accuracy."""
    whole = families({"tasks": tasks})
    return {
        task: scores
        for task, scores in tasks.items()
        if task not in whole or any(as_number(scores.get(key)) is not None for key in ("strict", "greedy"))
    }


def _others(scores: dict) -> dict:
    return found if isinstance(found := scores.get("rewards"), dict) else {}


def _percent(scores: dict, key: str) -> str:
    return percent(as_number(scores.get(key)), interval(scores, "ci95" if key == "avg" else f"{key}_ci95"))
