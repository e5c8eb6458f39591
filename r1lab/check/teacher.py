"""Checks the teacher of a distill stage: its tokens, which must be those of the student."""

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
    tokenizer, found = tokenizer_of(seen.recipe.teacher, start, KEYS, scratch)
    if tokenizer is None or seen.tokenizer is None:
        return found
    if other := other_tokens(seen.tokenizer, tokenizer):
        what, _, fix = other.rpartition(": ")
        return [Finding("error", "teacher", f"{start}: {what}", fix, KEYS)]
    return [Finding("ok", "teacher", f"{start} has the student's {len(seen.tokenizer):,} tokens", keys=KEYS)]
