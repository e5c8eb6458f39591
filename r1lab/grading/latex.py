r"""The text of an answer, cleaned and repaired so that math-verify parses what was meant.

`normal` removes what surrounds an answer and unifies spellings (Unicode symbols, styles, spacing); `repaired` turns
plain notation (`2^(1/3)`, `sqrt(2)`, `5\sqrt13`) into LaTeX that math-verify's grammar supports. Everything here takes
linear time for any answer of a bounded length.
"""

import re
import unicodedata
from functools import lru_cache

LONGEST = 2000  # characters of an answer that is compared in more ways than by character; matrices need hundreds

_SIGNS = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ",
    "÷": r"\div ", "∕": "/", "⁄": "/", "∞": r"\infty ", "√": r"\sqrt ", "∛": r"\sqrt[3] ", "≤": r"\le ", "≥": r"\ge ",
    "≠": r"\ne ", "≈": r"\approx ", "±": r"\pm ", "∓": r"\mp ", "°": r"^\circ ", "∪": r"\cup ", "∩": r"\cap ",
    "∈": r"\in ", "∅": r"\emptyset ", "′": "'", "’": "'", "、": ",", "。": ".", "…": r"\ldots ", "ℝ": r"\mathbb{R}",
    "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}", "∖": r"\setminus ",
    "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "⟨": r"\langle ", "⟩": r"\rangle ",
    "∠": r"\angle ", "△": r"\triangle ", "∧": r"\land ", "∨": r"\lor ", "≡": r"\equiv ",
}  # fmt: skip
_GREEK = dict(zip("αβγδεζηθκλμνξπρστφχψωΓΔΘΛΞΠΣΦΨΩ", (
    "alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu xi pi rho sigma tau phi chi psi omega "
    "Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega").split()))  # fmt: skip
# NFKC would join the digits of a fraction, an exponent or an index to those before them: 3⅛ as 31/8, 10⁵ as 105.
_FRACTIONS = {
    c: r"\frac{{{}}}{{{}}}".format(*unicodedata.normalize("NFKC", c).split("⁄"))
    for c in map(chr, [*range(0xBC, 0xBF), *range(0x2150, 0x215F)])
}
_CHARACTERS = str.maketrans(_SIGNS | {c: f"\\{name} " for c, name in _GREEK.items()} | _FRACTIONS)
_SUPERSCRIPT, _SUBSCRIPT = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ", "₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₙₐₓ"
_RAISED = re.compile(f"([{_SUPERSCRIPT}]+)|([{_SUBSCRIPT}]+)")

