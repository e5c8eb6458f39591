r"""The parts of an answer: elements of lists, sets and tuples, sides of equations, names, both signs of `\pm`.

Texts are in the form that `r1lab.grading.latex.normal` returns.
"""

import re
from itertools import product

_TOKEN = re.compile(
    r"\\\\|\\text\s*\{[^{}]*\}|\\begin\s*\{[a-z]*\}|\\end\s*\{[a-z]*\}|\\[a-zA-Z]+|\\.|[a-zA-Z\u4e00-\u9fff]+|<=|>=|!=|==|:=|.",
    re.DOTALL,
)
_OPENING, _CLOSING = (
    {"(", "[", "{", r"\{", r"\langle", r"\lfloor", r"\lceil"},
    {")", "]", "}", r"\}", r"\rangle", r"\rfloor", r"\rceil"},
)
_AND_OR = re.compile(r"(?:\\text\s*\{\s*,?\s*(?:or|and)\s*,?\s*\}|or|and|或|和|及|\\lor|\\land)")
_OR = re.compile(r"(?:\\text\s*\{\s*,?\s*or\s*,?\s*\}|or|或|\\lor|\\cup)")
_THOUSANDS = re.compile(r"(?<![\d,])\d{1,3}(?:,\d{3})+(?![\d,])")
_CASES = re.compile(
    r"\\begin\s*\{(?:cases|aligned|array)\}(?:\s*\{[lcr|\s]*\})?(.*)\\end\s*\{(?:cases|aligned|array)\}"
)
_FRENCH = re.compile(r"([\]\[])([^\[\](){}]*[,;][^\[\](){}]*)([\]\[])")


def _split(text: str, separates) -> list[str]:
    """The parts between separators outside all brackets; `separates(token)` identifies separators."""
    parts, start, depth = [], 0, 0
    for token in _TOKEN.finditer(text):
        word = token[0]
        if word in _OPENING or word.startswith(r"\begin"):
            depth += 1
        elif word in _CLOSING or word.startswith(r"\end"):
            depth -= 1
        elif depth == 0 and separates(word):
            parts.append(text[start : token.start()].strip())
            start = token.end()
    return [*parts, text[start:].strip()]


def elements(text: str, *, thousands: bool = True) -> list[str]:
    r"""The elements of a list or a set without their brackets, with both signs expanded; one for anything else.

    Args:
        thousands: Whether the commas of a single `1,234` belong to a number.

    >>> elements("x=1, (2,3) and 4"), elements(r"\{1;2\}"), elements(r"1 \pm \sqrt{2}"), elements("x = 1,234")
    (['x=1', '(2,3)', '4'], ['1', '2'], ['1 + \\sqrt{2}', '1 - \\sqrt{2}'], ['x = 1,234'])
    """
    if cases := _CASES.fullmatch(text):
        parts = [part for part in _split(cases[1].replace("&", ""), lambda t: t in (r"\\", ",")) if part]
    else:
        text = _set_content(text)
        apart = _split(text, lambda t: t == ";" or _AND_OR.fullmatch(t))
        whole = thousands and len(apart) > 1
        parts = [
            part
            for one in apart
            for part in ([one] if whole and _THOUSANDS.fullmatch(one) else _split(one, lambda t: t == ","))
        ]
        if thousands and len(parts) > 1 and len(found := _THOUSANDS.findall(text)) == 1:
            if found[0].count(",") == len(parts) - 1:
                parts = [text]
        parts = [part for part in parts if part] or [text]
    return [one for part in parts for one in _both_signs(part)]


def _set_content(text: str) -> str:
    for left, right in ((r"\{", r"\}"), ("{", "}")):
        if text.startswith(left) and text.endswith(right) and text != left + right:
            inner = text[len(left) : -len(right)]
            depth = 0
            for token in _TOKEN.finditer(inner):
                depth += (token[0] in _OPENING) - (token[0] in _CLOSING)
                if depth < 0:
                    return text
            return inner.strip()
    return text


