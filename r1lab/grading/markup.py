r"""Wrappers around an answer that change nothing: bold, dollars, fonts, colors, spacing, a period.

Everything here takes linear time on any text.
"""

import re

BOLD = re.compile(r"\*\*([^*\n]+)\*\*")
_WRAPPED = re.compile(
    r"\$\$((?:[^$\\]|\\.)+)\$\$|\$((?:[^$\\]|\\.)+)\$|\\\(((?:(?!\\\)).)+)\\\)|\\\[((?:(?!\\\]).)+)\\\]", re.DOTALL
)
# Commands whose last argument is displayed unchanged; `\bbox[5px]{7}` and `\textcolor{red}{7}` have others before it.
_COMMAND = re.compile(
    r"\\(?:(?:text|math)(?:bf|it|rm|tt|sf|sl|up|normal)?|underline|uline|emph|mbox|hbox|boldsymbol|bm|pmb"
    r"|bbox(?:\[[^\]{}]{0,80}\])?|(?:text|f)?color(?:box)?\s*\{[^{}]{0,40}\}(?:\s*\{[^{}]{0,40}\}(?=\s*\{))?)\s*\{"
)
_SWITCH = re.compile(
    r"(?:\\color\s*\{[^{}]{0,40}\}|\\(?:(?:display|text)style|[lL]arge|LARGE|[hH]uge|small|bf(?:series)?|rm|it"
    r"|mathstrut|strut|hfill)(?![a-zA-Z]))\s*(?!\s*\{)"
)
_COLOR = re.compile(r"\\(?:text)?color\s*\{[^{}]{0,40}\}")
_SPACING_BEFORE = re.compile(r"(?:\s|~|\\[ ,;:!]|\\q?quad(?![a-zA-Z])|\\(?:thin|enspace|hspace\*?\{[^{}]{0,20}\}))++")
_SPACING_AFTER = re.compile(r"(?:~|\\[ ,;:!]|\\q?quad|\\(?:mathstrut|strut|hfill|checkmark|blacksquare|qed)|\\)$")

_ENDLESS = re.compile(r"\.\d{1,20}\.{3}$")  # the dots of 0.666... are no full stops


def plain(answer: str) -> str:
    r"""An answer without its wrappers: bold, dollars, `\text{}`, colors, spacing, a period.

    >>> plain(r"**$\text{(B)}$.**"), plain(r"\color{red}{7}\ "), plain(r"\underline{\frac{1}{2}}")
    ('(B)', '7', '\\frac{1}{2}')
    """
    for _ in range(6):  # markup in markup, but no text of nothing but dollars
        before = answer
        answer = _spaced_out(answer)
        answer = (answer if _ENDLESS.search(answer) else answer.rstrip(".,;:")).strip("*` \t\n")
        answer = _SWITCH.sub("", answer, count=1) if _SWITCH.match(answer) else answer
        if wrapped := _WRAPPED.fullmatch(answer):
            answer = next(filter(None, wrapped.groups()))
        elif (command := _COMMAND.match(answer)) and closes(answer, command.end()) == len(answer) - 1:
            answer = answer[command.end() : -1]
        if answer == before:
            break
    return _COLOR.sub("", answer).strip()


def closes(text: str, start: int) -> int:
    """Where the brace that is open at `start` closes; -1 if it never does. Escaped braces do not count.

    >>> closes("{a{b}c}d", 1)
    6
    """
    depth = 1
    for token in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(token[0], 0)
        if depth == 0:
            return token.start()
    return -1


_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def _spaced_out(text: str) -> str:
    """A text without the white space around it, including LaTeX's own."""
    if spacing := _SPACING_BEFORE.match(text):
        text = text[spacing.end() :]
    for _ in range(8):
        text = text.rstrip()
        spacing = _SPACING_AFTER.search(text, max(len(text) - 16, 0))
        if not spacing:
            break
        slashes = len(text) - len(text.rstrip("\\"))
        if spacing[0] == "\\" and slashes % 2 == 0:
            break  # a line break of LaTeX, or part of another command
        text = text[: spacing.start()]
    return text