_STYLE = (
    r"\\(?:mathbf|mathit|mathsf|mathtt|mathnormal|boldsymbol|bm|underline|uline|pmb|displaystyle|textstyle|large|Large|"
    r"LARGE|huge|Huge|small|normalsize)(?![a-zA-Z])"
)
_DOTS = re.compile(r"\.{3,}")
_ORDINAL = re.compile(r"\^\s*\{?\s*(?:\\text\s*\{)?\s*(th|st|nd|rd)\s*\}?\s*\}?")
_BEFORE_NFKC = re.compile(r"\\!\s*|\\(?:text)?color\s*\{[^{}]*\}|\\(?:big|Big|bigg|Bigg)[lrm]?(?![a-zA-Z])")
_SPACING = re.compile(
    r"(?<!\\)\\[,;:> ]|\\(?:quad|qquad|left|right|limits|thinspace|medspace|thickspace|allowbreak|enspace)"
    r"(?![a-zA-Z])\.?|(?<!\\)~|\\phantom\s*\{[^{}]*\}|" + _STYLE
)
_SPELLINGS = [
    (re.compile(rf"\\(?:{names})(?![a-zA-Z])"), meant)
    for names, meant in [
        ("dfrac|tfrac|cfrac", r"\\frac"),
        ("dbinom|tbinom", r"\\binom"),
        ("varnothing", r"\\emptyset"),
        ("leq|leqslant|leqq", r"\\le"),
        ("geq|geqslant|geqq", r"\\ge"),
        ("neq", r"\\ne"),
        ("lt", "<"),
        ("gt", ">"),
        ("colon", ":"),
        ("simeq|doteq|thickapprox", r"\\approx"),
        ("dots|cdots|dotsc|dotsb", r"\\ldots"),
        ("textbf|textit|textrm|textsf|texttt|textnormal|textup|mbox|hbox|emph", r"\\text"),
        ("lbrace", r"\\{"),
        ("rbrace", r"\\}"),
        ("lbrack", "["),
        ("rbrack", "]"),
        ("smallsetminus|backslash", r"\\setminus"),
        ("wedge", r"\\land"),
        ("vee", r"\\lor"),
        ("iff|implies|Rightarrow|therefore", " "),
        ("degree", r"\\circ"),
        ("ast", "*"),
        ("lvert|rvert|vert", "|"),
    ]
]
_UPRIGHT = re.compile(r"\\(?:mathrm|rm|operatorname\*?)\s*\{\s*([^{}]*)\}")
_UNIT_FRACTION = re.compile(
    r"\\frac\s*\{\s*\\text\s*\{([^{}]*)\}\s*\}\s*\{\s*\\text\s*\{([^{}]*)\}\s*(?:\^\s*\{?\s*(\d)\s*\}?)?\s*\}"
)
# Powers within upright letters, `\mathrm{m\,s^{-2}}`, whose braces would hide where these letters end.
_UPRIGHT_POWERS = re.compile(r"\\(?:mathrm|text)\s*\{(?:[^{}^]|\^(?!\s*\{)|\^\s*\{\s*-?\d\s*\})*\}")
_POWER_IN_BRACES = re.compile(r"\^\s*\{\s*(-?\d)\s*\}")
# A degree sign made of a letter, a number in upright letters, a symbol in words, and a micro sign (not a variable).
_DEGREE = re.compile(r"(?<=[\d)}])\s*\^\s*(?:\{\s*(?:\\text\s*\{\s*o\s*\}|o)\s*\}|\\text\s*\{\s*o\s*\}|o(?![a-zA-Z]))")
_PRIMES = re.compile(r"(?<=\d)\s*\^\s*(?:\{\s*(?:\\prime\s*){1,2}\}|\\prime(?![a-zA-Z]))")
_NUMBER_IN_TEXT = re.compile(r"\\text\s*\{\s*(\d[\d.,/]*)\s*\}")
_MINUS = re.compile(
    r"(?:\\text\s*\{\s*(?:minus|negative)\s*\}|(?:minus|negative)\s)\s*(?=[\d.(]|\\(?:frac|sqrt)|[a-z]\b)", re.I
)
_MICRO = re.compile(r"(?<=\d)(\s?)μ(?=(?:[mgslLFCAJWV]|mol)\b)")
_REALS = re.compile(
    r"(?:\\text\s*\{\s*)?(?:all|any|every)\s+(?:the\s+)?reals?(?:\s+(?:numbers?|values?))?(?:\s+of\s+[a-z])?(?:\s*\})?",
    re.I,
)
_FUNCTIONS = (
    "sqrt|pi|sin|cos|tan|cot|sec|csc|sinh|cosh|tanh|arcsin|arccos|arctan|arccot|arcsec|arccsc|ln|log|exp|gcd|lcm|max|"
    "min|det|infinity|infty|inf|oo|theta|alpha|beta"
)
_FUNCTION = re.compile(_FUNCTIONS)
_WRAPPED = re.compile(
    r"(\$\$?)(?P<a>[^$]*)\1|\\\((?P<b>.*)\\\)|\\\[(?P<c>.*)\\\]|(\*\*|__)(?P<d>[^*_]*)\5|`(?P<e>[^`]*)`", re.DOTALL
)
_GROUPED = re.compile(r"(?:\\(?:boxed|fbox|text|mathrm))?\s*\{")
_ANNOUNCED = re.compile(
    r"\\text\s*\{\s*(?:(?:so|thus|hence|therefore),?\s+)?(?:the\s+)?(?:final\s+)?(?:answer|result|solution)s?\s*"
    r"(?:is|are|:|=|：)*\s*\}\s*[:=]?",
    re.IGNORECASE,
)
_ABOUT = re.compile(r"(?:\\(?:approx|sim)|about|approximately|roughly|around|~|≈)(?![a-zA-Z])\s*", re.IGNORECASE)
_QUALIFIER = re.compile(
    r"[,;]?\s*\(?\\text\s*\{\s*,?\s*\(?(?:for|where|with|such that)\b[^{}]*\}[^{}<>=]{0,40}"
    r"(?:\\in\s*\\mathbb\s*\{\s*[A-Z]\s*\})?\)?$"
)


