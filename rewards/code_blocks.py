"""The program in a response: which of its fenced blocks counts, and where that block ends.

Everything here takes linear time on any text.
"""

import re

from r1lab.grading.parts import final_text

_PYTHON = re.compile(r"[{.\s]*(?:i?python|pypy|py)(?:[23](?:\.\d+)*)?(?![\w+#-])", re.IGNORECASE)
# A fence may follow the indentation of a list, the marker of its item, or the `>` of a quotation.
_FENCE = re.compile(r"((?:[ \t>]|[-*+][ \t]|\d{1,3}[.)][ \t])*+)(`{3,}|~{3,})(.*)", re.DOTALL)
_QUOTED = re.compile(r"^[ \t]*(?:>[ \t]?)+")
_TRIPLES = {
    "'''": re.compile(r"(?:[^'\\]|\\.|'(?!''))*+(''')?"),
    '"""': re.compile(r'(?:[^"\\]|\\.|"(?!""))*+(""")?'),
}
# An opening triple quotation mark, a string that ends on its line or does not, a comment, other text.
_TOKEN = re.compile(
    r"""(?P<open>'{3}|"{3})|"(?:[^"\\]|\\.)*+(?:"|\\?$)|'(?:[^'\\]|\\.)*+(?:'|\\?$)|(?P<comment>\#.*)|[^'"#]+""",
    re.DOTALL,
)
_PASSED = 20  # how many lines that could end a block are skipped because they are in a string or a comment


def extract(turn: str, function: str | None = None) -> str | None:
    r"""The program in a response, or None.

    It is the last closed block that is marked as Python, else the last closed block. With the name of a function,
    blocks that define neither it nor a class `Solution` count only if no block does. Blocks in the thinking never
    count, nor those outside the last `<answer>` if there is one.

    >>> extract("<think> ```python\n1\n``` </think> First:\n```py\n2\n```\nIts output:\n```\n3\n```")
    '2\n'
    >>> extract("```python\ndef f(): return 1\n```\nTry it:\n```python\nprint(f())\n```", "f")
    'def f(): return 1\n'
    """
    final = final_text(turn)
    if final is None:
        return None
    _, answered, last = final.rpartition("<answer>")
    found = blocks(last.partition("</answer>")[0] if answered else final)
    codes = [code for python, code in found if python] or [code for _, code in found]
    if function is not None:
        name = re.escape(function)
        defined = re.compile(rf"^[ \t]*(?:(?:async )?def {name}\b|{name} *=|class Solution\b)", re.MULTILINE)
        codes = [code for code in codes if defined.search(code)] or codes
    return codes[-1] if codes else None


def blocks(text: str) -> list[tuple[bool, str]]:
    r"""The closed fenced blocks of a text: whether each is marked as Python, and its code without indentation.

    A fence is three or more backticks or tildes. A block ends at a fence that is as long as the first one, at the end
    of a line. A fence in a string or a comment of the program ends it only if there is no other.

    >>> blocks("```c\nint a;\n```\nor\n1. ````py\n   s = '```'\n   # ```\n   t = 2\n   ````")
    [(False, 'int a;\n'), (True, "s = '```'\n# ```\nt = 2\n")]
    """
    lines, found, place = text.split("\n"), [], 0
    while place < len(lines):
        opened = _opening(lines[place])
        place += 1
        if opened:
            before, fence, python = opened
            closed = _closed(lines, place, fence, quoted=">" in before)
            if closed is None:
                break
            code, place = closed
            found.append((python, _outdented(code)))
    return found


def _opening(line: str) -> tuple[str, str, bool] | None:
    """The text before the fence if a line opens a block, the fence, and whether it is marked as Python."""
    if fence := _FENCE.fullmatch(line):
        before, fence, info = fence.groups()
        return None if "`" in info else (before, fence, bool(_PYTHON.match(info)))
    before, fence, info = line.partition("```")
    return (before, fence, True) if _PYTHON.fullmatch(info.strip()) else None  # "The program: ```python"


def _closed(lines: list[str], start: int, fence: str, *, quoted: bool) -> tuple[list[str], int] | None:
    """The lines of the block that opened before line `start`, and the number of the line after it."""
    code, first, passed, triple = [], None, 0, None
    for place in range(start, len(lines)):
        line = _QUOTED.sub("", lines[place]) if quoted else lines[place]
        comment, triple = _scan(line, triple)
        bare = line.rstrip()
        before = bare.rstrip(fence[0])
        length = len(bare) - len(before)
        if length >= 3 and (fence[0] == "`" or not before.strip()):
            ended = [*code, before], place + 1
            if length >= len(fence) and not comment and not triple:
                return ended
            first, passed = first or ended, passed + 1
            if passed > _PASSED:
                break
        code.append(line)
    return first


def _scan(line: str, triple: str | None) -> tuple[bool, str | None]:
    """Whether a line of Python ends in a comment, and the triple quotation mark that is open at its end."""
    place, comment = 0, False
    while place < len(line) and (token := (_TRIPLES[triple] if triple else _TOKEN).match(line, place)):
        if triple:
            place, triple = (token.end(), None) if token[1] else (len(line), triple)
        else:
            place, triple, comment = token.end(), token["open"], token["comment"] is not None
    return comment, triple


def _outdented(code: list[str]) -> str:
    """Lines without the indentation of the first one that is not blank."""
    first = next((line for line in code if line.strip() and not line.lstrip().startswith("#")), "")
    margin = len(first) - len(first.lstrip())
    return "\n".join(line[min(margin, len(line) - len(line.lstrip())) :] for line in code)
