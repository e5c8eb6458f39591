"""Checks the teacher of a distill stage: its tokens, which must be those of the student, and whose base it has."""

from pathlib import Path

from r1lab.check.look import start_of, tokenizer_of
from r1lab.check.seen import Seen
from r1lab.findings import Finding
from r1lab.models.loading import other_tokens
from r1lab.recipe.schema import DistillRecipe, StageRecipe

KEYS = ("teacher", "path")


def teacher_findings(seen: Seen, earlier: dict[str, StageRecipe], scratch: Path) -> list[Finding]:
    """Whether the teacher's tokens are the student's; nothing for a stage without a teacher.

    Args:
        earlier: The stages by name.
        scratch: A folder for downloads from the Hub.
    """
    if not isinstance(seen.recipe, DistillRecipe):
        return []
    start = start_of(seen.recipe.teacher.path, earlier)
    if seen.recipe.teacher.share_base:
        return [_shared(seen.recipe, start, earlier)]
    tokenizer, found = tokenizer_of(seen.recipe.teacher, start, KEYS, scratch)
    if tokenizer is None or seen.tokenizer is None:
        return found
    if other := other_tokens(seen.tokenizer, tokenizer):
        what, _, fix = other.rpartition(": ")
        return [Finding("error", "teacher", f"{start}: {what}", fix, KEYS)]
    return [Finding("ok", "teacher", f"{start} has the student's {len(seen.tokenizer):,} tokens", keys=KEYS)]


def _shared(recipe: DistillRecipe, start: str, earlier: dict[str, StageRecipe]) -> Finding:
    """Whether a teacher is an adapter of the student's base; that of a folder was checked with the recipe's paths.

    Args:
        start: The path of the teacher, or the base of one that is yet to be trained.
    """
    path, base = recipe.teacher.path, start_of(recipe.model.path, earlier)
    if path.startswith("@") and start != base:
        what = f"{path}: is an adapter of {start}, and the student's base is {base}"
        return Finding("error", "teacher", what, "set model.path of both stages to the same model", KEYS)
    return Finding("ok", "teacher", f"{path} and the student's adapter have one base in memory", keys=KEYS)