@lru_cache(maxsize=4096)
def normal(text: str) -> str:
    r"""An answer in one spelling, without what surrounds it: math delimiters, bold, spacing, a period.

    >>> normal("**$ 3{,}5 $**."), normal(r"\dfrac{1}{2} \text{ cm}"), normal("3⅛"), normal("10⁻⁵")
    ('3{,}5', '\\frac{1}{2} \\text{ cm}', '3\\frac{1}{8}', '10^{-5}')
    """
    text = _RAISED.sub(_raised, _BEFORE_NFKC.sub("", _MICRO.sub(r"\1µ", text))).translate(_CHARACTERS)
    text = re.sub(r"(?<=\w)~(?=\w)", " ", text)
    text = _ORDINAL.sub(r"\\text{\1}", _DOTS.sub(r"\\ldots ", text))
    text = "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cf", "Cc"))
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    if "\\" in text:
        text = _SPACING.sub(" ", text)
        for spelling, meant in _SPELLINGS:
            text = spelling.sub(meant, text)
        text = _UPRIGHT_POWERS.sub(lambda found: _POWER_IN_BRACES.sub(r"^\1", found[0]), text)
        text = _UPRIGHT.sub(_upright, text)
        text = _UNIT_FRACTION.sub(lambda m: rf"\text{{ {m[1]}/{m[2]}{'^' + m[3] if m[3] else ''}}}", text)
        text = _NUMBER_IN_TEXT.sub(r"\1", text)
        text = _ANNOUNCED.sub("", text, count=1)
        text = _QUALIFIER.sub("", text)
    text = _PRIMES.sub(lambda found: "'" * found[0].count("p"), _DEGREE.sub(r"^\\circ ", text))
    while True:
        text = _ABOUT.sub("", text.strip().rstrip(" .;,:\n\t"), count=1) if _ABOUT.match(text.strip()) else text
        text = _MINUS.sub("-", text, count=1) if _MINUS.match(text) else text
        inner = _unwrapped(text.strip().rstrip(" .;,\n\t"))
        if _REALS.fullmatch(text):
            return r"\mathbb{R}"
        if inner is None:
            return " ".join(re.sub(r"(?<!\\)\\$", "", text.strip()).rstrip(" .;,\n\t").split())
        text = inner


def _raised(found: re.Match) -> str:
    mark, run = ("^", found[1]) if found[1] else ("_", found[2])
    return f"{mark}{{{unicodedata.normalize('NFKC', run).replace('−', '-')}}}"


def _upright(found: re.Match) -> str:
    """Upright letters: Euler's number, the imaginary unit, a function, else a word or a unit."""
    content = found[1].strip()
    if content in ("e", "i", "d"):
        return f" {content}" if content == "d" else content
    return f"\\{content} " if _FUNCTION.fullmatch(content) else f"\\text{{{found[1]}}}"


def _unwrapped(text: str) -> str | None:
    """The content of dollars, bold or braces around a whole text (plain braces around a list are a set)."""
    if whole := _WRAPPED.fullmatch(text):
        return next(
            inner for inner in (whole["a"], whole["b"], whole["c"], whole["d"], whole["e"]) if inner is not None
        )
    opened = _GROUPED.match(text)
    if opened and text.endswith("}") and closing(text, opened.end() - 1) == len(text) - 1:
        inner = text[opened.end() : -1]
        if opened[0].startswith("\\") or not re.search("[,;]|^$", inner):
            return inner
    return None


def closing(text: str, start: int) -> int:
    r"""Where the bracket that opens at `start` closes, or -1. Escaped braces are a separate kind of bracket.

    >>> closing("f(g(x))+1", 1)
    6
    """
    opens = text[start]
    closes = {"(": ")", "[": "]", "{": "}"}[opens]
    depth = 0
    for i in range(start, len(text)):
        if opens == "{" and i and text[i - 1] == "\\" and (i < 2 or text[i - 2] != "\\"):
            continue
        if text[i] == opens:
            depth += 1
        elif text[i] == closes:
            depth -= 1
            if depth == 0:
                return i
    return -1


PLAIN_FUNCTION = re.compile(rf"(?<![\\a-zA-Z])({_FUNCTIONS})(?![a-zA-Z])")
_PLAIN_NAMES = {"inf": "infty", "infinity": "infty", "oo": "infty"}
_FRAC = re.compile(r"\\frac\s*(?:([0-9a-zA-Z])\s*([0-9a-zA-Z])|([0-9a-zA-Z])\s*(?=\{)|(?=\{))")
_ROOT = re.compile(r"\\sqrt\s*(\[[^\[\]]*\])?\s*(?:(\d+(?:\.\d+)?|[a-zA-Z]|\\pi(?![a-zA-Z]))|(?=\())")
_POWER = re.compile(r"\^\s*(?:([-+]?\d+(?:\.\d+)?|-\s*[a-zA-Z])|(?=\())")
_SCIENTIFIC = re.compile(r"(?<![\w.\\}])(\d+(?:\.\d+)?|\.\d+)[eE]([-+]?)(\d{1,3})(?![\w.])")
_CHOOSE = re.compile(
    r"(?<![\w\\])(?:n?C|nCr)\s*\(\s*(\d+)\s*,\s*(\d+)\s*\)|(?:\{\s*\})?[_^]\s*\{?(\d+)\}?\s*C\s*_\s*\{?(\d+)\}?"
    r"|(?<![\w\\])C\s*_\s*\{?(\d+)\}?\s*\^\s*\{?(\d+)\}?|\{?\s*(\d+)\s*\\choose\s*(\d+)\s*\}?"
)  # fmt: skip
_ARRAY = re.compile(
    r"[(\[]?\s*\\begin\s*\{(array|smallmatrix|matrix)\}(\s*\{[lcr|\s]*\})?(.*?)\\end\s*\{\1\}\s*[)\]]?"
)
_IMAGINARY = re.compile(r"(?<![a-zA-Z\\_])(?<!_\{)([a-zA-Z]?)i(?![a-zA-Z=])\s*(\^)?")
_DEGREES = re.compile(r"(\\(?:sin|cos|tan|cot|sec|csc)\s*[({]?\s*)(\d+(?:\.\d+)?)\s*\^\s*\{?\s*\\circ\s*\}?")
_ABSOLUTE = re.compile(r"(?<![a-zA-Z\\])abs\s*\(([^()]*)\)")


