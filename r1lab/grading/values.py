r"""The value that a sentence names: "she has 18 dollars", "the largest $n$ is 34", "thus x = 5", "Result: 175".

Only the last sentences of a text are searched, so that everything here takes linear time on any text.
"""

import re

from r1lab.grading.markup import plain
from r1lab.grading.phrases import DOUBT, SENTENCE

_TAIL, _LONGEST = 1500, 500  # characters at the end of a text, and of one sentence, that are searched

_FORMULA = (
    r"\$\$[^$]+\$\$|(?<![\d\\])\$(?![\s$])(?:[^$\n\\]|\\.)+(?<!\s)\$(?!\d)"
    r"|\\\((?:(?!\\\)).)+\\\)|\\\[(?:(?!\\\]).)+\\\]"
)
_NUMBER = (
    r"(?:\\?[$€£¥₹]\s?)?[-+−]?(?:\\?[$€£¥₹]\s?)?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)"
    r"(?:(?:st|nd|rd|th)\b|:\d\d)?(?:\s?\\?%|°)?"
)
_LETTER = r"(?<![a-zA-Z\\])[a-zA-Z](?![a-zA-Z'’])(?:_\w|\([a-z]\))?"
_TERM = (
    rf"(?:{_NUMBER}|[-+−]?\\[dt]?frac\s*\{{[^{{}}]*\}}\s*\{{[^{{}}]*\}}|[-+−]?\\sqrt\s*\{{[^{{}}]*\}}|\\(?:pi|infty)"
    r"|[(\[][-+−\d., /]*\d[-+−\d., /]*[)\]])"
    r"(?:\^\{?(?:-?\w+|\\circ)\}?|!|\\(?:pi|sqrt\s*\{[^{}]*\})|[a-zA-Z](?![a-zA-Z'’]))*"
)
_OPERATOR = r"(?:[-+*/^=×÷·−–<>≤≥]|[xX](?=\s*\$?\d)|\\(?:times|cdot|div|le|ge|approx)(?![a-zA-Z]))"
_VALUE = re.compile(
    rf"{_FORMULA}|(?:{_TERM}|{_LETTER}(?=\s*{_OPERATOR}))(?:\s*{_OPERATOR}\s*(?:{_TERM}|{_LETTER}))*", re.DOTALL
)
_LISTED = re.compile(r"\s*(?:,\s*and|,|、|和|&|\band\b)\s*")
_HEDGE = re.compile(r"\b(?:or|nor|either|neither|maybe|perhaps|possibly|alternatively|versus)\b|或|~", re.I)
_RANGE = re.compile(r"\s*(?:to|through|—)\s*")
_NEGATED = re.compile(
    r"(?:\b(?:not|never|cannot|no|except|unless|without|nicht|keine?|niet|geen|pas|jamais|não|non|nie|ne|не|нет|inte|ikke"
    r"|nunca|không phải)\b|n['’]t\b|不|没|沒)(?:(?!\b(?:is|are|was|were)\b)[^,;:]){0,25}$",
    re.I,
)
_NEGATED_AFTER = re.compile(
    r"[\s*$]*[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]{0,4}?"
    r"(?:(?:이|가)?\s*아[니닙닌]|で(?:は|も)(?:ない|ありません)|じゃ(?:ない|ありません)|değil|नहीं|是错|是錯|不对|不對|は間違|は誤)"
)
# Words that change the value that follows them.
_CHANGED = re.compile(
    r"\b(?:(?:half|twice|thrice|double|triple|quadruple|times|third|quarter|fourth|fifth|sixth|eighth|tenth|square|cube"
    r"|root|reciprocal|inverse|opposite|factorial|multiple|power|negative|minus)s?"
    r"|(?:less|more|greater|fewer|smaller|larger|bigger|higher|lower|other) than|at (?:least|most)|up to|below|above"
    r"|under|over)(?:\s+(?:of|the|a|an|number|value))*[\s*]*$",
    re.I,
)
_SUBJECT = re.compile(r"[^,;:(]{0,40}?\b(?<!which )(?<!that )(?:is|are|was|were|equals?)\b", re.I)
_WORD = re.compile(r"[^\W\d_]{2}")
# Words before a value, and the text around it: not a formula that the value is part of.
_WORDS = re.compile(r"[\w\s.,:;'\"’“”‘*!?%&/()—–→⇒，、；：。（）-]*")
# The limit of a letter or a number: "as x → 3".
_LIMIT = re.compile(r"(?:(?<![^\W\d_])[^\W\d_]|\d)\s*[→⇒]\s*$")
# "18 points + 18 points = "
_SUM = re.compile(r"[\w\s.,:;'\"’“”‘*!?%&/—–+×÷=$()-]*")
_EQUALS = re.compile(r"(?<![<>!\\])=")
_CALCULATION = re.compile(r"(?=[^\d]*\d)(?:[^a-zA-Z\\]|\\(?:times|cdot|div|d?frac|[$%])|[xX](?=\s*\$?\d))*+")
_PLAIN = re.compile(r"\s*[-+−]?[\d,.]+\s*")
_PLACED = re.compile(r"(?:^|[\s:：=*\"'“‘。，、]|[\u3000-\u9fff\uac00-\ud7af])$")
_ENDED = re.compile(r"\s|$|/\s?(?=[^\W\d_]{2})|[.,;:!?\"'”’*]+(?:\s|$)|[^\W\d_]|[。，；！、]|\\text|°")
_FUNCTION = re.compile(
    r"\b(?:sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt|arc\w+|max|min|gcd|lcm|det|abs|mod|root)\s*$", re.I
)
# The name before a value: "B: 175". If two values have names of their own, neither is the answer.
_NAME = re.compile(r"(?:^|[,;，；、\n])\s*(?:and\s+)?(?P<name>[^\W\d_][\w ]{0,24})\s?[:：=]\s*$")
_RESULT = re.compile(r"(?:\w+ )?(?:answer|total|result|sum|final|altogether|overall)\b.*", re.I)
# A calculation in parentheses that shows how a value is derived: "7 (3 + 4 = 7)".
_SHOWN = re.compile(r"\s*\(([^()]*)\)[\s.!]*")
# Where the explanation of a value starts, in a sentence that starts with the value.
_CLAUSE = re.compile(
    r"(?:\s*[,;]\s*|\s+[(—]\s*|\s+[-–]\s+(?=(?:that|this|which|it)\b)|\s+(?=which|that|because|since|so|as|where|who)"
    r"|\s+of\s+(?=(?:an?|the|his|her|their|its|all)\b))"
    r"(?:(?P<explains>which|that|because|since|so|as|where|who|i\.e)\b"
    r"|(?!(?:sin|cos|tan|log|ln|mod|pi|and|or)\b)[^\W\d_]{2})",
    re.I,
)
# A sentence may continue after a displayed formula, but the value that it names is before or after that.
_DISPLAYED = re.compile(r"(?<=\\\])(?=\s*[A-Z])|(?<=\$\$)(?=\s*[A-Z])|\\end\{\w{1,12}\*?\}(?=\s*[A-Z])")
# The question again, or a part of it: "3 + 4" in it is not a result, however easy it is to calculate.
_REQUEST = re.compile(
    r"\W*(?:what(?:\s+(?:is|are|was|were|would|will|do|does|did)\b|['’]s\b)(?!.*\b(?:is|are|was|were|equals?)\b)"
    r"|how\s+(?:many|much|long|far|old)\b"
    r"|(?:please\s+)?(?:compute|calculate|evaluate|find|solve|simplify|determine|work out|add|subtract|multiply"
    r"|divide)\b)(?![^=]*=)",
    re.I,
)
_ARROW = re.compile(r"^(?:[=-]>|[→⇒∴])\s*")
# Words besides units that change the value of a number.
_MAGNITUDE = re.compile(
    r"\s*(?:-?\s?(?:hundred|thousand|million|billion|trillion|dozen|score|gross|pi|hal(?:f|ves)|quarters?|percent|"
    r"percentage|times (?:as|the|that|more|less|larger|greater|\d)|plus"
    r"|minus|squared|cubed|factorial|mod(?:ulo)?|over|and a half|[ap]\.?m|"
    r"(?:thir|four|fif|six|seven|eigh|nin|ten|hundred|thousand)(?:d|th)s?)\b|[百千万萬億亿兆半백천만억%])",
    re.I,
)
_UNIT = re.compile(
    r"\s?(?!(?:of|in total|in all|for|to|on|at|by|from|with|during|each|every|total|altogether|overall|remaining|left"
    r"|after|before|when|while|per|a|an|the|and|more|left|today|now|then|too|also|different|such|possible|as"
    r"|if|because|but|who|which|that|where|so|since|than|times)\b)"
    r"(?:(?:square|cubic|sq\.)\s[a-z]+|[^\W\d_][\w²³/°^]*|\\text\s*\{[^{}]*\})(?:\sper\s\w+)?",
    re.I,
)


