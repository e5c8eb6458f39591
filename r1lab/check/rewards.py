"""Tries the rewards on real rows: on correct answers, and on responses that have fooled graders before."""

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
from r1lab.check import votes
from r1lab.check.exploits import Exploit, correct_responses, exploits
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
PROGRAMS = 4  # rows that are tried if a reward runs programs, each in its own process
DEADLINE = 20.0  # CPU seconds for a batch of at most ROWS completions, and for a single one
CAP = 120.0  # the same in wall-clock time, for rewards that sleep
SOME = 0.1  # the share of rows above which an exploit that may be correct by chance counts


def reward_findings(seen: Seen) -> list[Finding]:
    """The scores of each reward for correct answers, before and after encoding and decoding, and for exploits."""
    prefill = seen.rendered[0][1] if seen.rendered else ""
    specs, found = [], []
    for index, reward in enumerate(seen.rewards):
        known = facts_of(reward.name)
        if known and known.asks:  # a server, or a model that may not exist yet
            what = f"{reward.name}: needs a {known.asks}, so it was not tried"
            found.append(Finding("ok", "rewards", what, keys=("rewards", index)))
        elif lookup.needs_episodes(lookup.function("rewards", reward.name)):
            what = f"{reward.name}: grades episodes, so it was not tried on single turns"
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
            with deadline(DEADLINE if any(map(_of_the_user, grader.functions)) else 0):  # r1lab's own have timeouts
                return found + _found(seen, grader, [index for index, _ in specs])
        except TooLong:
            return found + [_slow(seen, grader)]
    except UserError as error:
        return found + [_as_finding(problem, seen) for problem in error.problems]


def _found(seen: Seen, grader: Grader, places: list[int]) -> list[Finding]:
    found = [_as_finding(f"rewards: {p.removeprefix('data: ')}", seen) for p in grader.gold_problems(seen.rows)]
    if found:
        gradable = [row for row in seen.rows if not grader.gold_problems([row])]
        seen = dataclasses.replace(seen, rows=gradable)
    if not seen.rows:
        return found
    best, more = _gold(seen, grader, places)
    found += more
    if not any(finding.verdict == "error" for finding in found):
        found += _exploited(seen, grader, places, best)
    return found


