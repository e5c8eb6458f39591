r"""Text that may follow a number without changing it: real units, and plain nouns for what is counted.

Anything else is part of the mathematics and is never dropped: a variable (`6cd`), a constant (`2 pi`), a word that
changes the number (`7 or 8`, `7 halves`), so that no answer is accepted for something that it does not say.
"""

import re
from typing import NamedTuple

# Canonical name of a unit: its other spellings. A plural "s" is implied.
_UNITS = {
    "m": "meter metre", "cm": "centimeter centimetre", "mm": "millimeter millimetre", "km": "kilometer kilometre",
    "dm": "decimeter decimetre", "nm": "nanometer", "μm": "micrometer micrometre micron", "μs": "microsecond",
    "μg": "microgram", "μL": "microliter microlitre μl", "μF": "microfarad", "μC": "microcoulomb", "μA": "", "μV": "",
    "in": "inch inches", "ft": "foot feet", "yd": "yard", "mi": "mile",
    "g": "gram gramme gm", "kg": "kilogram kilo", "mg": "milligram", "t": "ton tonne", "lb": "pound", "oz": "ounce",
    "L": "liter litre", "mL": "milliliter millilitre ml", "gal": "gallon", "qt": "quart", "pt": "pint", "cup": "",
    "tbsp": "tablespoon", "tsp": "teaspoon", "ha": "hectare", "acre": "", "cc": "",
    "s": "second sec", "min": "minute", "h": "hour hr", "ms": "millisecond", "day": "", "week": "wk", "month": "",
    "year": "yr", "decade": "", "century": "centuries",
    "mph": "", "kph": "kmh kmph", "rpm": "", "knot": "",
    "N": "newton", "J": "joule", "kJ": "kilojoule", "cal": "calorie", "kcal": "", "W": "watt", "kW": "kilowatt",
    "kWh": "", "V": "volt", "A": "amp ampere", "Ω": "ohm", "Pa": "pascal", "kPa": "", "atm": "atmosphere",
    "Hz": "hertz", "kHz": "", "MHz": "", "GHz": "", "mol": "mole", "K": "kelvin", "°C": "celsius C",
    "°F": "fahrenheit F", "eV": "", "dB": "decibel",
    "byte": "", "KB": "kilobyte kb", "MB": "megabyte mb", "GB": "gigabyte gb", "bit": "",
    "°": "degree deg", "rad": "radian",
    "$": "dollar usd buck", "cent": "¢", "€": "euro eur", "£": "gbp", "¥": "yuan yen rmb cny jpy 元 円 圆",
    "₹": "rupee rs inr", "₩": "won 원", "₽": "ruble rouble руб рублей",
    "unit": "",
}  # fmt: skip
_CANONICAL = {name: unit for unit, names in _UNITS.items() for name in (unit, *names.split())}
_SAME = {"km/h": "kph", "mi/h": "mph"}

# Single letters that are units after a space (`5 m`) if the gold answer is a bare number.
_LETTERS = frozenset("mgsLNJWVAK")

# Words that change the number, so that the text after them is not the unit of a number.
_MEANING = frozenset(
    "or and not no nor neither never but if to than plus minus negative positive times over by divided multiplied of "
    "squared cubed factorial choose mod modulo base root power half halves third thirds quarter quarters fourth "
    "fourths fifth fifths sixth sixths seventh sevenths eighth eighths ninth ninths tenth tenths hundredth hundredths "
    "thousandth thousandths zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred "
    "thousand million billion trillion dozen double triple twice pi infinity infinite percent percentage wrong "
    "incorrect false instead isn either between through until versus vs below under except without unknown undefined "
    "halved doubled tripled more less fewer greater sqrt sin cos tan log exp even odd remainder alpha beta "
    "theta".split()
)
_SMALL = frozenset("in is of an the th st nd rd".split())  # "hours in total", "of the apples", "5th"
_LONGEST = 6  # words

