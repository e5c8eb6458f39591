"""The completions of a run, and the flags that mark those worth inspecting."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice, zip_longest
from pathlib import Path

from r1lab.episodes.record import CUT, counts
from r1lab.grading.answers import committed
from r1lab.grading.scripts import SCRIPTS
from r1lab.recipe.schema import on_policy
from r1lab.report.read import Run, Stage, as_number, clean, items, rows, section
from r1lab.rundir import directory

READ_LIMIT = 200 * 2**20  # bytes of samples/ that are read of a run; if there are more, only every n-th step is read
NGRAM, REPEATED, SHORT = 6, 0.4, 5

FLAGS = {
    "form": "rewarded for form: this reward rose while accuracy did not, and this wrong answer gets it in full",
    "bare": f"an answer after fewer than {SHORT} words of reasoning",
    "repeats": f"{REPEATED:.0%} or more of its {NGRAM}-grams of words occur earlier in it",
    "scripts": "letters of a script that is not in its prompt (language mixing)",
    "limit": "it reached the token limit, or as an episode another limit",
    "same call": "an episode that has the same call three times or more",
    "no call": "an episode without a call, although there are tools",
    "invented": "an episode with a call of a tool that does not exist",
    "errors": "an episode in which half of the replies or more are errors, such as of calls that failed",
}

# Latin and Greek letters occur in the formulas of every language.
_FOREIGN = [re.compile(f"[{letters}]") for name, letters in SCRIPTS.items() if name not in ("latin", "greek")]
_MARKS = re.compile(r"</?(?:think|answer)>|\\boxed")


@dataclass(frozen=True, slots=True)
class Turn:
    """A part of an episode: what the model wrote, or what was said to it.

    Attributes:
        own: Whether the model wrote it.
        text: It, as text.
        calls: The calls in it, as text.
        error: Why a call failed, or could not be read; "" if none did.
    """

    own: bool
    text: str
    calls: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class SampledCompletion:
    """A completion with its rewards.

    Attributes:
        stage, step, task: `step` is None outside of GRPO; `task` is "" if it is unknown.
        prompt, text, answer: `text` is all that the model wrote; `answer` is the gold one.
        rewards, reasons: By the name of the reward; None where it did not apply.
        reward: The weighted sum.
        correct, tokens: None if unknown.
        truncated: Whether it reached the token limit.
        greedy: Whether it is the greedy answer to a question of an evaluation.
        flags: Keys of `FLAGS`.
        turns, end, said: Of an episode its turns and replies, how it ended, and what the environment says about that.
        no_call: Whether it is an episode without a call, although there are tools.
    """

    stage: str
    step: int | None
    task: str
    prompt: str
    text: str
    answer: str
    rewards: dict[str, float | None]
    reasons: dict[str, str]
    reward: float | None
    correct: bool | None
    tokens: int | None
    truncated: bool
    greedy: bool = False
    flags: tuple[str, ...] = ()
    turns: tuple[Turn, ...] = ()
    end: str = ""
    said: str = ""
    no_call: bool = False

    @property
    def length(self) -> int:
        """Tokens, or words if tokens were not counted."""
        return len(self.text.split()) if self.tokens is None else self.tokens

    @property
    def counts(self) -> dict[str, int]:
        """How many turns, calls, replies and errors an episode has; see `r1lab.episodes.record.counts`."""
        turns = [
            {"own": turn.own, "calls": turn.calls} | ({"error": turn.error} if turn.error else {})
            for turn in self.turns
        ]
        return counts(turns)


def read(run: Run, problems: list[str]) -> dict[str, list[SampledCompletion]]:
    """The completions of each stage, with their flags; adds what it skips to `problems`."""
    files = {stage.name: _files(stage) for stage in run.stages}
    size = sum(file.stat().st_size for paths in files.values() for _, file in paths)
    every = -(-size // READ_LIMIT) or 1
    if every > 1:
        problems.append(
            f"{run.name}: samples/ holds {size / 2**20:,.0f} MiB: one step in {every} was read for statistics of "
            "completions, and one line in {every} of files without steps"
        )
    found = {}
    for stage in run.stages:
        steps = sorted({step for step, _ in files[stage.name] if step is not None})
        wanted = {None, *steps[::every], *steps[-1:]}
        some = [(path, every if step is None else 1) for step, path in files[stage.name] if step in wanted]
        found[stage.name] = _with_form([c for path, of in some for c in _completions(stage, path, problems, of)])
    return found


def _files(stage: Stage) -> list[tuple[int | None, Path]]:
    folder = stage.path / "samples"
    whole: list[tuple[int | None, Path]] = [
        (None, folder / name) for name in ("questions.jsonl", "samples.jsonl") if (folder / name).is_file()
    ]
    if stage.kind == "eval" and not whole:  # it has not finished; such files of a sample stage are not graded
        whole = [(None, file) for file in directory.partial_files(stage.path)]
    steps = directory.samples_by_step(stage.path)
    return [*whole, *((step, path) for step, paths in steps.items() for path in paths)]


def _completions(stage: Stage, path: Path, problems: list[str], every: int = 1) -> Iterator[SampledCompletion]:
    for row in islice(rows(path, problems), None, None, every):
        step = row.get("step") if on_policy(stage.kind) and type(row.get("step")) is int else None
        limit = _limit(stage, step)
        is_question = isinstance(row.get("scores"), list) or isinstance(row.get("completions"), list)
        for one in _answers(row) if is_question else (row,):
            for key in ("completion", "chosen", "rejected"):
                if isinstance(one.get(key), str):
                    made = _completion(stage, step, one, key, limit)
                    yield replace(made, flags=tuple(_flags(made)))


def _answers(row: dict) -> Iterator[dict]:
    """The answers to a question of an evaluation, each as a row of its own; the greedy one last."""
    reward = clean(row.get("graded_by")) or "score"
    columns = [items(row.get(key)) for key in ("completions", "scores", "reasons", "lengths", "truncated", "episodes")]
    columns[0] = columns[0] or [row.get("completion")]
    for text, score, why, tokens, truncated, episode in zip_longest(*columns):
        one = {"completion": text, "tokens": tokens, "truncated": truncated, "greedy": False}
        yield row | one | _played(episode) | _scored(reward, score, why)
    text, truncated = row.get("greedy_completion"), row.get("greedy_truncated")
    one = {"completion": text, "tokens": None, "truncated": truncated, "greedy": True}
    yield row | one | _played(row.get("greedy_episode")) | _scored(reward, row.get("greedy"), row.get("greedy_reason"))


def _played(episode: object) -> dict:
    """What a record of one sample has of its episode; see `r1lab.episodes.record.Episode.summary`."""
    keys = ("turns", "end", "info", "no_call")
    return {key: episode.get(key) if isinstance(episode, dict) else None for key in keys}


def _scored(reward: str, score: object, why: object) -> dict:
    value = as_number(score)
    correct = None if value is None else value >= 1
    return {"rewards": {reward: score}, "reasons": {reward: why}, "reward": score, "right": correct}


def _completion(stage: Stage, step: int | None, row: dict, key: str, limit: int | None) -> SampledCompletion:
    correct, truncated, greedy = (row.get(name) for name in ("right", "truncated", "greedy"))
    counted = as_number(row.get("tokens"))
    tokens = None if counted is None else int(counted)
    task = clean(row.get("task") if row.get("subtask") is None else row["subtask"])
    turns, end, info = _turns(row.get("turns")), row.get("end"), section(row, "info")
    end = clean(end) if isinstance(end, str) else ""
    if end:
        truncated = end in CUT
    return SampledCompletion(
        stage=stage.name,
        step=step,
        task=f"{task}, greedy" if greedy is True else task,
        prompt=clean(row.get("prompt")),
        text="\n\n".join(turn.text for turn in turns if turn.own) if turns else clean(row[key]),
        answer=clean(row.get("answer")),
        rewards={clean(name): as_number(value) for name, value in section(row, "rewards").items()}
        if key != "rejected"
        else {},
        reasons={clean(name): clean(why) for name, why in section(row, "reasons").items() if why is not None},
        reward=as_number(row.get("rejected_reward" if key == "rejected" else "reward")),
        correct=correct if isinstance(correct, bool) else None,
        tokens=tokens,
        truncated=truncated
        if isinstance(truncated, bool)
        else tokens is not None and limit is not None and tokens >= limit,
        greedy=greedy is True,
        turns=turns,
        end=end,
        said=clean(info.get("problem") or info.get("reason")),
        no_call=row.get("no_call") is True,
    )


def _turns(found: object) -> tuple[Turn, ...]:
    return tuple(
        Turn(
            own=turn.get("own") is True,
            text=clean(turn.get("text")),
            calls=tuple(_call(call) for call in items(turn.get("calls"))),
            error=clean(turn.get("error")),
        )
        for turn in items(found)
        if isinstance(turn, dict)
    )


def _call(call: object) -> str:
    """A call as in Python.

    >>> _call({"name": "add", "arguments": {"a": 1, "b": "x"}})
    'add(a=1, b="x")'
    """
    if not isinstance(call, dict):
        return clean(call)
    given = section(call, "arguments").items()
    return f"{clean(call.get('name'))}({', '.join(f'{clean(key)}={_literal(value)}' for key, value in given)})"


def _literal(value: object) -> str:
    return clean(json.dumps(value, ensure_ascii=False))


def _limit(stage: Stage, step: int | None) -> int | None:
    """The maximum number of tokens of a completion, None if the recipe does not set it."""
    evaluation = section(stage.config, "eval").get("max_completion_length") if stage.kind == "eval" else None
    limit = evaluation or section(stage.config, "rollout").get("max_completion_length")
    schedule = section(section(stage.config, "schedule"), "max_completion_length")
    begun = [start for start in schedule if isinstance(start, int) and step is not None and start < step]
    limit = schedule[max(begun)] if begun else limit
    return limit if type(limit) is int else None


def _flags(completion: SampledCompletion) -> Iterator[str]:
    if _bare(completion.text):
        yield "bare"
    if repeated(completion.text) >= REPEATED:
        yield "repeats"
    if not completion.text.isascii():
        foreign = (s for s in _FOREIGN if len(s.findall(completion.text)) > 1)
        if any(not script.search(completion.prompt) for script in foreign):
            yield "scripts"
    if completion.truncated:
        yield "limit"
    calls = Counter(call for turn in completion.turns for call in turn.calls)
    if calls and max(calls.values()) >= 3:
        yield "same call"
    if completion.no_call:
        yield "no call"
    count = completion.counts
    if count["invented"]:
        yield "invented"
    if 2 * count["errors"] >= count["replies"] > 0:
        yield "errors"


def _bare(text: str) -> bool:
    """Whether there is almost no reasoning before the answer."""
    before, mark, _ = text.partition("<answer>" if "<answer>" in text else r"\boxed")
    if not mark:
        before, mark, _ = text.partition("</think>")
    if mark:
        return len(_MARKS.sub(" ", before).split()) < SHORT
    return len(text.split()) < SHORT and committed(text) is not None


def repeated(text: str) -> float:
    """The share of a text's n-grams of words that occur earlier in it; 0 for a text of fewer than 30 words.

    >>> repeated("one two three four five six " * 10) > 0.8, repeated("one two")
    (True, 0.0)
    """
    words = text.split()
    if len(words) < 30:
        return 0.0
    grams = list(zip(*(words[i:] for i in range(NGRAM))))
    return 1 - len(set(grams)) / len(grams)


def share_correct(completions: list[SampledCompletion]) -> float | None:
    """The share of correct completions among those with a known outcome."""
    known = [c.correct for c in completions if c.correct is not None]
    return sum(known) / len(known) if known else None


def completions_by_step(completions: list[SampledCompletion]) -> dict[int, list[SampledCompletion]]:
    """The completions of each step, in order."""
    found: dict[int, list[SampledCompletion]] = {}
    for completion in completions:
        if completion.step is not None:
            found.setdefault(completion.step, []).append(completion)
    return dict(sorted(found.items()))


def paid_for_form(completions: list[SampledCompletion]) -> dict[str, tuple[float, float, float, float]]:
    """Rewards that rose while accuracy did not, so that they may reward the format alone.

    From the first to the last fifth of the steps, such a reward rises by at least 0.1 of its range, and by more than
    four times as much as the share of correct answers, which rises by less than 0.05.

    Returns:
        By reward, its mean at the start and at the end, and the share of correct answers at the start and at the end.
    """
    steps = list(completions_by_step(completions).values())
    fifth = max(1, len(steps) // 5)
    first, last = ([c for some in part for c in some] for part in (steps[:fifth], steps[-fifth:]))
    start, end = share_correct(first), share_correct(last)
    if len(steps) < 5 or start is None or end is None or end - start >= 0.05:
        return {}
    found = {}
    for name in dict.fromkeys(name for c in first for name in c.rewards):
        values = [[v for c in part if (v := c.rewards.get(name)) is not None] for part in (first, last)]
        if not all(values):
            continue
        low, high = min(map(min, values)), max(map(max, values))
        before, after = (sum(part) / len(part) for part in values)
        if after - before >= 0.1 * (high - low) > 0 and after - before > 4 * (end - start):
            found[name] = (before, after, start, end)
    return found


def _with_form(completions: list[SampledCompletion]) -> list[SampledCompletion]:
    """Flags the wrong completions of the last fifth of the steps that get a reward for form in full."""
    names = paid_for_form(completions)
    if not names:
        return completions
    steps = list(completions_by_step(completions))
    late = set(steps[-max(1, len(steps) // 5) :])
    full = {name: max(c.rewards.get(name) or 0.0 for c in completions) for name in names}

    def paid(c: SampledCompletion) -> bool:
        return c.step in late and c.correct is False and any((c.rewards.get(n) or 0.0) >= full[n] for n in names)

    return [replace(c, flags=("form", *c.flags)) if paid(c) else c for c in completions]