def _both_signs(text: str) -> list[str]:
    if r"\pm" not in text and r"\mp" not in text:
        return [text]
    pieces = re.split(r"\\(pm|mp)(?![a-zA-Z])", text)
    signs = pieces[1::2]
    count = 1 if "mp" in signs else len(signs)
    if count > 3:
        return [text]
    written = []
    for chosen in product("+-", repeat=count):
        made = pieces[0]
        for i, (sign, piece) in enumerate(zip(signs, pieces[2::2])):
            one = chosen[0 if count == 1 else i]
            made += (one if sign == "pm" else "-" if one == "+" else "+") + piece
        written.append(re.sub(r"(^|[=({,]\s*)\+\s*", r"\1", made))
    return written


def bracketed(text: str) -> tuple[str, list[str]] | None:
    r"""The brackets and elements of a tuple, vector or interval, or None.

    >>> bracketed("[1, 2)"), bracketed(r"\langle 1, 2 \rangle"), bracketed("]1;2["), bracketed("(1)(2)")
    (('[)', ['1', '2']), ('()', ['1', '2']), ('()', ['1', '2']), None)
    """
    if found := _FRENCH.fullmatch(text):
        opened, closed = found[1], found[3]
        if (opened, closed) != ("[", "]"):
            text = ("(" if opened == "]" else "[") + found[2] + (")" if closed == "[" else "]")
    text = text.replace(r"\langle", "(").replace(r"\rangle", ")")
    if not text or text[0] not in "([" or text[-1] not in ")]":
        return None
    inner, depth = text[1:-1], 0
    for token in _TOKEN.finditer(inner):
        depth += (token[0] in _OPENING) - (token[0] in _CLOSING)
        if depth < 0:
            return None
    parts = _split(inner, lambda t: t in ",;")
    return (text[0] + text[-1], parts) if len(parts) > 1 and all(parts) else None


def assigned(text: str) -> list[str] | None:
    """The equations that an equation between two tuples means, or None.

    >>> assigned("(x, y) = (3, -2)"), assigned("x = 3")
    (['x = 3', 'y = -2'], None)
    """
    parts = sides(text)
    pairs = [pair for part in parts if (pair := bracketed(part))]
    if not len(parts) == len(pairs) == 2:
        return None
    (_, names), (_, values) = pairs
    if len(names) != len(values) or not all(map(is_name, names)):
        return None
    return [f"{name} = {value}" for name, value in zip(names, values)]


def vector(text: str) -> tuple[str, list[str]] | None:
    r"""The elements of a matrix with one row or one column, as `bracketed` returns those of a vector; None for others.

    >>> vector(r"\begin{pmatrix} 1 \\ -2 \end{pmatrix}"), vector(r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}")
    (('()', ['1', '-2']), None)
    """
    whole = re.fullmatch(r"\\begin\s*\{[pb]matrix\}(.*)\\end\s*\{[pb]matrix\}", text)
    if not whole or whole[1].count(r"\begin"):
        return None
    rows, columns = _split(whole[1], lambda t: t == r"\\"), _split(whole[1], lambda t: t == "&")
    return ("()", rows if len(columns) == 1 else columns) if 1 in (len(rows), len(columns)) else None


def sides(text: str) -> list[str]:
    r"""The parts between equals signs.

    >>> sides("x = 5+5 = 10"), sides(r"x \le 3"), sides(r"x \in [1,2]")
    (['x', '5+5', '10'], ['x \\le 3'], ['x', '[1,2]'])
    """
    return _split(text, lambda t: t in ("=", "==", ":=", r"\in"))


def approximated(text: str) -> list[str]:
    r"""The parts between signs of approximate equality.

    >>> approximated(r"\frac{7}{3} \approx 2.33")
    ['\\frac{7}{3}', '2.33']
    """
    return (
        [part for part in _split(text, lambda t: t in (r"\approx", r"\cong")) if part]
        if r"\approx" in text or r"\cong" in text
        else [text]
    )


def alternatives(text: str) -> list[str]:
    r"""The parts between "or"s and signs of union; the intervals of a list are joined too.

    >>> alternatives(r"x<1 \text{ or } x>2"), alternatives("(1,2), [3,4)")
    (['x<1', 'x>2'], ['(1,2)', '[3,4)'])
    """
    parts = elements(text)
    if len(parts) > 1 and all(map(bracketed, parts)):
        return parts
    return [part for part in _split(text, lambda t: bool(_OR.fullmatch(t))) if part]