class TooLong(BaseException):
    """Not an Exception, because the grader treats those of a reward as its failure on a row."""


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Interrupts the main thread when this process has used some seconds of CPU time; 0 means never.

    Code that sleeps is interrupted at `CAP`. C code that does not return to Python is not interrupted. The signal
    does not interfere with rewards that have their own timeouts, because those use SIGALRM.
    """

    def ring(number, frame):
        raise TooLong

    if not seconds:
        yield
        return
    before = signal.signal(signal.SIGPROF, ring)
    cap = threading.Timer(CAP, signal.pthread_kill, (threading.main_thread().ident, signal.SIGPROF))
    cap.daemon = True
    cap.start()
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        cap.cancel()
        cap.join()  # if it has already fired, its signal must arrive before the handler is removed
        signal.signal(signal.SIGPROF, before)


def _slow(seen: Seen, grader: Grader) -> Finding:
    """For rewards that take too long on all rows: whether they finish on a single completion, so are only slow."""
    fix = "make the slow reward faster, or give it a timeout"
    row, began, count = seen.rows[0], time.process_time(), 0
    tried = [("a correct answer", text) for text in correct_responses(row, grader.prefill).values()]
    tried += [(e.name, e.text) for e in exploits(row, _same_task(seen, 0), grader.prefill, seed=0)]
    for name, text in tried:
        try:
            with deadline(DEADLINE):
                grader.grade([text], [row], _ids(seen, [text]))
        except TooLong:
            what = f"the rewards take over {DEADLINE:.0f} s of CPU time for one completion ({name}), or never end"
            return Finding("error", "rewards", what, fix, ("rewards",))
        count += 1
        if time.process_time() - began > DEADLINE:
            break
    each = (time.process_time() - began) / count
    what = f"the rewards take {each:.2g} s of CPU time per completion, too long to try them on {len(seen.rows)} rows"
    return Finding("warning", "rewards", what, fix, ("rewards",))


def _as_finding(problem: str, seen: Seen) -> Finding:
    """A problem that the grader reports, as a finding at the reward that it names."""
    text = problem.removeprefix("rewards: ")
    names = [reward.name for reward in seen.rewards]
    index = next((i for i, name in enumerate(names) if text.startswith(name)), None)
    keys = ("rewards",) if index is None else ("rewards", index)
    fix = "remove these rows, or correct their answers" if "cannot grade" in text else ""
    rows = f" {len(seen.rows)} of {len(seen.rows)} rows"
    verdict = "warning" if "cannot grade" in text and rows not in text else "error"
    return Finding(verdict, "rewards", text, fix, keys)


def _ids(seen: Seen, texts: list[str]) -> list[list[int]]:
    """The tokens of texts; their words if there is no tokenizer."""
    if seen.tokenizer is None:
        return [[hash(word) for word in text.split()] for text in texts]
    return seen.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []


@dataclass(frozen=True)
class _Response:
    """A correct response to a row, with the score and the reason of each reward."""

    form: str
    text: str
    total: float
    correct: bool
    values: dict[str, float | None]
    reasons: dict[str, str]


def _gold(seen: Seen, grader: Grader, places: list[int]) -> tuple[dict[int, _Response], list[Finding]]:
    """The correct response to each row in the format that scores highest, by row number, and the findings."""
    responses = {i: of for i, row in enumerate(seen.rows) if (of := correct_responses(row, grader.prefill))}
    if not responses:
        what = "no row has a gold answer, so the rewards were not tried"
        return {}, [Finding("ok", "rewards", what, keys=("rewards",))]
    best: dict[int, _Response] = {}
    found: list[Finding] = []

    def grade(form: str, numbers: list[int]) -> list[_Response]:
        numbers = [i for i in numbers if form in responses[i]]  # calls of tools have forms of their own
        if not numbers:
            return []
        texts = [responses[i][form] for i in numbers]
        graded = grader.grade(texts, [seen.rows[i] for i in numbers], _ids(seen, texts))
        found.extend(_failures(graded, places, "a correct answer"))
        made = []
        for k, i in enumerate(numbers):
            values = {name: of[k] for name, of in graded.values.items()}
            reasons = {name: of[k] for name, of in graded.reasons.items()}
            made.append(_Response(form, texts[k], graded.totals[k], graded.right[k], values, reasons))
            if i not in best or (made[-1].correct, made[-1].total) > (best[i].correct, best[i].total):
                best[i] = made[-1]
        return made

    # First the format that scores highest on some rows; the others only for rows on which it is not correct.
    some = list(responses)[:: max(1, len(responses) // FOOLED)]
    tried = {form: grade(form, some) for form in dict.fromkeys(form for of in responses.values() for form in of)}
    for form in sorted(tried, key=lambda form: -statistics.fmean([response.total for response in tried[form]] or [0])):
        left = [i for i in responses if i not in best or not best[i].correct]
        if left and not found:
            grade(form, left)
    if not found:
        found += _scores(seen, grader, places, best, tried)
    if not any(finding.verdict == "error" for finding in found) and seen.tokenizer is not None:
        found += _through_the_tokenizer(seen, seen.tokenizer, grader, best)
    return best, list(dict.fromkeys(found))


def _scores(
    seen: Seen, grader: Grader, places: list[int], best: dict[int, _Response], tried: dict[str, list[_Response]]
) -> list[Finding]:
    """Whether correct answers score as correct, and in which format."""
    found = []
    for name, function, place in zip(grader.names, grader.functions, places):
        keys, mine = ("rewards", place), {i: of for i, of in best.items() if of.values[name] is not None}
        late = [i for i, response in mine.items() if response.reasons[name] == "timeout"]
        if late:
            what = f"{name}: {len(late)} of {len(mine)} correct answers exceed the reward's time limit and score 0"
            found.append(Finding("warning", "rewards", what, "set a longer limit, or remove these rows", keys))
            mine = {i: response for i, response in mine.items() if i not in late}
        if not mine:
            continue
        given = [value for response in mine.values() if (value := response.values[name]) is not None]
        span = f"{min(given):.3g}" if min(given) == max(given) else f"{min(given):.3g} to {max(given):.3g}"
        wrong = [i for i in mine if not _full(mine[i].values[name])]
        if not _reads_gold(function):
            known = facts(function)
            if max(given) <= 0 and known and known.looks_for == "form":
                why = next(iter(mine.values())).reasons[name]
                what = f"{name}: scores a well-formed response {span} ({why})"
                found.append(Finding("error", "rewards", what, "", keys))
            else:
                found.append(Finding("ok", "rewards", f"{name}: scores correct answers {span}", keys=keys))
        elif wrong:
            value, why = mine[wrong[0]].values[name], mine[wrong[0]].reasons[name].partition(":")[0]
            shown = " ".join(str(seen.rows[wrong[0]].get("answer")).split())[:60]
            what = f"{name}: the gold answer does not score as correct on {len(wrong)} of {len(given)} rows:"
            what += f" at most {value:.3g} for {shown!r}" + (f" ({why})" if why else "")
            # Only a user's first reward is known to decide what is correct; values of others may mean anything.
            none = len(wrong) == len(given) and (place == 0 or not _of_the_user(function))
            verdict = "error" if none else "warning"
            fix = "fix the reward or the rows" if _of_the_user(function) else "use a reward for such answers"
            found.append(Finding(verdict, "rewards", what, fix, keys))
        else:
            form = Counter(response.form for response in mine.values()).most_common(1)[0][0]
            what = f"{name}: scores the gold answer {span} on {len(given)} of {len(given)} rows, as {form}"
            found += [Finding("ok", "rewards", what, keys=keys), *_prompted_format(seen, name, place, form, tried)]
    return found


def _prompted_format(seen: Seen, name: str, place: int, form: str, tried: dict[str, list[_Response]]) -> list[Finding]:
    """Whether the reward accepts the answer format that the prompt requests."""
    tagged = [response.values[name] for of, several in tried.items() if "<answer>" in of for response in several]
    requested = seen.prompt is not None and forms.tagged(wording(**seen.prompt.model_dump()))
    if not requested or any(_full(value) for value in tagged) or set(tagged) <= {None}:
        return []
    what = f"{name}: accepts a correct answer only as {form}, but the prompt requests <answer> … </answer>"
    return [Finding("error", "rewards", what, "use a reward that accepts both, such as accuracy", ("rewards", place))]


def _through_the_tokenizer(
    seen: Seen, tokenizer: "PreTrainedTokenizerBase", grader: Grader, best: dict[int, _Response]
) -> list[Finding]:
    """Whether a correct response scores the same after encoding and decoding, since every completion is decoded."""
    rows, texts = [seen.rows[i] for i in best], [response.text for response in best.values()]
    ids = _ids(seen, texts)
    back = tokenizer.batch_decode(ids, skip_special_tokens=True)
    graded = grader.grade(back, rows, ids)
    lost = [k for k, of in enumerate(best.values()) if back[k] != texts[k] and graded.totals[k] < of.total - 1e-6]
    if not lost:
        return [Finding("ok", "rewards", f"{len(texts)} correct answers score the same after encoding and decoding")]
    k = lost[0]
    at = next((n for n, (a, b) in enumerate(zip(texts[k], back[k])) if a != b), min(len(texts[k]), len(back[k])))
    here = f"{texts[k][max(0, at - 12) : at + 16]!r} becomes {back[k][max(0, at - 12) : at + 16]!r}"
    what = f"{len(lost)} of {len(texts)} correct answers score lower after encoding and decoding: {here}"
    fix = "fix its tokenizer_config.json, so that such text is not a special token and spaces are kept"
    verdict = "error" if len(lost) == len(texts) else "warning"
    return [Finding(verdict, "rewards", what, fix, ("model", "path"))]


def _exploited(seen: Seen, grader: Grader, places: list[int], best: dict[int, _Response]) -> list[Finding]:
    """Exploits that score as high as correct answers."""
    step = max(1, len(seen.rows) // FOOLED)
    numbers = range(0, len(seen.rows), step)
    tried = [(i, e) for i in numbers for e in exploits(seen.rows[i], _same_task(seen, i), grader.prefill, seed=i)]
    texts = [e.text for _, e in tried]
    graded = grader.grade(texts, [seen.rows[i] for i, _ in tried], _ids(seen, texts))
    found = _failures(graded, places, "such a response", [e.name for _, e in tried])
    if found:
        return found
    totals = {i: best[i].total for i in numbers if i in best}
    for name, function, place in zip(grader.names, grader.functions, places):
        values = [graded.values[name][k] for k, (i, _) in enumerate(tried) if i in totals or not best]
        given = {*values, *(best[i].values[name] for i in totals)} - {None}
        if len(given) == 1 and _of_the_user(function):
            what = f"{name}: gives {given.pop():.3g} to everything, correct answers and exploits alike"
            fix = "a reward that never differs teaches nothing"
            found.append(Finding("warning", "rewards", what, fix, ("rewards", place)))
        rows = [row for row in seen.rows if graders.applies(seen.rewards[place].tasks, row.get("task"))]
        if not given and rows and _of_the_user(function):
            what = f"{name}: gives None to everything, so it has no effect on any of {len(rows)} rows"
            found.append(
                Finding("warning", "rewards", what, "return a number for each completion", ("rewards", place))
            )
        if not _reads_gold(function):
            continue
        scored = Counter(e.name for k, (i, e) in enumerate(tried) if i in totals and _full(graded.values[name][k]))
        count = Counter(e.name for i, e in tried if i in totals)
        kinds = {e.name: e for _, e in tried}
        fooled = [e for e in scored if kinds[e].always_wrong or scored[e] > SOME * count[e]]
        published = _mode(function) in (known.as_published if (known := facts(function)) else ())
        for contains_gold in (False, True):
            some = [kind for kind in fooled if kinds[kind].contains_gold == contains_gold]
            if some:
                more = f" and {len(some) - 4} more" if len(some) > 4 else ""
                on = f"{max(scored[kind] for kind in some)} of {count[some[0]]} rows"
                what = f"{name}: these score as correct on {on}: {', '.join(some[:4])}{more}"
                verdict = "ok" if published else "warning" if contains_gold else "error"
                fix = "fix the reward, because a policy will exploit it"
                fix = "as published; with mode: strict they do not" if published else fix
                found.append(Finding(verdict, "rewards", what, fix, ("rewards", place)))
        if not fooled and count:
            what = f"{name}: {len(count)} types of exploits score below a correct answer on {len(totals)} rows"
            found.append(Finding("ok", "rewards", what, keys=("rewards", place)))
    found += votes.findings(seen, grader, places, tried, {i: best[i].text for i in numbers if i in best})
    if votes.by_vote(grader) and not any(map(_reads_gold, grader.functions)):
        return found
    if not any(_reads_gold(function) for function in grader.functions):
        what = "no reward reads the gold answer, so the exploit test does not apply"
        return found + [Finding("ok", "rewards", what, keys=("rewards",))]
    return found + ([] if any(f.verdict == "error" for f in found) else _totals(tried, graded, totals))


def _totals(tried: list[tuple[int, Exploit]], graded: Graded, totals: dict[int, float]) -> list[Finding]:
    """Exploits whose total reward is as high as that of a correct answer."""
    above = Counter(
        e.name for k, (i, e) in enumerate(tried) if i in totals and e.always_wrong and graded.totals[k] >= totals[i]
    )
    if not above or max(totals.values()) <= 0:  # weights that leave nothing to learn are reported separately
        return []
    kind, n = above.most_common(1)[0]
    of = sum(i in totals and e.name == kind for i, e in tried)
    k, i = next((k, i) for k, (i, e) in enumerate(tried) if e.name == kind and graded.totals[k] >= totals.get(i, 1e9))
    what = f"{kind} scores {graded.totals[k]:.3g} in total, a correct answer {totals[i]:.3g}, on {n} of {of} rows"
    return [Finding("error", "rewards", what, "change the weights: a correct answer must score highest", ("rewards",))]


def _failures(graded: Graded, places: list[int], what: str, names: list[str] | None = None) -> list[Finding]:
    """Rewards that raise, or return something other than a number."""
    found = []
    for name, place in zip(graded.values, places):
        failed = [i for i, reason in enumerate(graded.reasons[name]) if reason.startswith("error: ")]
        if failed:
            on = names[failed[0]] if names and failed[0] < len(names) else what
            why = graded.reasons[name][failed[0]].removeprefix("error: ")
            zero = graded.values[name][failed[0]] is not None
            message = f"{name}: fails on {on}: {why}"
            fix = "handle this case; on_error scores it 0" if zero else "handle this case; it would end the run"
            found.append(Finding("warning" if zero else "error", "rewards", message, fix, ("rewards", place)))
    return found


def _same_task(seen: Seen, i: int) -> list[dict]:
    task = seen.rows[i].get("task")
    return [row for k, row in enumerate(seen.rows) if k != i and row.get("task") == task][:64]


def _full(value: float | None) -> bool:
    return value is not None and value >= 1


def _whole(function: Callable) -> Callable:
    return getattr(function, "func", function)


def _mode(function: Callable) -> object:
    return getattr(function, "keywords", {}).get("mode")


def _of_the_user(function: Callable) -> bool:
    return not graders.is_own(function)


def _reads_gold(function: Callable) -> bool:
    """Whether a reward reads the gold answer of the rows, and so can tell correct from wrong."""
    return bool({"answer", "target", "tests"} & set(lookup.columns(_whole(function))))
