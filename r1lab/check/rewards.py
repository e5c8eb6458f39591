"""What rewards give on real rows: to right answers, to none, and to turns that have fooled graders."""

import dataclasses
import signal
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from r1lab import lookup
from r1lab.check.exploits import FORMS, Exploit, exploits, right_turns
from r1lab.check.seen import Seen
from r1lab.errors import UserError
from r1lab.evaluation import forms
from r1lab.findings import Finding
from r1lab.grading import grader as graders
from r1lab.grading.grader import Graded, Grader
from r1lab.models.prompts import wording
from r1lab.rewards.facts import facts, facts_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FOOLED = 16  # rows that exploits are tried on
PROGRAMS = 4  # rows that are looked at where a reward runs programs, a process each
DEADLINE = 20.0  # CPU seconds for a batch of at most ROWS completions, and for one alone
CAP = 120.0  # the same by the wall clock, for what sleeps
SOME = 0.1  # the share of rows from which an answer that may be right by chance counts


def reward_findings(seen: Seen) -> list[Finding]:
    """What each reward of a stage gives to right answers, through the tokenizer and back, and to exploits."""
    prefill = seen.rendered[0][1] if seen.rendered else ""
    specs, found = [], []
    for index, reward in enumerate(seen.rewards):
        known = facts_of(reward.name)
        if known and known.asks:  # a server, or a model that may not be there yet
            what = f"{reward.name}: asks a {known.asks}, which was not done"
            found.append(Finding("ok", "rewards", what, keys=("rewards", index)))
        else:
            specs.append((index, reward.model_dump(exclude_none=True)))
    if not specs:
        return found
    if any(known.runs_programs for _, spec in specs if (known := facts_of(spec["name"]))):
        seen = dataclasses.replace(seen, rows=seen.rows[:: max(1, len(seen.rows) // PROGRAMS)][:PROGRAMS])
    try:
        grader = graders.build([spec for _, spec in specs], prefill=prefill)
        try:
            with deadline(DEADLINE if any(map(_of_the_user, grader.functions)) else 0):  # r1lab's own have theirs
                return found + _found(seen, grader, [index for index, _ in specs])
        except _TooLong:
            return found + [_slow(seen, grader)]
    except UserError as error:
        return found + [_of_a_reward(problem, seen) for problem in error.problems]


def _found(seen: Seen, grader: Grader, places: list[int]) -> list[Finding]:
    found = [_of_a_reward(f"rewards: {p.removeprefix('data: ')}", seen) for p in grader.gold_problems(seen.rows)]
    if found:
        left = [row for row in seen.rows if not grader.gold_problems([row])]
        seen = dataclasses.replace(seen, rows=left)
    if not seen.rows:
        return found
    best, more = _gold(seen, grader, places)
    found += more
    if not any(finding.verdict == "error" for finding in found):
        found += _fooled(seen, grader, places, best)
    return found


class _TooLong(BaseException):
    """Not an Exception: the grader takes those of a reward for the reward's failure on a row."""


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Ends what runs in the main thread when this process has used some seconds of CPU time, 0 for never.

    What sleeps is ended at `CAP`. C code that does not return to Python is not ended. The signal is one that rewards
    leave alone: those with timeouts of their own use SIGALRM.
    """

    def ring(number, frame):
        raise _TooLong

    if not seconds:
        yield
        return
    before = signal.signal(signal.SIGPROF, ring)
    asleep = threading.Timer(CAP, signal.pthread_kill, (threading.main_thread().ident, signal.SIGPROF))
    asleep.daemon = True
    asleep.start()
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        asleep.cancel()
        asleep.join()  # one that was ringing already must do so before the handler is gone
        signal.signal(signal.SIGPROF, before)


def _slow(seen: Seen, grader: Grader) -> Finding:
    """Of rewards that take too long for all rows: whether they end for one completion, which is slow and works."""
    fix = "give what is slow a deadline"
    row, began, count = seen.rows[0], time.process_time(), 0
    tried = [("a right answer", turn) for turn in right_turns(row, grader.prefill).values()]
    tried += [(e.name, e.text) for e in exploits(row, _same_task(seen, 0), grader.prefill, seed=0)]
    for name, text in tried:
        try:
            with deadline(DEADLINE):
                grader.grade([text], [row], _ids(seen, [text]))
        except _TooLong:
            what = f"they take over {DEADLINE:.0f} s of CPU time for one completion ({name}), or never end"
            return Finding("error", "rewards", what, fix, ("rewards",))
        count += 1
        if time.process_time() - began > DEADLINE:
            break
    each = (time.process_time() - began) / count
    what = f"they take {each:.2g} s of CPU time for a completion, too long to try them on {len(seen.rows)} rows"
    return Finding("warning", "rewards", what, fix, ("rewards",))


def _of_a_reward(problem: str, seen: Seen) -> Finding:
    """A line of the grader's as a finding, beside the reward that it names."""
    text = problem.removeprefix("rewards: ")
    names = [reward.name for reward in seen.rewards]
    index = next((i for i, name in enumerate(names) if text.startswith(name)), None)
    keys = ("rewards",) if index is None else ("rewards", index)
    fix = "leave such rows out, or correct their answer" if "cannot grade" in text else ""
    rows = f" {len(seen.rows)} of {len(seen.rows)} rows"
    verdict = "warning" if "cannot grade" in text and rows not in text else "error"
    return Finding(verdict, "rewards", text, fix, keys)


def _ids(seen: Seen, turns: list[str]) -> list[list[int]]:
    """The tokens of turns; their words where the tokenizer is not there."""
    if seen.tokenizer is None:
        return [[hash(word) for word in turn.split()] for turn in turns]
    return seen.tokenizer(turns, add_special_tokens=False)["input_ids"] if turns else []


@dataclass(frozen=True)
class _Turn:
    """A right turn of a row with what each reward gives it and why."""

    form: str
    text: str
    total: float
    right: bool
    values: dict[str, float | None]
    reasons: dict[str, str]


def _gold(seen: Seen, grader: Grader, places: list[int]) -> tuple[dict[int, _Turn], list[Finding]]:
    """The right turn of each row in the form that pays most, by the row's number, and what is found of them."""
    turns = {i: good for i, row in enumerate(seen.rows) if (good := right_turns(row, grader.prefill))}
    if not turns:
        return {}, [Finding("ok", "rewards", "no row tells a right answer to try them on", keys=("rewards",))]
    best: dict[int, _Turn] = {}
    found: list[Finding] = []

    def grade(form: str, numbers: list[int]) -> list[_Turn]:
        texts = [turns[i][form] for i in numbers]
        graded = grader.grade(texts, [seen.rows[i] for i in numbers], _ids(seen, texts))
        found.extend(_failures(graded, places, "a right answer"))
        made = []
        for k, i in enumerate(numbers):
            values = {name: of[k] for name, of in graded.values.items()}
            reasons = {name: of[k] for name, of in graded.reasons.items()}
            made.append(_Turn(form, texts[k], graded.totals[k], graded.right[k], values, reasons))
            if i not in best or (made[-1].right, made[-1].total) > (best[i].right, best[i].total):
                best[i] = made[-1]
        return made

    # The form that pays most on some rows first; the others only for rows on which that one is not right.
    some = list(turns)[:: max(1, len(turns) // FOOLED)]
    tried = {form: grade(form, some) for form in FORMS}
    for form in sorted(FORMS, key=lambda form: -statistics.fmean(turn.total for turn in tried[form])):
        left = [i for i in turns if i not in best or not best[i].right]
        if left and not found:
            grade(form, left)
    if not found:
        found += _marks(seen, grader, places, best, tried)
    if not any(finding.verdict == "error" for finding in found) and seen.tokenizer is not None:
        found += _through_the_tokenizer(seen, seen.tokenizer, grader, best)
    return best, list(dict.fromkeys(found))


def _marks(
    seen: Seen, grader: Grader, places: list[int], best: dict[int, _Turn], tried: dict[str, list[_Turn]]
) -> list[Finding]:
    """Whether right answers get their marks, and in which form."""
    found = []
    for name, function, place in zip(grader.names, grader.functions, places):
        keys, mine = ("rewards", place), {i: turn for i, turn in best.items() if turn.values[name] is not None}
        late = [i for i, turn in mine.items() if turn.reasons[name] == "timeout"]
        if late:
            what = f"{name}: {len(late)} of {len(mine)} right answers take longer than their limit, and score 0"
            found.append(Finding("warning", "rewards", what, "set a longer one, or leave such rows out", keys))
            mine = {i: turn for i, turn in mine.items() if i not in late}
        if not mine:
            continue
        given = [value for turn in mine.values() if (value := turn.values[name]) is not None]
        told = f"{min(given):.3g}" if min(given) == max(given) else f"{min(given):.3g} to {max(given):.3g}"
        wrong = [i for i in mine if not _right(mine[i].values[name])]
        if not _reads_gold(function):
            known = facts(function)
            if max(given) <= 0 and known and known.looks_for == "form":
                why = next(iter(mine.values())).reasons[name]
                found.append(Finding("error", "rewards", f"{name}: gives a well-formed turn {told} ({why})", "", keys))
            else:
                found.append(Finding("ok", "rewards", f"{name}: gives right answers {told}", keys=keys))
        elif wrong:
            value, why = mine[wrong[0]].values[name], mine[wrong[0]].reasons[name].partition(":")[0]
            shown = " ".join(str(seen.rows[wrong[0]].get("answer")).split())[:60]
            what = f"{name}: the rows' own answer is not right on {len(wrong)} of {len(given)} rows:"
            what += f" at most {value:.3g} for {shown!r}" + (f" ({why})" if why else "")
            # What a user's reward means by its values is known of the first alone, which tells what is right.
            none = len(wrong) == len(given) and (place == 0 or not _of_the_user(function))
            verdict = "error" if none else "warning"
            fix = "fix it, or the rows" if _of_the_user(function) else "name a reward for such answers"
            found.append(Finding(verdict, "rewards", what, fix, keys))
        else:
            form = Counter(turn.form for turn in mine.values()).most_common(1)[0][0]
            what = f"{name}: gives the right answer {told} on {len(given)} of {len(given)} rows, as {form}"
            found += [Finding("ok", "rewards", what, keys=keys), *_asked_for(seen, name, place, form, tried)]
    return found


def _asked_for(seen: Seen, name: str, place: int, form: str, tried: dict[str, list[_Turn]]) -> list[Finding]:
    """Whether the form that the prompt asks for is one that the reward reads."""
    tagged = [turn.values[name] for of, turns in tried.items() if "<answer>" in of for turn in turns]
    asks = seen.prompt is not None and forms.tagged(wording(**seen.prompt.model_dump()))
    if not asks or any(_right(value) for value in tagged) or set(tagged) == {None}:
        return []
    what = f"{name}: reads a right answer as {form} only, and the prompt asks for <answer> … </answer>"
    return [Finding("error", "rewards", what, "name a reward that reads both, as accuracy", ("rewards", place))]


def _through_the_tokenizer(
    seen: Seen, tokenizer: "PreTrainedTokenizerBase", grader: Grader, best: dict[int, _Turn]
) -> list[Finding]:
    """Whether a right turn keeps its marks when it comes out of the tokenizer, as every completion does."""
    rows, texts = [seen.rows[i] for i in best], [turn.text for turn in best.values()]
    ids = _ids(seen, texts)
    back = tokenizer.batch_decode(ids, skip_special_tokens=True)
    graded = grader.grade(back, rows, ids)
    lost = [k for k, turn in enumerate(best.values()) if back[k] != texts[k] and graded.totals[k] < turn.total - 1e-6]
    if not lost:
        return [Finding("ok", "rewards", f"{len(texts)} right answers keep their marks through the tokenizer")]
    k = lost[0]
    at = next((n for n, (a, b) in enumerate(zip(texts[k], back[k])) if a != b), min(len(texts[k]), len(back[k])))
    here = f"{texts[k][max(0, at - 12) : at + 16]!r} comes back as {back[k][max(0, at - 12) : at + 16]!r}"
    what = f"{len(lost)} of {len(texts)} right answers lose marks in the tokenizer: {here}"
    fix = "correct its tokenizer_config.json: such text must be no special token, and spaces must stay"
    verdict = "error" if len(lost) == len(texts) else "warning"
    return [Finding(verdict, "rewards", what, fix, ("model", "path"))]


def _fooled(seen: Seen, grader: Grader, places: list[int], best: dict[int, _Turn]) -> list[Finding]:
    """Exploits that score as right answers do."""
    step = max(1, len(seen.rows) // FOOLED)
    numbers = range(0, len(seen.rows), step)
    tried = [(i, e) for i in numbers for e in exploits(seen.rows[i], _same_task(seen, i), grader.prefill, seed=i)]
    texts = [e.text for _, e in tried]
    graded = grader.grade(texts, [seen.rows[i] for i, _ in tried], _ids(seen, texts))
    found = _failures(graded, places, "such a turn", [e.name for _, e in tried])
    if found:
        return found
    totals = {i: best[i].total for i in numbers if i in best}
    for name, function, place in zip(grader.names, grader.functions, places):
        marks = [graded.values[name][k] for k, (i, _) in enumerate(tried) if i in totals or not best]
        given = {*marks, *(best[i].values[name] for i in totals)} - {None}
        if len(given) == 1 and _of_the_user(function):
            what = f"{name}: gives {given.pop():.3g} to everything, right answers and exploits alike"
            found.append(
                Finding("warning", "rewards", what, "it can teach nothing if it never differs", ("rewards", place))
            )
        rows = [row for row in seen.rows if graders.applies(seen.rewards[place].tasks, row.get("task"))]
        if not given and rows and _of_the_user(function):
            what = f"{name}: gives None to everything, so it counts nothing on any of {len(rows)} rows"
            found.append(
                Finding("warning", "rewards", what, "return a number for each completion", ("rewards", place))
            )
        if not _reads_gold(function):
            continue
        scored = Counter(e.name for k, (i, e) in enumerate(tried) if i in totals and _right(graded.values[name][k]))
        count = Counter(e.name for i, e in tried if i in totals)
        kinds = {e.name: e for _, e in tried}
        fooled = [e for e in scored if kinds[e].surely or scored[e] > SOME * count[e]]
        published = _mode(function) in (known.as_published if (known := facts(function)) else ())
        for holds in (False, True):
            some = [kind for kind in fooled if kinds[kind].holds_gold == holds]
            if some:
                more = f" and {len(some) - 4} more" if len(some) > 4 else ""
                rows_told = f"{max(scored[kind] for kind in some)} of {count[some[0]]} rows"
                what = f"{name}: scores as right on {rows_told}: {', '.join(some[:4])}{more}"
                verdict = "ok" if published else "warning" if holds else "error"
                fix = "as published; mode: strict does not" if published else "fix it: a policy finds that first"
                found.append(Finding(verdict, "rewards", what, fix, ("rewards", place)))
        if not fooled and count:
            what = f"{name}: {len(count)} kinds of exploits score less than right on {len(totals)} rows"
            found.append(Finding("ok", "rewards", what, keys=("rewards", place)))
    if not any(_reads_gold(function) for function in grader.functions):
        return found + [Finding("ok", "rewards", "none of them tells right from wrong", keys=("rewards",))]
    return found + ([] if any(f.verdict == "error" for f in found) else _totals(tried, graded, totals))


def _totals(tried: list[tuple[int, Exploit]], graded: Graded, totals: dict[int, float]) -> list[Finding]:
    """Exploits whose rewards together are as much as a right answer's."""
    above = Counter(
        e.name for k, (i, e) in enumerate(tried) if i in totals and e.surely and graded.totals[k] >= totals[i]
    )
    if not above or max(totals.values()) <= 0:  # weights that leave nothing to learn are told by themselves
        return []
    kind, n = above.most_common(1)[0]
    of = sum(i in totals and e.name == kind for i, e in tried)
    k, i = next((k, i) for k, (i, e) in enumerate(tried) if e.name == kind and graded.totals[k] >= totals.get(i, 1e9))
    what = f"{kind} gets {graded.totals[k]:.3g} in all, a right answer {totals[i]:.3g}, on {n} of {of} rows"
    return [Finding("error", "rewards", what, "change the weights: being right must pay most", ("rewards",))]


def _failures(graded: Graded, places: list[int], what: str, names: list[str] | None = None) -> list[Finding]:
    """Rewards that raise, or give what is no number."""
    found = []
    for name, place in zip(graded.values, places):
        failed = [i for i, reason in enumerate(graded.reasons[name]) if reason.startswith("error: ")]
        if failed:
            on = names[failed[0]] if names and failed[0] < len(names) else what
            why = graded.reasons[name][failed[0]].removeprefix("error: ")
            zero = graded.values[name][failed[0]] is not None
            message = f"{name}: fails on {on}: {why}"
            fix = "handle it: the run would end there" if not zero else "handle it: on_error scores it 0"
            found.append(Finding("warning" if zero else "error", "rewards", message, fix, ("rewards", place)))
    return found


def _same_task(seen: Seen, i: int) -> list[dict]:
    task = seen.rows[i].get("task")
    return [row for k, row in enumerate(seen.rows) if k != i and row.get("task") == task][:64]


def _right(value: float | None) -> bool:
    return value is not None and value >= 1


def _whole(function: Callable) -> Callable:
    return getattr(function, "func", function)


def _mode(function: Callable) -> object:
    return getattr(function, "keywords", {}).get("mode")


def _of_the_user(function: Callable) -> bool:
    return not graders.is_own(function)


def _reads_gold(function: Callable) -> bool:
    """Whether a reward tells right from wrong: it reads the gold of the rows."""
    return bool({"answer", "target", "tests"} & set(lookup.columns(_whole(function))))
