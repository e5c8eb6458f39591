"""Samples from the model on a few prompts, to see whether RL can start from it."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from r1lab import engines
from r1lab.check.seen import Seen
from r1lab.episodes.record import ENDS
from r1lab.errors import UserError
from r1lab.evaluation import stats
from r1lab.evaluation.records import episode_figures, own_tokens
from r1lab.findings import Finding
from r1lab.grading.grader import build
from r1lab.recipe.schema import GrpoRecipe

PROMPTS = 16
_LIMITS = {"turns": ("environment", "max_turns"), "turn_length": ("environment", "max_turn_length")}
"""The limits of an episode at which it may end; that of all its tokens has a line of its own."""

FEW = 0.02  # the share of correct answers below which most groups of a usual size contain none


@dataclass(frozen=True)
class Probed:
    """Statistics of the samples.

    Attributes:
        correct: For each prompt, how many of its `group` samples are correct.
        equal: The share of groups whose rewards are all equal, which teach nothing.
        parsed: The share of samples in which the first reward that applies found an answer to grade.
        truncated: The share of samples that reached the token limit.
        tokens: The mean length of the samples, of an episode the model's own tokens.
        episodes: The figures of episodes (`r1lab.evaluation.records.episode_figures`); empty without an environment.
    """

    correct: list[int]
    group: int
    equal: float
    parsed: float
    truncated: float
    tokens: float
    episodes: dict[str, Any] = field(default_factory=dict)


def probe(recipe: GrpoRecipe, seen: Seen) -> Probed:
    """Samples completions for `PROMPTS` prompts of a grpo stage, with the settings of that stage."""
    from r1lab.stages.common import engine_prompts, load_engine, sampling_of
    from r1lab.stages.playing import played_by, setting_of

    rows = seen.rows[:: max(1, len(seen.rows) // PROMPTS)][:PROMPTS]
    group = recipe.rollout.num_generations
    texts, prefills = engine_prompts(rows, recipe, seen.tokenizer)
    setting = setting_of(recipe, seen.tokenizer, recipe.rollout.max_model_length or sys.maxsize)
    with quiet():
        engine = played_by(load_engine(recipe), setting, rows)
        sampled = engines.generate(engine, texts, sampling_of(recipe))
    flat = [completion for completions in sampled for completion in completions]
    repeated = [row for row in rows for _ in range(group)]
    grader = build([r.model_dump() for r in recipe.rewards], prefill=setting.prefill if setting else prefills[0])
    episodes = [c.episode for c in flat if c.episode is not None]
    graded = grader.grade([c.text for c in flat], repeated, [c.token_ids for c in flat], episodes)
    groups = [slice(i * group, (i + 1) * group) for i in range(len(rows))]
    return Probed(
        correct=[sum(graded.right[g]) for g in groups],
        group=group,
        equal=sum(max(graded.totals[g]) - min(graded.totals[g]) < 1e-6 for g in groups) / len(groups),
        parsed=sum(map(_parsed, zip(*graded.reasons.values()), zip(*graded.values.values()))) / len(flat),
        truncated=sum(c.truncated for c in flat) / len(flat),
        tokens=sum(own_tokens(c) for c in flat) / len(flat),
        episodes=episode_figures([episode.summary() for episode in episodes]) if episodes else {},
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Hides the output of libraries, including output from C; prints it if they raise."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    with tempfile.TemporaryFile() as log:
        for descriptor in (1, 2):
            os.dup2(log.fileno(), descriptor)
        try:
            yield
        except UserError:
            raise
        except BaseException:
            log.seek(0)
            os.write(kept[1], log.read()[-20_000:])
            raise
        finally:
            for saved, descriptor in zip(kept, (1, 2)):
                os.dup2(saved, descriptor)
                os.close(saved)


def _parsed(reasons: tuple[str, ...], values: tuple[float | None, ...]) -> bool:
    """Whether the first reward that applies to a completion found an answer, correct or not."""
    for reason, value in zip(reasons, values):
        if reason != "does not apply":
            return value is not None and not reason.startswith(("no_", "unpars", "error", "empty"))
    return False


def probe_findings(probed: Probed) -> list[Finding]:
    """The statistics of the samples, and whether RL can start."""
    group, n = probed.group, len(probed.correct)
    samples, correct = n * group, sum(probed.correct)
    scores = [[1] * c + [0] * (group - c) for c in probed.correct]
    low, high = stats.mean_ci95(stats.question_means(scores).tolist())
    solved = sum(c > 0 for c in probed.correct)
    found = [
        Finding("ok", "probe", f"{n} prompts, {group} samples each: pass@1 {correct / samples:.1%} "
                f"[{low:.1%}, {high:.1%}], pass@{group} {solved / n:.0%}; {probed.parsed:.0%} gave an answer, "
                f"{probed.truncated:.0%} were truncated, {probed.tokens:.0f} tokens on average"),
    ]  # fmt: skip
    found += _episode_findings(probed.episodes)
    stages = "a cold start is needed: an sft stage on correct solutions, or easier rows"
    if not correct:
        what = f"the model answers 0 of {samples} samples correctly"
        found.append(Finding("warning", "probe", what, stages, ("model",)))
    elif correct / samples < FEW:
        what = (
            f"the model answers {correct} of {samples} samples correctly, so most groups will have no correct answer"
        )
        found.append(Finding("warning", "probe", what, f"{stages}, or a larger rollout.num_generations", ("model",)))
    elif correct / samples > 0.95:
        what = f"the model already answers {correct} of {samples} samples correctly, so there is little to learn"
        found.append(Finding("warning", "probe", what, "use harder rows", ("data",)))
    if probed.truncated > 0.5:
        what = f"{probed.truncated:.0%} of the samples were truncated at the token limit and score as wrong"
        fix = "set a longer limit, or check that the model ends its responses"
        found.append(Finding("warning", "probe", what, fix, ("rollout", "max_completion_length")))
    if correct and probed.equal > 0.75:
        what = f"{probed.equal:.0%} of the groups have equal rewards and teach nothing"
        fix = "set rollout.dynamic_sampling, or use rows of medium difficulty (data.pass_rate)"
        found.append(Finding("warning", "probe", what, fix, ("rollout",)))
    elif correct:
        what = f"{1 - probed.equal:.0%} of the groups have a signal: RL can start"
        found.append(Finding("ok", "probe", what))
    return found


def _episode_findings(figures: dict[str, Any]) -> list[Finding]:
    """The turns, calls and ends of the episodes, if there are any."""
    if not figures:
        return []
    ends = figures["ends"]
    what = f"episodes: {figures['turns']:.1f} turns and {figures['calls']:.1f} calls on average"
    if "call_errors" in figures:
        what += f", {figures['call_errors']:.0%} of the replies are errors"
    listed = ", ".join(f"{end} {share:.0%}" for end, share in ends.items())
    found = [Finding("ok", "probe", f"{what}; ended by {listed}")]
    for end, keys in _LIMITS.items():
        if ends.get(end, 0) > 0.5:
            what = f"{ends[end]:.0%} of the episodes ended by {ENDS[end]}"
            found.append(Finding("warning", "probe", what, "set a larger one, or check that the model ends", keys))
    if ends.get("env_error"):
        what = f"the environment failed in {ends['env_error']:.0%} of the episodes, which are not counted"
        found.append(Finding("warning", "probe", what, "correct it", ("environment",)))
    return found
