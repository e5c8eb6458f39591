"""The record of each question of an evaluation, and the scores that are computed from the records."""

import statistics
from collections import Counter
from pathlib import Path

from r1lab.engines import Completion
from r1lab.episodes.record import counts
from r1lab.evaluation import budgets, comparison, curves, forms, stats
from r1lab.grading.answers import committed
from r1lab.grading.grader import Grader, applies
from r1lab.grading.grader import build as build_grader


class Judge:
    """Scores completions by the recipe's rewards, and also strictly and leniently.

    Args:
        rewards: The recipe's `rewards`.
        template: The prompt's wording (`r1lab.models.prompts.wording`), which may require a format of the answer.
        prefill: The beginning of the assistant's turn in the prompt.
    """

    def __init__(self, rewards: list[dict], *, template: str, prefill: str):
        self.rewards, self.template = rewards, template
        self.grader: Grader = build_grader(rewards, prefill=prefill)
        loose = forms.lenient(rewards)
        self.loose = build_grader(loose) if loose else None  # grades turns that already include the prefill

    def judge(self, completions: list[Completion], rows: list[dict], failed: Path) -> list[dict]:
        """For each completion whether it is correct, well-formed, strictly and leniently correct, the reason, and the
        values of the other rewards.

        Args:
            completions: One per row.
            rows: The rows, repeated for the samples of a question.
            failed: The file for completions on which a reward fails, which ends the run.
        """
        episodes = [c.episode for c in completions if c.episode is not None]
        graded = self.grader.grade([c.text for c in completions], rows, [c.token_ids for c in completions], episodes)
        graded.stop_if_failed(rows, failed)
        deciding = [self._deciding(row) for row in rows]
        found = []
        for i, turn in enumerate(graded.completions):
            right, reward = graded.right[i], deciding[i]
            valid = forms.well_formed(turn, template=self.template, reward=reward)
            named = graded.reasons.get(reward, [""] * len(rows))[i]
            judged = {"right": right, "valid": valid, "strict": right and valid, "lenient": right, "reason": named}
            judged["graded_by"] = reward
            judged["other"] = {name: values[i] for name, values in graded.values.items() if name != reward}
            found.append(judged | ({"answer": answer_of(turn)} if forms.votes(reward) else {}))
        again = [i for i, judged in enumerate(found) if not judged["right"] and forms.looks_for_answer(deciding[i])]
        if self.loose and again:
            turns = [forms.loosened(graded.completions[i], reward=deciding[i]) for i in again]
            ids, some = [completions[i].token_ids for i in again], [episodes[i] for i in again] if episodes else None
            loose = self.loose.grade(turns, [rows[i] for i in again], ids, some)
            for i, right in zip(again, loose.right):
                found[i]["lenient"] = right
        return found

    def _deciding(self, row: dict) -> str:
        """The reward that decides whether a completion of this row is correct."""
        return next((r["name"] for r in self.rewards if applies(r.get("tasks"), row.get("task"))), "")


def answer_of(turn: str) -> str | None:
    """The vote of a response in maj@n: the answer that it commits to, in lower case."""
    found = committed(turn)
    return " ".join(found[0].lower().split()) or None if found else None


def parts_of(name: str, rows: list[dict]) -> list[str]:
    """For each row, the part of the task that it belongs to, such as the puzzles with three people.

    >>> parts_of("hard", [{"task": "knights_knaves/3ppl"}, {"task": "knights_knaves/4ppl"}])
    ['hard/3ppl', 'hard/4ppl']
    >>> parts_of("aime24", [{"task": "aime"}, {"task": "aime"}])
    ['aime24', 'aime24']
    """
    own = [str(row.get("task") or name) for row in rows]
    if len(set(own)) == 1:
        return [name] * len(rows)
    return [name if task == name else f"{name}/{task.partition('/')[2] or task}" for task in own]


def record(name: str, part: str, index: int, row: dict, completions: list[Completion], judged: list[dict]) -> dict:
    """The record of one question: its prompt, the samples, and the scores of each sample."""
    kept = {
        "task": name,
        "subtask": part,
        "index": index,
        "prompt": row["prompt"],
        "answer": row.get("answer"),
        "graded_by": judged[0]["graded_by"],
        "scores": [int(one["right"]) for one in judged],
        "strict": [int(one["strict"]) for one in judged],
        "lenient": [int(one["lenient"]) for one in judged],
        "valid": [int(one["valid"]) for one in judged],
        "reasons": [one["reason"] for one in judged],
        "truncated": [c.truncated for c in completions],
        "completions": [c.text for c in completions],
    }
    if row.get("budget") is not None and "question" in row:  # the question is paired with itself without a budget
        kept |= {"budget": row["budget"], "key": comparison.question_key({"prompt": row["question"], "index": index})}
    if all("answer" in one for one in judged):
        kept["answers"] = [one["answer"] for one in judged]
    others = {name: [one["other"][name] for one in judged] for name in judged[0]["other"]}
    if others := {name: values for name, values in others.items() if any(value is not None for value in values)}:
        kept["rewards"] = others
    if all(c.token_ids for c in completions):  # not every server returns them
        kept["lengths"] = [own_tokens(c) for c in completions]
    if all(c.episode is not None for c in completions):
        kept["episodes"] = [c.episode.summary() for c in completions]
    return kept