def repaired(text: str) -> str:
    r"""The result of `normal` in the notation of math-verify's grammar.

    >>> repaired("5\\sqrt13"), repaired("2^(1/3)"), repaired("1.2*10^-5"), repaired("arctan(1/2)")
    ('5\\sqrt{13}', '2^{1/3}', '1.2*10^{-5}', '\\arctan(1/2)')
    """
    text = text.replace("**", "^")
    text = PLAIN_FUNCTION.sub(lambda m: "\\" + _PLAIN_NAMES.get(m[1], m[1]), text)
    text = _SCIENTIFIC.sub(lambda m: rf"{m[1]} \times 10^{{{m[2].strip('+')}{m[3]}}}", text)
    text = _CHOOSE.sub(_chosen, text)
    text = _ARRAY.sub(r"\\begin{pmatrix}\3\\end{pmatrix}", text)
    text = re.sub(r"(\\\\)\s*\[[^\[\]]*\]|\\hline|\\cr(?![a-zA-Z])", r"\1", text)
    text = re.sub(r"\\\\\s*(?=\\end\s*\{)", "", text)
    text = _matrix_of_lists(text)
    text = _ABSOLUTE.sub(r"|\1|", text)
    text = _DEGREES.sub(r"\1\2\\cdot\\frac{\\pi}{180}", text)
    text = _braced(_ROOT, text, lambda m: rf"\sqrt{m[1] or ''}", 2)
    text = _braced(_POWER, text, lambda m: "^", 1)
    text = _FRAC.sub(
        lambda m: rf"\frac{{{m[1]}}}{{{m[2]}}}" if m[1] else rf"\frac{{{m[3]}}}" if m[3] else r"\frac", text
    )
    text = re.sub(r"(\\frac\s*\{[^{}]*\})\s*([0-9a-zA-Z])", r"\1{\2}", text)
    text = re.sub(r"_\s*(\d)(?=\s)", r"_{\1}", text)
    if r"\int" not in text and r"\frac{d" not in text:  # math-verify takes "d" before a letter for a differential
        text = re.sub(r"(?<![a-zA-Z\\])d(?=\s*\\?[a-zA-Z])", "{d}", text)
    if not re.search(r"\\(?:sum|prod)(?![a-z])|(?<![a-zA-Z])i\s*=", text):
        text = _IMAGINARY.sub(lambda m: f"{m[1]} {{I}}^" if m[2] else f"{m[1]} I ", text)
    return text


def _chosen(found: re.Match) -> str:
    over, under = [digits for digits in found.groups() if digits]
    return rf"\binom{{{over}}}{{{under}}}"


def _matrix_of_lists(text: str) -> str:
    """Python's list of lists as a matrix."""
    bare = text.replace(" ", "")
    if not (bare.startswith("[[") and bare.endswith("]]")):
        return text
    rows = re.findall(r"\[([^\[\]]*)\]", bare[1:-1])
    if ",".join(f"[{row}]" for row in rows) != bare[1:-1]:
        return text
    return r"\begin{pmatrix}" + r"\\".join(row.replace(",", "&") for row in rows) + r"\end{pmatrix}"


def _braced(operator: re.Pattern, text: str, written, argument: int) -> str:
    """An operator with its argument in braces: digits or a letter that follow it, or the content of parentheses."""
    parts, done = [], 0
    for found in operator.finditer(text):
        if found.start() < done:
            continue
        if found[argument] is not None:
            inner, end = found[argument], found.end()
        else:
            end = closing(text, found.end()) + 1
            inner = text[found.end() + 1 : end - 1]
            if not end or operator.search(inner):  # the inner one first
                if not end:
                    continue
                inner = _braced(operator, inner, written, argument)
        parts += [text[done : found.start()], written(found), "{", inner, "}"]
        done = end
    return "".join(parts) + text[done:]