def conditions(text: str) -> list[str]:
    """The parts between commas and "and"s."""
    return [part for part in _split(text, lambda t: t == "," or bool(_AND_OR.fullmatch(t))) if part]


_INDEX = re.compile(r"_\s*(?:\{[^{}]*\}|\\?[a-zA-Z]+|\d+)|'+")
_DECORATION = re.compile(
    r"\\(?:text|overline|vec|bar|hat|overrightarrow|widehat|angle|triangle|mathcal|mathbb|operatorname|Pr|parallelogram|odot)"
    r"(?![a-zA-Z])"
)
_APPLIED = re.compile(
    r"(?:[a-zA-Z]|\\(?:sin|cos|tan|cot|sec|csc|gcd|max|min|det|deg))\s*(?:\^\s*\{\s*-1\s*\})?\s*[(\[][^()\[\]]*[)\]]"
)
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc|det)(?![a-zA-Z])")
_LENGTH = re.compile(r"\|\s*(?:[A-Z]{2}|\\(?:vec|mathbf|overline|overrightarrow)\s*\{[^{}]*\})\s*\|")
_NAME = re.compile(r"(?:[a-zA-Z ,.:/()\[\]{}+-]|\\cdot|\\times|\\frac|\\[a-zA-Z]+)+")
_GREEK = re.compile(
    r"\\(?:alpha|beta|gamma|delta|epsilon|varepsilon|zeta|eta|theta|kappa|lambda|mu|nu|xi|rho|sigma|tau|phi|varphi|chi|"
    r"psi|omega|Gamma|Delta|Theta|Lambda|Xi|Sigma|Phi|Psi|Omega|ell)(?![a-zA-Z])"
)
_FORMULA = re.compile(r"\\(?:frac|cdot|times|text)(?![a-zA-Z])")
_COMMAND = re.compile(r"\\[a-zA-Z]+")


def is_name(text: str) -> bool:
    r"""Whether a side of an equation only names the quantity on the other side.

    A name has no numbers outside an index or an argument, no power and no root, so an unsolved equation (`x^2 = 25`,
    `2x = 10`) has none. Sums, products and ratios of different letters are names of the requested quantity.

    >>> [is_name(t) for t in (r"S_{\triangle ABC}", "f(2)", "|AB|", r"\frac{NO}{BO}", "m+n", r"\text{Area}", "(x, y)")]
    [True, True, True, True, True, True, True]
    >>> [is_name(t) for t in ("x^2", "2x", "x+1", r"\sqrt{x}", "|x|", r"\log_2 x", "-x", "x-x", "5", "")]
    [False, False, False, False, False, False, False, False, False, False]
    """
    if r"\text" in text and re.search(r"\\text\s*\{[^{}]*[^\W\d_]{2}", text):
        text = re.sub(r"\\text\s*\{[^{}]*\}", "T", text)
    text = _LENGTH.sub("L", _INDEX.sub("", text))
    text = _APPLIED.sub("F", _APPLIED.sub("F", text))
    text = _GREEK.sub("g", _DECORATION.sub("", _TRIGONOMETRIC.sub("", text)))
    plain = _FORMULA.sub(" ", text).strip()
    if (
        not plain
        or _COMMAND.search(plain)
        or not re.fullmatch(r"[a-zA-Z ,.:/()\[\]{}+-]+", plain)
        or plain.startswith("-")
    ):
        return False
    letters = re.findall("[a-zA-Z]", plain)
    return bool(letters) and not ("+" in plain or "-" in plain) or len(letters) == len(set(letters)) > 1


def label(text: str) -> str:
    """A name without spaces, braces and text commands, for comparison."""
    return re.sub(r"\\(?:text|triangle|overline|vec)(?![a-zA-Z])|[\s{}\\]", "", text)


def in_words(name: str) -> bool:
    """Whether a name is a phrase (`Area`, `number of ways`) rather than a symbol."""
    return bool(re.search(r"\\text|[a-zA-Z]{3}", name)) and not re.search(r"\\(?!text)", name)
