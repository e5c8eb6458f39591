"""Definitions of a word, a sentence and a paragraph of an answer.

A word is a run of letters and digits, which single hyphens, apostrophes, periods or underscores may join
(`well-known`, `3.5`, `it's`); in Chinese and Japanese, each character is a word. Everything here takes linear time on
any text.
"""

import re
import unicodedata
from functools import lru_cache
from typing import Literal

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_RUN = rf"[^\W_{_CJK}]+"
RUN = re.compile(_RUN)
WORD = re.compile(rf"[{_CJK}]|{_RUN}(?:['’._-]{_RUN})*")
_CJK_STOP = re.compile(rf"[。｡]|[!?](?=[{_CJK}])")
_OPENERS = "\"'“”‘’«»([{*_#`"
_CLOSERS = "\"'”’»)]}*_`"
_QUOTES = "\"'”’»"
_NOTE = re.compile(r"(?:\[\d{1,3}\])+$")  # the number of a footnote
_STOPS = (".", "!", "?", "。", "।", "؟")
# Abbreviations that never end a sentence, those that do not end one before a number, and those that may end one.
_INSIDE = frozenset("mr mrs ms dr prof st mt gen col lt sgt rev hon e.g i.e cf vs viz ca approx".split())
_MONTHS = "jan feb mar apr jun jul aug sep sept oct nov dec"
_BEFORE_NUMBERS = frozenset(f"no nos fig figs eq vol p pp ch sec art {_MONTHS}".split())
_ABBREVIATIONS = frozenset(
    f"{_MONTHS} etc al jr sr inc ltd co corp dept est a.m p.m u.s u.k e.u u.n ph.d m.d b.a b.sc m.sc d.c n.b p.s "
    "p.p.s mon tue wed thu fri sat sun ave blvd rd min max".split()
)


@lru_cache(maxsize=8)
def plain(text: str) -> str:
    """A text without invisible differences: compatibility forms, zero-width and control characters, combining marks.

    So `key\\u200bword` is the keyword, and full-width letters are letters. Accents that Unicode composes remain.

    >>> plain("Ｈｉ\\u200b\\u202e \\x00th\\u0336ere")
    'Hi there'
    """
    text = unicodedata.normalize("NFKC", text)
    if text.isascii() and text.isprintable():
        return text.strip()
    return "".join(c for c in text if c.isspace() or unicodedata.category(c)[0] not in "CM").strip()


def words(text: str) -> list[str]:
    """The words of a text.

    >>> words("A well-known 3.5% -- it's 你好")
    ['A', 'well-known', '3.5', "it's", '你', '好']
    """
    return WORD.findall(plain(text))


def paragraphs(text: str, divider: Literal["***", "blank"] | None = None) -> list[str]:
    """The blocks of a text that have a word.

    Lines of `***` divide the text if they leave two blocks or more, as in IFEval; otherwise, and with the divider
    `blank`, blank lines do, and a line of `***` counts as one.

    >>> paragraphs("One.\\n\\nStill.\\n***\\nTwo."), paragraphs("One.\\n\\nTwo.")
    (['One.\\n\\nStill.', 'Two.'], ['One.', 'Two.'])
    """
    lines = plain(text).splitlines()
    for i, line in enumerate(lines):
        if not line.strip(" \t*"):
            lines[i] = "\0" if "***" in line.replace(" ", "") else ""  # plain text has no null character
    divided = _blocks("\n".join(lines), "\0")
    if divider == "***" or (divider is None and len(divided) > 1):
        return divided
    return _blocks("\n".join(lines).replace("\0", ""), "\n\n")


def _blocks(text: str, divider: str) -> list[str]:
    return [block.strip("\n") for block in text.split(divider) if WORD.search(block)]


def sentences(text: str) -> list[str]:
    """The sentences of a text: up to a `.`, `!`, `?` or `。` before white space, or up to the end of a paragraph.

    An abbreviation or an ellipsis ends one only before a capital letter (`Dr.` and `e.g.` never do), and a period
    inside quotation marks does not if a lower-case letter follows.

    >>> sentences('Dr. Smith went home. "Why?" she asked, e.g. twice... or so. It was 3.5 miles etc. Yes! It was')
    ['Dr. Smith went home.', '"Why?" she asked, e.g. twice... or so.', 'It was 3.5 miles etc.', 'Yes!', 'It was']
    """
    found = []
    for block in paragraphs(text, "blank"):
        sentence = []
        pieces = _CJK_STOP.sub(r"\g<0> ", block).split()
        for piece, following in zip(pieces, [*pieces[1:], ""]):
            sentence.append(piece)
            if _ends(piece, following):
                found.append(" ".join(sentence))
                sentence = []
        if sentence:
            found.append(" ".join(sentence))
    return found


def _ends(piece: str, following: str) -> bool:
    """Whether a sentence ends between two pieces of text."""
    bare = _NOTE.sub("", piece).rstrip(_CLOSERS)
    if not bare.endswith(_STOPS):
        return False
    following = following.lstrip(_OPENERS)
    small = following[:1].islower()
    quoted = any(mark in piece[len(bare) :] for mark in _QUOTES)
    if not bare.endswith("."):
        return not (quoted and small)
    word = bare.lstrip(_OPENERS).removesuffix(".").casefold()
    if word in _INSIDE or (word in _BEFORE_NUMBERS and following[:1].isdecimal()):
        return False
    if len(word) == 1 and word.isalpha() and word != "i" and following[:1].isupper():
        return False  # an initial
    return not (small and (quoted or word in _ABBREVIATIONS or bare.endswith("..") or len(word) == 1))
