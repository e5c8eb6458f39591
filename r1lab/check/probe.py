"""What the model itself does on a few prompts: whether reinforcement can start."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from r1lab import engines
from r1lab.check.seen import Seen
from r1lab.errors import UserError
from r1lab.evaluation import stats
from r1lab.findings import Finding
from r1lab.grading.grader import build
from r1lab.recipe.schema import GrpoRecipe

PROMPTS = 16
FEW = 0.02  # the share of right answers below which most groups of a usual size hold none


@dataclass(frozen=True)
class Probed:
    """What was sampled.

    Attributes:
        right: For each prompt, how many of its `group` samples were right.
        equal: The share of groups whose rewards are all equal, which teach nothing.
        parsed: The share of samples in which the first reward that applies found an answer to judge.
        truncated: The share of samples that were cut at the limit.
    """

    right: list[int]
    group: int
    equal: float
    parsed: float
    truncated: float
    tokens: float


def probe(recipe: GrpoRecipe, seen: Seen) -> Probed:
    """Samples a group of completions for each of `PROMPTS` prompts of a grpo stage, as the stage would."""
    from r1lab.stages.common import asked, load_engine, sampling_of

    rows = seen.rows[:: max(1, len(seen.rows) // PROMPTS)][:PROMPTS]
    group = recipe.rollout.num_generations
    texts, prefills = asked(rows, recipe, seen.tokenizer)
    with quiet():
        sampled = engines.generate(load_engine(recipe), texts, sampling_of(recipe))
    flat = [completion for completions in sampled for completion in completions]
    repeated = [row for row in rows for _ in range(group)]
    grader = build([r.model_dump() for r in recipe.rewards], prefill=prefills[0])
    graded = grader.grade([c.text for c in flat], repeated, [c.token_ids for c in flat])
    groups = [slice(i * group, (i + 1) * group) for i in range(len(rows))]
    return Probed(
        right=[sum(graded.right[g]) for g in groups],
        group=group,
        equal=sum(max(graded.totals[g]) - min(graded.totals[g]) < 1e-6 for g in groups) / len(groups),
        parsed=sum(map(_parsed, zip(*graded.reasons.values()), zip(*graded.values.values()))) / len(flat),
        truncated=sum(c.truncated for c in flat) / len(flat),
        tokens=sum(len(c.token_ids) for c in flat) / len(flat),
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps what libraries print, from C too, off the terminal; shows it where they raise."""
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
    """Whether the first reward that applies to a completion judged an answer, right or wrong."""
    for reason, value in zip(reasons, values):
        if reason != "does not apply":
            return value is not None and not reason.startswith(("no_", "unpars", "error", "empty"))
    return False


def probe_findings(probed: Probed) -> list[Finding]:
    """What was sampled, and in words whether reinforcement can start."""
    group, n = probed.group, len(probed.right)
    samples, right = n * group, sum(probed.right)
    scores = [[1] * r + [0] * (group - r) for r in probed.right]
    low, high = stats.mean_ci95(stats.question_means(scores).tolist())
    solved = sum(r > 0 for r in probed.right)
    found = [
        Finding("ok", "probe", f"{n} prompts, {group} samples each: pass@1 {right / samples:.1%} "
                f"[{low:.1%}, {high:.1%}], pass@{group} {solved / n:.0%}; {probed.parsed:.0%} gave an answer, "
                f"{probed.truncated:.0%} were cut, {probed.tokens:.0f} tokens on average"),
    ]  # fmt: skip
    stages = "a cold start is needed: an sft stage on right solutions, or easier rows"
    if not right:
        found.append(Finding("warning", "probe", f"the base solves 0 of {samples}", stages, ("model",)))
    elif right / samples < FEW:
        what = f"the base solves {right} of {samples}: most groups will hold no right answer"
        found.append(Finding("warning", "probe", what, f"{stages}, or a larger rollout.num_generations", ("model",)))
    elif right / samples > 0.95:
        what = f"the base solves {right} of {samples} already: there is little to learn"
        found.append(Finding("warning", "probe", what, "take harder rows", ("data",)))
    if probed.truncated > 0.5:
        what = f"{probed.truncated:.0%} of the samples were cut at their limit, and score as wrong"
        fix = "set a longer one, or see whether the model ends its turns"
        found.append(Finding("warning", "probe", what, fix, ("rollout", "max_completion_length")))
    if right and probed.equal > 0.75:
        what = f"{probed.equal:.0%} of the groups have equal rewards and teach nothing"
        fix = "set rollout.dynamic_sampling, or rows of middling difficulty by data.pass_rate"
        found.append(Finding("warning", "probe", what, fix, ("rollout",)))
    elif right:
        what = f"{1 - probed.equal:.0%} of the groups have a signal: reinforcement can start"
        found.append(Finding("ok", "probe", what))
    return found
