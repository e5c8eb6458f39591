"""Whether the thinking stays in one language, judged by the script of its words."""

import re
import string
import unicodedata

from r1lab.errors import UserError
from r1lab.grading.parts import thinking
from r1lab.grading.scripts import SCRIPTS
from r1lab.rewards.facts import reward
from r1lab.rewards.score import Score

LANGUAGES: dict[str, str] = dict.fromkeys(("en", "de", "es", "fr", "it", "nl", "pt"), "latin")
LANGUAGES |= {"ru": "cyrillic", "uk": "cyrillic", "el": "greek", "ar": "arabic", "fa": "arabic", "he": "hebrew"}
LANGUAGES |= {"ko": "hangul", "zh": "han", "ja": "kana"}

# Math and code, which are written in Latin and Greek letters in every language.
_FORMAL = re.compile(
    r"```(?:[^`]|`(?!``))*+```|`[^`\n]*+`|\$\$[^$]*+\$\$|\$[^$\n]*+\$|\\\((?:[^\\]|\\(?![()]))*+\\\)"
    r"|\\\[(?:[^\\]|\\(?![\[\]]))*+\\\]|\\(?:begin|end)\{[^{}\n]*\}|\\[a-zA-Z]+"
)
_FORMAL_LETTERS = re.compile(f"[{SCRIPTS['latin']}{SCRIPTS['greek']}]+")
# What plain text of every language writes in Latin letters, besides single letters: functions and units, points and
# segments (AB, ABCDE), chemical formulas (NaCl), and products of variables next to a digit or a sign (2ab, xy = 6).
_LATIN_RUN = re.compile(r"([\d)=+*/^<>≤≥×·−-] ?)?([a-zA-Z]{2,})(?= ?([\d(=+*/^<>≤≥×·−-])?)")
_SYMBOLS = re.compile(r"(?:[A-Z][a-z]?){2,4}")
_FUNCTIONS = re.compile(r"(?:(?:arc)?(?:sin|cos|tan|cot|log|ln|lg)[a-z]?){1,4}")
_NAMES = frozenset(
    "rt sin cos tan cot sec csc sinh cosh tanh coth arcsin arccos arctan arccot asin acos atan log ln lg exp lim max "
    "min sup inf gcd lcm mod det dim ker rank tr deg arg re im sgn sign abs sqrt floor ceil round var cov mm cm "
    "dm km nm um ml cl dl hl kl kg mg ug lb lbs oz ft yd mi ha hz khz mhz ghz kw kwh mw mwh mol kj mj kcal cal pa "
    "kpa mpa ev kev mev rpm mph kmh hr hrs ms ns us rad kb mb gb tb bit bps kbps mbps db lm lx cd ppm mmhg atm ph "
    "dx dy dz dt".split()
)
# Vowel marks and joiners, which would split words.
_MARKS = re.compile(
    "[\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670\u06d6-\u06dc\u200b-\u200f\u2060]+"
)
_HAN, _KANA = (re.compile(f"[{SCRIPTS[name]}]") for name in ("han", "kana"))
_WORD = re.compile(r"[^\W\d_]{2,}")


@reward(looks_for="manner")
def language_consistency_reward(
    completions, *, language: str | list[str] | None = None, **columns
) -> list[float | None]:
    """The share of the thinking's words that are in one language.

    This is DeepSeek-R1's language consistency reward (arXiv:2501.12948, section 2.3.2), which it adds to the accuracy
    so that the thinking does not mix languages. Words are classified by their script, which needs no model but cannot
    tell English from German, or Russian from Ukrainian. A word that mixes scripts, such as an English one with a
    Cyrillic letter, is in no language. Single letters, math, LaTeX and code do not count, except for text there in a
    script other than Latin or Greek. If the language has a script other than Latin, names of functions, units, points
    and segments in plain text (`AB = 5 cm`, `sin(x)`) do not count either. A Han or kana character weighs half a word.
    Han characters are Japanese if at least a tenth of the Han and kana characters is kana, else Chinese.

    Args:
        completions: Responses, with a prefilled `<think>` restored; one without tags is thinking as a whole.
        language: ar, de, el, en, es, fa, fr, he, it, ja, ko, nl, pt, ru, uk or zh: a setting, or a column of the data
            (None if the reward does not apply).

    Returns:
        `Score`s from 0 to 1. Reasons: consistent, mixed (with the share), other_language, no_words.

    >>> turns = ["<think> We add 我们 three. </think> 五", "<think></think> 5"]
    >>> language_consistency_reward(turns, language="en")
    [0.75, 0.0]
    """
    if language is None:
        raise UserError("rewards: language_consistency: language: is not set; type `language: en`, or add that column")
    languages = [language] * len(completions) if isinstance(language, str) else language
    for unknown in {wanted for wanted in languages if wanted is not None} - LANGUAGES.keys():
        there_are = ", ".join(sorted(LANGUAGES))
        raise UserError(f"rewards: language_consistency: language: {unknown!r} is not known; there are {there_are}")
    return [
        None if wanted is None else _score(text, wanted) for text, wanted in zip(completions, languages, strict=True)
    ]


def _score(turn: str, language: str) -> Score:
    text = _FORMAL.sub(lambda formal: _FORMAL_LETTERS.sub(" ", formal[0]), thinking(turn))
    text = _MARKS.sub("", unicodedata.normalize("NFKC", text))
    script = LANGUAGES[language]
    if script != "latin":
        text = _LATIN_RUN.sub(_without_symbols, text)
    text, han = _HAN.subn(" ", text)
    text, kana = _KANA.subn(" ", text)
    words = _WORD.findall(text)
    total = len(words) + (han + kana) / 2
    if not total:
        return Score(0.0, "no_words")
    if script not in ("han", "kana"):
        in_script = re.compile(f"[{SCRIPTS[script]}]+")
        matching = sum(in_script.fullmatch(word) is not None for word in words)
    else:
        japanese = kana * 10 >= han + kana
        matching = (japanese * (han + kana) if script == "kana" else (not japanese) * han) / 2
    if not matching:
        return Score(0.0, "other_language")
    return Score(matching / total, "consistent" if matching == total else f"mixed: {matching / total:.2f}")


def _without_symbols(found: re.Match) -> str:
    """A run of Latin letters, or nothing if it is a name or a symbol of mathematics or science."""
    before, run, after = found.groups()
    symbol = _SYMBOLS.fullmatch(run) and sum(map(str.isupper, run)) > 1
    product = len(run) == 2 and run.islower() and (before or after)
    known = symbol or product or _FUNCTIONS.fullmatch(run) or run.lower() in _NAMES or run in string.ascii_uppercase
    return (before or "") + ("" if known else run)
