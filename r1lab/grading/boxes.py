r"""Answers in boxes: `\boxed{}` and `\fbox{}`. Everything here takes linear time on any text."""

import re
from itertools import pairwise
from typing import NamedTuple

from r1lab.grading.markup import plain

# A run of backslashes is one token, which distinguishes an escaped brace from a line break before a brace. A box
# without braces may have a number, a capital letter, a formula in dollars or a short fraction.
_TEX = re.compile(
    r"(\\++)(?:(?:boxed|fbox|framebox)(?:\s*+(\{)|[ \t]*+([-+−]?\.?\d[^\s{}$\\]*+)|[ \t]++([A-Z]\b)"
    r"|[ \t]*+(\$[^$\n]{1,200}\$|\\[dt]?frac\s?\d\s?\d(?!\d)))|[{}])?|[{}]"
)
_WORDS = r"(?:and|or|und|oder|et|ou|y|o|e|и|или)"
_SEPARATOR = rf"[,;、，；&和或与]|\\text\s*\{{\s*,?\s*{_WORDS}\s*\}}|\b{_WORDS}\b(?!\s*=)|\\(?:vee|wedge|lor|land)\b"
_ADJACENT = re.compile(
    rf"(?:\s|[$*~]|\\[()\[\],;:! ]|\\q?quad(?![a-zA-Z])|\\\\|{_SEPARATOR})*+"
    r"(?:[A-Za-z](?:_\{?\w{1,3}\}?)?\s*=\s*)?"
)
_SEPARATED, _PARAGRAPH = re.compile(_SEPARATOR), re.compile(r"\n[ \t]*\n")
_FARTHEST = 80  # characters between two boxes that form one answer


class Box(NamedTuple):
    """A non-empty box, and where it starts and ends in the text."""

    start: int
    end: int
    content: str


def boxes(text: str) -> tuple[list[Box], bool]:
    r"""The boxes with balanced braces, in the order in which they open, and whether the last one never closes.

    Empty boxes do not count, nor does one that contains another. `\boxed 5` and `\boxed5` count too.

    >>> boxes(r"\boxed{x = \boxed{5}} or \fbox7 or I put it in \boxed{}, as in \boxed{3")
    ([Box(start=11, end=20, content='5'), Box(start=25, end=31, content='7')], True)
    """
    if "box" not in text:
        return [], False
    found, open_braces = [], []  # for each open brace, where its box and its content begin
    for token in _TEX.finditer(text):
        slashes, box_brace, *unbraced = token.groups()
        start, end = token.span()
        if any(unbraced):
            found.append(Box(start, end, next(filter(None, unbraced))))
        elif box_brace:
            open_braces.append((start, end))
        elif slashes and (len(slashes) % 2 or end == token.end(1)):
            continue  # an escaped brace, or no brace
        elif token[0].endswith("{"):
            open_braces.append(None)
        elif open_braces and (box := open_braces.pop()) and not (found and found[-1].start > box[0]):
            if inside := text[box[1] : end - 1].strip():
                found.append(Box(box[0], end, inside))
    unclosed = [box[0] for box in open_braces if box]
    return found, bool(unclosed) and not (found and found[-1].start > unclosed[-1])


def last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{...}` or `\fbox{...}` with balanced braces; empty ones do not count.

    The last one is the one that opens last, so the inner one of two. `\boxed 5` counts too.

    >>> last_boxed(r"\boxed{5}, no: \boxed{\frac{1}{2}}. I put it in \boxed{}, as in \boxed{3")
    '\\frac{1}{2}'
    """
    found, _ = boxes(text)
    return found[-1].content if found else None


def last_answer(text: str, found: list[Box]) -> Box | None:
    r"""The last box, together with those before it that form one answer with it.

    Boxes form one answer if they are separated only by a comma, "and", "or", math symbols or `x =`; with no separator
    at all they must be in one paragraph. Any other text between them makes the later one a correction.

    Args:
        found: The boxes of the text.

    >>> text = r"$x = \boxed{2}$ or $x = \boxed{3}$"
    >>> last_answer(text, boxes(text)[0]).content
    '2, 3'
    """
    if not found:
        return None
    parts = [found[-1]]
    for before, after in pairwise(reversed(found)):
        if not _are_one(text[after.end : before.start]):
            break
        parts.append(after)
    contents = {plain(box.content): box.content for box in reversed(parts)}
    return Box(parts[-1].start, found[-1].end, ", ".join(contents.values()))


def _are_one(between: str) -> bool:
    if len(between) > _FARTHEST or not _ADJACENT.fullmatch(between):
        return False
    return bool(_SEPARATED.search(between)) or not _PARAGRAPH.search(between)