_ASIAN = "[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]"
_ASIAN_MEANING = re.compile(
    "[零〇一二三四五六七八九十百半几两或和与及不非加减乘除以点倍负正约到至是π]|千(?![克米瓦])|分之|또는|아[니닙닌]|ない|ません|以[上下]|未満"
)

_PRIME = re.compile(r"\s*(?:'{1,2}|\")\s*")  # feet or minutes, inches or seconds
_PARTS = re.compile(
    rf"(?P<word>{_ASIAN}+|[^\W\d_]+)|(?P<symbol>[$€£¥₹₩₽¢°Ω])|\^?\s*\{{?(?P<power>-?[23])\}}?(?![\d.])|(?P<slash>/)"
    r"|[\s.()·'-]+|(?P<other>.)",
    re.DOTALL,
)


def unit(text: str, *, letters: bool = False) -> str | None:
    r"""The canonical name of the unit after a number; "" for a noun or nothing, None for anything else.

    Args:
        text: All text after the number, including the space.
        letters: Whether a single letter after a space may be a unit outside `\text{}`.

    >>> unit(r" \text{ km/h}"), unit(" miles per hour"), unit("cm^2"), unit(" square centimeters"), unit(" apples")
    ('kph', 'mph', 'cm2', 'cm2', '')
    >>> unit("cd"), unit(" pi"), unit(r"\text{ or }"), unit("m"), unit(" halves")
    (None, None, None, None, None)
    """
    upright = r"\text" in text
    apart = upright or text[:1].isspace()
    plain = re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", re.sub(r"\\mu\s*(\\text\s*\{\s*)", r"\1μ", text))
    plain = re.sub(r"\\mu\s+", "μ", plain) if upright else plain
    plain = re.sub(r"\^\s*\{?\s*\\circ\s*\}?", "°", plain)
    plain = re.sub(r"\\cdot(?![a-zA-Z])|\\(?=[$%])|\{\s*\}", " ", plain.replace(r"\Omega", "Ω"))
    plain = re.sub(r"([a-zA-Z]+)\s*\^\s*\{?\s*-([123])\s*\}?", r"/\1\2", plain).replace("1", "")
    found, square, words = "", "", 0
    for part in _PARTS.finditer(plain):
        word = part["word"]
        if part["other"]:
            return None
        if part["power"]:
            if not found or found[-1] in "/23":
                return None
            found += part["power"]
        elif part["slash"] or word in ("per", "/") or (word in ("a", "an") and found):  # "hours a week"
            found += "/"
        elif word in ("sq", "square", "cubic", "cu"):
            square = "2" if word[0] == "s" else "3"
        elif part["symbol"] or word:
            name = _canonical(part["symbol"] or word)
            if word and len(word) == 1 and word.isascii() and not upright:
                if not (found or (letters and apart and word in _LETTERS)):
                    return None
            if name and (len(name) == 1 or apart or word or part["symbol"]):
                found += name.removeprefix("°") + square if found.endswith("°") else name + square
                square = ""
            elif _noun(word, apart, upright):
                words += 1
            else:
                return None
            apart = True
    if words:
        return "" if words <= _LONGEST else None
    if (
        square
        or found.endswith("/")
        or not (found or not text.strip())
        or (found.startswith("/") and not re.match(r"\s*(?:/\s*[^\W\d_]{3}|per\b)", plain))
    ):
        return None
    return _SAME.get(found, found)


def _canonical(word: str) -> str | None:
    for spelling in (word, word.lower(), word.lower().removesuffix("s")):
        if spelling in _CANONICAL and (len(word) > 1 or spelling == word):
            return _CANONICAL[spelling]
    return None


def _noun(word: str, apart: bool, upright: bool) -> bool:
    """Whether a word names the counted things."""
    if re.match(_ASIAN, word):
        return len(word) <= _LONGEST and not _ASIAN_MEANING.search(word)
    if word.lower() in _SMALL:
        return apart or word.lower() in ("th", "st", "nd", "rd")
    return apart and word.lower() not in _MEANING and (len(word) > 2 or upright and len(word) > 1)


class Measured(NamedTuple):
    """An expression without the text after it: its unit (None: none or a noun), a factor, whether it was percent."""

    value: str
    unit: str | None = None
    factor: int = 1
    percent: bool = False


_PERCENT = re.compile(
    r"\s*(?:\\?%|(?:\\text\s*\{\s*)?(?:percent|per\s?cent|percentage|pct)(?![a-z])\s*\.?(?:points?)?(?:\s*\})?)",
    re.IGNORECASE,
)
_MAGNITUDES = {
    "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12,
    "万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8, "만": 10**4, "억": 10**8,
}  # fmt: skip
_MAGNITUDE = re.compile(rf"\s*(?:\\text\s*\{{\s*)?({'|'.join(_MAGNITUDES)})(?![a-rt-zA-Z])s?\s*(?:of(?![a-z]))?")
_OF_AN_ANGLE = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")
# From the end: a value ends in a digit, a bracket, a factorial, pi or a variable.
_VALUE_END = re.compile(
    r"\\text\s*\{[^{}]*\}|\^\s*\{?\s*\\circ\s*\}?|(?P<end>\^\s*\{?\s*-?\d+\s*\}?|\\pi(?![a-zA-Z])|[\d)\]}!|]|\\(?!cdot|Omega|mu\s*\\text)[a-zA-Z]+)"
    r"|(?P<word>[^\W\d_]+)|.",
    re.DOTALL,
)


def measured(text: str, *, letters: bool = False) -> Measured:
    r"""An expression without its unit, percent sign or magnitude.

    >>> measured(r"2\sqrt{3} \text{ cm}"), measured("9.8 \\text{ m} / \\text{s}^{2}").unit
    (Measured(value='2\\sqrt{3}', unit='cm', factor=1, percent=False), 'm/s2')
    >>> measured(r"12\%").percent, measured(r"\sqrt{2}t").value, measured(r"4.5 \times 10^{-3} \text{ kg}").value
    (True, '\\sqrt{2}t', '4.5 \\times 10^{-3}')
    """
    end = words_end = 0
    for found in _VALUE_END.finditer(text):
        power = found["end"] and found["end"].startswith("^")
        if found["end"] and (not power or end == found.start()):
            end = words_end = found.end()
        elif found["word"]:
            words_end = found.end()
    for cut in dict.fromkeys((end, words_end)):
        value, rest = text[:cut].rstrip(), text[cut:]
        if not value or not rest.strip():
            continue
        if value[-1].isdigit() and _PRIME.fullmatch(rest):
            return Measured(value)
        if percent := _PERCENT.match(rest):
            after = rest[percent.end() :]
            if not after.strip() or unit(after) is not None:
                return Measured(value, percent=True)
        factor = 1
        if magnitude := _MAGNITUDE.match(rest):
            factor = _MAGNITUDES[magnitude[1]]
            rest = " " + rest[magnitude.end() :].replace("}", "", r"\text" in magnitude[0])
        found = unit(re.sub(r"(?<=\S)\s*\\text\s*\{\s*units?\s*\}$", "", rest), letters=letters)
        if found == "°" and _OF_AN_ANGLE.search(value):
            return Measured(text)
        if found is not None:
            return Measured(value, found or None, factor)
    return Measured(text)


def agree(a: str | None, b: str | None) -> bool:
    """Whether two units are compatible: the same, or one of them is missing (or only called "units")."""
    if not a or not b or a == b:
        return True
    generic = [name for name in (a, b) if name.startswith("unit")]
    if len(generic) == 2 or generic and generic[0] != "unit":  # units^2 is neither units^3 nor cm^3
        return a[-1:] == b[-1:]
    return bool(generic)