def own_tokens(completion: Completion) -> int:
    """The number of tokens that the model sampled, of all turns of an episode."""
    if isinstance(completion, budgets.Budgeted):
        return completion.sampled
    return len(completion.token_ids) if completion.episode is None else completion.episode.own_tokens


def greedy(completion: Completion, judged: dict) -> dict:
    """The part of a question's record about its greedy answer."""
    return {
        "greedy": int(judged["right"]),
        "greedy_completion": completion.text,
        "greedy_reason": judged["reason"],
        "greedy_truncated": completion.truncated,
        **({"greedy_episode": completion.episode.summary()} if completion.episode is not None else {}),
    }


def figures(records: list[dict]) -> dict:
    """The scores of a task: accuracy with its interval, also strict and lenient, and lengths in tokens.

    `avg` uses the reward that decides what is correct; `rewards`, if there are others, has their means over the
    samples. `strict` also requires the prompt's format, `lenient` accepts any, and `format` is the share of samples in
    the required format. `timeouts`, if there are any, is the number of answers, including greedy ones, that the grader
    did not finish in time: they count as wrong, so the scores are too low. A program that exceeds its own time limit
    has failed, and does not count as a timeout.
    """
    scores = [record["scores"] for record in records]
    n = len(scores[0])
    truncated = [flag for record in records for flag in record["truncated"]]
    found = {"n_questions": len(records), "n_samples": n} | _share("avg", "ci95", scores)
    for key in ("strict", "lenient"):
        if all(key in record for record in records):
            found |= _share(key, f"{key}_ci95", [record[key] for record in records])
    for k in [k for k in (4, 16) if k < n] + [n]:
        found[f"pass@{k}"] = stats.pass_at_k(scores, k)
    if all("answers" in record for record in records):
        found[f"maj@{n}"] = stats.maj_at_n([record["answers"] for record in records], scores)
    if all("valid" in record for record in records):
        found["format"] = stats.avg_at_n([record["valid"] for record in records])
    found["truncated"] = sum(truncated) / len(truncated)
    found |= _lengths(records)
    if others := _other_rewards(records):
        found["rewards"] = others
    if all("episodes" in record for record in records):
        found |= episode_figures([episode for record in records for episode in record["episodes"]])
        found |= {f"pass^{k}": stats.pass_hat_k(scores, k) for k in (2, 4, 8) if k <= n}
    if "greedy" in records[0]:
        found |= _share("greedy", "greedy_ci95", [[record["greedy"]] for record in records])
    if "budgets" in records[0]:
        found["budgets"] = curves.curve(records)
    if late := sum(map(_timeouts, records)):
        found["timeouts"] = late
    return {key: _rounded(value) for key, value in found.items()}


def episode_figures(episodes: list[dict]) -> dict:
    """Of episodes the mean turns and calls, the share of replies that are errors, and the share of each end.

    If there are any, `no_call` is the share of those that could call tools and did not, and `not_counted` the number
    of those whose environment failed, which count as wrong.
    """
    total = Counter()
    for one in episodes:
        total.update(counts(one["turns"]))
    ends = Counter(one["end"] for one in episodes)
    found: dict = {key: total[key] / len(episodes) for key in ("turns", "calls")}
    found |= {"call_errors": total["errors"] / total["replies"]} if total["replies"] else {}
    if without := sum("no_call" in one for one in episodes):
        found["no_call"] = without / len(episodes)
    found |= {"not_counted": ends["env_error"]} if ends["env_error"] else {}
    return found | {"ends": {end: count / len(episodes) for end, count in ends.most_common()}}


def _timeouts(record: dict) -> int:
    if not forms.votes(record.get("graded_by", "")):
        return 0
    return [*record.get("reasons", ()), record.get("greedy_reason")].count("timeout")


def _other_rewards(records: list[dict]) -> dict[str, float]:
    """The mean of each further reward over the samples that it applies to."""
    values: dict[str, list[float]] = {}
    for one in records:
        for name, found in one.get("rewards", {}).items():
            values.setdefault(name, []).extend(value for value in found if value is not None)
    return {name: statistics.fmean(found) for name, found in values.items() if found}


def _share(key: str, interval: str, scores: list[list[float]]) -> dict:
    return {key: stats.avg_at_n(scores), interval: list(stats.mean_ci95(stats.question_means(scores).tolist()))}


def _lengths(records: list[dict]) -> dict:
    """Mean tokens of all samples, and of those that are correct, wrong but not truncated, and truncated."""
    kinds: dict[str, list[int]] = {"length": [], "length_right": [], "length_wrong": [], "length_truncated": []}
    for one in records:
        for tokens, score, truncated in zip(one.get("lengths", ()), one["scores"], one["truncated"]):
            kinds["length"].append(tokens)
            kind = "length_truncated" if truncated else "length_right" if score >= 1 else "length_wrong"
            kinds[kind].append(tokens)
    return {key: statistics.fmean(values) for key, values in kinds.items() if values}


def _rounded(value):
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return value if value is None else round(value, 4)


def families(result: dict) -> dict[str, dict]:
    """The tasks of an evaluation, without their parts: `knights_knaves`, but not `knights_knaves/2ppl`."""
    tasks = result.get("tasks", {})
    return {task: scores for task, scores in tasks.items() if "/" not in task or task.split("/")[0] not in tasks}
