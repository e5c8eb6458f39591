r"""What a text puts in boxes: `\boxed{}` and `\fbox{}`. Everything here takes linear time on any text."""

import re
from itertools import pairwise
from typing import NamedTuple

from r1lab.grading.markup import plain

# A run of backslashes is one token, so that an escaped brace differs from a line break before a brace.
# Of a box without braces a number, a capital letter, a formula in dollars or a short fraction is read.
_TEX = re.compile(
    r"(\\++)(?:(?:boxed|fbox|framebox)(?:\s*+(\{)|[ \t]*+([-+−]?\.?\d[^\s{}$\\]*+)|[ \t]++([A-Z]\b)"
    r"|[ \t]*+(\$[^$\n]{1,200}\$|\\[dt]?frac\s?\d\s?\d(?!\d)))|[{}])?|[{}]"
)
_WORDS = r"(?:and|or|und|oder|et|ou|y|o|e|и|или)"
_SEPARATOR = rf"[,;、，；&和或与]|\\text\s*\{{\s*,?\s*{_WORDS}\s*\}}|\b{_WORDS}\b(?!\s*=)|\\(?:vee|wedge|lor|land)\b"
_BESIDE = re.compile(
    rf"(?:\s|[$*~]|\\[()\[\],;:! ]|\\q?quad(?![a-zA-Z])|\\\\|{_SEPARATOR})*+"
    r"(?:[A-Za-z](?:_\{?\w{1,3}\}?)?\s*=\s*)?"
)
_SEPARATED, _PARAGRAPH = re.compile(_SEPARATOR), re.compile(r"\n[ \t]*\n")
_FARTHEST = 80  # characters between two boxes that are one answer


class Box(NamedTuple):
    """A box with something in it, and where it starts and ends in the text."""

    start: int
    end: int
    content: str


def boxes(text: str) -> tuple[list[Box], bool]:
    r"""The boxes whose braces are balanced, in the order in which they open, and whether the last one never closes.

    Empty ones do not count, nor does one that holds another. `\boxed 5` and `\boxed5` are read too.

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
            continue  # an escaped brace, or none
        elif token[0].endswith("{"):
            open_braces.append(None)
        elif open_braces and (box := open_braces.pop()) and not (found and found[-1].start > box[0]):
            if inside := text[box[1] : end - 1].strip():
                found.append(Box(box[0], end, inside))
    unclosed = [box[0] for box in open_braces if box]
    return found, bool(unclosed) and not (found and found[-1].start > unclosed[-1])


def last_boxed(text: str) -> str | None:
    r"""What the last `\boxed{...}` or `\fbox{...}` holds whose braces are balanced; empty ones do not count.

    The last one is the one that opens last, so the inner one of two. `\boxed 5` is read too.

    >>> last_boxed(r"\boxed{5}, no: \boxed{\frac{1}{2}}. I put it in \boxed{}, as in \boxed{3")
    '\\frac{1}{2}'
    """
    found, _ = boxes(text)
    return found[-1].content if found else None


def last_answer(text: str, found: list[Box]) -> Box | None:
    r"""The last box, together with those before it that are one answer with it.

    Boxes are one answer where nothing but a comma, "and", "or", mathematics signs or `x =` stands between them; with
    no separator at all they must be in one paragraph. Anything else between them makes the later one a correction.

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
    if len(between) > _FARTHEST or not _BESIDE.fullmatch(between):
        return False
    return bool(_SEPARATED.search(between)) or not _PARAGRAPH.search(between)