def last_value(text: str) -> str | None:
    """The value in the last sentence of a text that names any, or None.

    >>> last_value("It costs $5. So she has 7 apples left. I hope this helps!"), last_value("It may be 3 or 4.")
    ('7 apples', None)
    """
    sentences = _with_values(text)
    return _named(sentences[-1]) if sentences else None


def value(answer: str) -> str | None:
    r"""The one value, or list of values, that an answer names; None if it hedges ("3 or 4") or negates ("not 5").

    It is also None if several lines or sentences have values.

    >>> value("the largest $n$ is 34"), value("64, in total, so she earns that much"), value("A: 175")
    ('34', '64', '175')
    >>> value("x = 5"), value("2 and 3"), value("3 or 4"), value("it is not 5")
    ('x = 5', '2 and 3', None, None)
    """
    sentences = _with_values(answer)
    if not sentences or (len(sentences) > 1 and _starts_with_value(sentences[-1])):
        return None
    return _named(sentences[-1])


def _with_values(text: str) -> list[str]:
    tail = text[-_TAIL:]
    if len(text) > _TAIL:  # skip a formula whose start is missing
        tail = tail[tail.find("\n", 0, _TAIL // 2) + 1 :]
    found = []
    for sentence in SENTENCE.finditer(tail):
        end = tail[sentence.end() : sentence.end() + 1]
        if end in ("?", "？") or _REQUEST.match(sentence[0]):
            continue
        factorial = end == "!" and tail[sentence.end() - 1] in "0123456789)n" and not _WORD.search(sentence[0])
        parts = _DISPLAYED.split(sentence[0] + "!" * factorial)
        for part in parts:
            words = _ARROW.sub("", part.strip())
            if len(words) <= _LONGEST and _VALUE.search(words):
                found.append(words)
    return found


def _starts_with_value(sentence: str) -> bool:
    value = _VALUE.search(sentence)
    return value is not None and not sentence[: value.start()].strip(" *")


def _named(sentence: str) -> str | None:
    values = list(_VALUE.finditer(sentence))
    first = last = values[-1]
    if _NEGATED_AFTER.match(sentence, last.end()):
        return None
    calculated = sentence[: last.start()].rstrip().endswith("=")  # "18 points + 18 points = 36 points"
    if _starts_with_value(sentence) and not calculated and not _SUBJECT.match(sentence[values[0].end() :]):
        return _explained(sentence, values)
    for found in reversed(values[:-1]):
        between = sentence[found.end() : first.start()]
        if _RANGE.fullmatch(between):
            return None
        if not _LISTED.fullmatch(between):
            break
        first = found
    lead, rest = sentence[: first.start()], sentence[last.end() :]
    if _is_one_of_several(sentence, values, first):
        return None
    shown, result = _last_side(sentence[first.start() : last.end()])
    if not (_is_prose(lead) and _ENDED.match(rest)):
        return None
    is_result = result or lead.rstrip().endswith("=")
    if not is_result and (_CHANGED.search(lead) or DOUBT.search(lead)):
        return None
    hedged = _HEDGE.search(sentence if first is not values[0] else rest)
    if hedged or not is_result and (_NEGATED.search(lead) or _SUBJECT.match(rest)):
        return None
    if _MAGNITUDE.match(rest):
        return plain(shown + rest)
    unit = _UNIT.match(rest)
    return plain(shown + (unit[0] if unit else ""))


def _last_side(shown: str) -> tuple[str, bool]:
    """The last side of a calculation such as "3 + 4 = 7", else the whole text; and whether it is a calculation."""
    shown = plain(shown) if shown.startswith(("$", "\\(", "\\[", "*")) else shown
    sides = _EQUALS.split(shown)
    if len(sides) == 1 or not _CALCULATION.fullmatch(sides[-2]) or _PLAIN.fullmatch(sides[-2]):
        return shown, False
    return sides[-1].lstrip(), True


def _is_one_of_several(sentence: str, values: list[re.Match], first: re.Match) -> bool:
    """Whether a value and an earlier one have names of their own: "A: 174, B: 175", but not "Total: 18"."""
    name = _NAME.search(sentence[: first.start()])
    if not name or _RESULT.match(name["name"]):
        return False
    return any(v[0] != first[0] and _NAME.search(sentence[: v.start()]) for v in values if v.start() < first.start())


def _is_prose(lead: str) -> bool:
    """Whether the text before a value is words or a calculation of it, rather than a formula around it."""
    if not _PLACED.search(lead) or _LIMIT.search(lead) or _FUNCTION.search(lead) or lead.count("(") != lead.count(")"):
        return False
    words = _VALUE.sub("", lead)
    return bool((_SUM if words.rstrip().endswith("=") else _WORDS).fullmatch(words))


def _explained(sentence: str, values: list[re.Match]) -> str | None:
    """The part before the explanation in a sentence that starts with its value."""
    listed = values[0]
    for found in values[1:]:
        if not _LISTED.fullmatch(sentence[listed.end() : found.start()]):
            break
        listed = found
    shown = _SHOWN.fullmatch(sentence, listed.end())
    if shown and _EQUALS.search(shown[1]) and plain(_last_side(shown[1])[0]) == plain(listed[0]):
        return plain(sentence[: listed.end()])
    clause = _CLAUSE.search(sentence, listed.end())
    rest = sentence[clause.end() if clause else listed.end() :]
    if _HEDGE.search(sentence, listed.end()) or (_VALUE.search(rest) and not (clause and clause["explains"])):
        return None
    if clause:
        return plain(sentence[: clause.start()])
    shown, _ = _last_side(values[0][0])
    return plain(sentence[: values[0].start()] + shown + sentence[values[0].end() :])
