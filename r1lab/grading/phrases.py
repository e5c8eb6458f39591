r"""Phrases with which a text announces its answer, in the most common languages of prompts.

Everything here takes linear time on any text.
"""

import re

from r1lab.grading.markup import BOLD, plain

_ADVERBS = (
    r"(?:,?[ \t]+(?:therefore|thus|hence|then|here|so|simply|clearly|obviously|definitely|certainly|probably|likely"
    r"|most likely|actually|indeed|just|finally|in fact|also|daher|somit|donc|entonces|quindi|portanto)\b,?)"
)
_IS = (
    r"(?:(?:is|are|was|equals?|becomes|(?:should|must|would|will|has to|have to|ought to)(?: \w{2,9})? be"
    r"|(?:seems?|appears?|turns? out|works out|comes? out|ends up|happens)"
    r" (?:to be|as)|comes (?:out )?to)\b|[:：=→]|[-–—](?=\s))"
)
_ENGLISH = (
    r"(?<!\w)(?:answers?|ans(?=\.?\s?[:=])|(?:correct|right|best|final) "
    r"(?:option|choice|letter|response|solution|result|value))\b"
    r"\.?(?: to (?:the|this|that) (?:\w{1,20} )?(?:question|problem|part))?(?:[*_]{0,3}|\"(?=\s?:))"
    rf"(?:{_ADVERBS}?\s{{0,3}}{_IS}|[ \t]+of(?=[ \t]+[-+−$\\(]{{0,3}}[\d\\]))"
)
# The rest of a heading, or of a line in bold, that says nothing else.
_HEADING, _HEADING_BEFORE = (
    re.compile(r"answer[ \t*_]*\n\s{0,8}", re.IGNORECASE),
    re.compile(r"[ \t]*(?:#{1,6}[ \t]+|[*_]{2,3})[*_\w \t]{0,20}"),
)
_CHINESE = (
    r"(?:答案|选项|選項|正解)(?:应该|應該|应当|应|應)?(?:是|为|為|等于|[:：])|(?<!\w)答[:：]"
    r"|(?:选择|選擇|选|選)[项項]?[是为]?[:：]?\s*(?=[(（【]?(?-i:[A-Z])(?![a-zA-Z]))"
)
_JAPANESE = r"(?:答え|(?<!\w)答|解答|回答|正解|正答)(?:は|が|是|[:：＝=])"
_KOREAN = r"(?:정답|답변|해답|답)(?:은|는|이|가|[:：=])"
_NOUNS = (  # German, French, Spanish, Portuguese, Italian, Dutch, Polish, Czech, Swedish, Turkish, Vietnamese, ...
    r"(?:richtige|korrekte) (?:Option|Wahl|Lösung)|Antwort(?:möglichkeit)?|Endergebnis"
    r"|bonne (?:réponse|option)|réponse"
    r"|(?:opción|opção|alternativa|opzione|option) corr\w{3,6}|respuesta|resposta|risposta|antwoord|odpowied[źz]"
    r"|odpověď|svar(?:et)?|cevap|yanıt|đáp án|trả lời|jawaban(?:nya)?|правильный вариант|ответ|відповідь"
    r"|إجابة|جواب|उत्तर|जवाब|উত্তর|คำตอบ|απάντηση|jibu|idahun|ìdáhùn"
)
_VERBS = (
    r"ist|lautet|beträgt|wäre|muss|est|serait|doit être|es|sería|debe ser|é|seria|deve ser|è|sarebbe"
    r"|deve essere|is|luidt|to|je|är|là|adalah|равен|равно|есть|это|будет|هي|هو|है|কি|คือ|είναι|ni"
)
_NOT = r"no|não|non|nie|ne|не|niet|nicht|inte|ikke"
_OTHERS = (
    rf"(?<![a-zA-Z])(?:{_NOUNS})(?:[ \t]+(?!(?:{_VERBS}|{_NOT})[ \t])\w{{2,15}})?[*_]{{0,3}}\s{{0,3}}"
    rf"(?:(?:{_VERBS})(?!\w)|[:：=ঃ—–]|-(?=\s))"
)
_LABEL = (
    r"(?:[ \t]+(?:the )?"
    r"(?:option|choice|letter|Buchstabe|letra|lettre|lettera|вариант|буква|选项|選項|la|le|die|das)(?!\w))?"
)
_ANNOUNCES = (
    rf"(?:{_ENGLISH}|{_CHINESE}|{_JAPANESE}|{_KOREAN}|{_OTHERS}){_ADVERBS}?{_LABEL}"
    r"(?:[*_]{2,3}(?=\s|$))?(?:[ \t]*\}(?=\s*[\\$\d]))?\s{0,8}(?:[:：][*_]{0,3}\s{0,8})?"
)
_LEAD = re.compile(_ANNOUNCES, re.IGNORECASE | re.MULTILINE)
# How each of them starts, in lower case: one search for all of them would try every one at every character.
_STEMS = (
    "answer", "ans:", "ans.", "ans =", "correct ", "right ", "best ", "final ", "答", "选", "選", "解答", "回答",
    "正解", "正答", "답", "정답", "해답", "richtige ", "korrekte ", "antwort", "endergebnis", "bonne ", "réponse",
    "opción ", "opção ", "alternativa ", "opzione ", "option ", "respuesta", "resposta", "risposta", "antwoord",
    "odpowied", "odpověď", "svar", "cevap", "yanıt", "đáp án", "trả lời", "jawaban", "правильный ", "ответ",
    "відповідь", "إجابة", "جواب", "उत्तर", "जवाब", "উত্তর", "คำตอบ", "απάντηση", "jibu", "idahun", "ìdáhùn",
)  # fmt: skip
_LEAD_AT_START = re.compile(
    rf"\s*(?:\\[a-z]{{1,10}}\s*\{{|[*_]{{1,3}})?\s*(?:(?:so|the|my|our|final|correct)\s+)*{_ANNOUNCES}",
    re.IGNORECASE | re.MULTILINE,
)
# "18 is the answer", "option C is correct": the text before it is announced.
_TRAIL = re.compile(
    r"\s(?:is|are)\s(?:(?P<answer>the|our|my)\s(?:(?:correct|right|final|required|only|best)\s)*(?:answers?|solution|choice|option)\b"
    r"|(?:the\s)?(?:correct|right|best)(?:\s(?:one|option|choice|answer))?(?=[.,;!\s]*$|[.,;!]))",
    re.IGNORECASE | re.MULTILINE,
)
_BEFORE = re.compile(r"(?:[.!?:;,]\s|\n|\b(?:so|thus|hence|that|therefore|then|and|because)\b,?\s)", re.IGNORECASE)
_OPTION = re.compile(r"(?i:(?:(?:the|only|option|choice|answer)\s)*)([(\[]?[A-Z][)\]]?)")
# A sentence: formulas (not amounts of dollars), initials and abbreviations whole; a period ends it before a space.
SENTENCE = re.compile(
    r"(?:\\\$|\$\$.*?\$\$|\$(?![\s$])(?:[^$\n\\]|\\.)*+(?<!\s)\$|\\\[.*?\\\]|\\\(.*?\\\)"
    r"|\b[A-Z]\.(?= [A-Z]\.)|(?<=[A-Z]\. )[A-Z]\.|(?<=[A-Z]\.)[A-Z]\."
    r"|\b(?:Mr|Mrs|Ms|Dr|Prof|St|Mt|vs|approx|[ap]\.m|e\.g|i\.e)\.(?=\s)"
    r"|[^.!?。！？\n]|[.!?](?=\S))*+",
    re.DOTALL,
)
# Phrases that withdraw an answer in its own sentence: "a student says that the answer is A, which is wrong".
_REJECTED = re.compile(
    r"\b(?:which|(?:but|and) (?:that|this|it))(?: is| was| would be|['’]s) (?:\w{1,12} )?"
    r"(?:wrong|incorrect|false|mistaken|impossible|not (?:right|correct|true|possible))\b",
    re.IGNORECASE,
)
# Phrases before an answer to which the speaker does not commit: "I doubt that the answer is 7", "if it were 24".
DOUBT = re.compile(
    r"\b(?:doubt\w*|unsure|uncertain|unclear|not (?:sure|certain|clear|true|the case)|whether|if|unless|suppos\w{1,3}"
    r"|assum\w{1,3}|imagine"
    r"|(?:do|does|did|can|could) ?(?:not|n['’]t) (?:know|say|tell|think|believe)|cannot (?:know|say|tell|believe))"
    r"(?:\s+(?:that|whether|if))?(?:\s+(?:the|my|our|final|correct|right|it|this|that|answer))*"
    r"(?:\s+(?:is|was|were|be|equals))?[\s*$]*$",
    re.IGNORECASE,
)
_JSON_VALUE = re.compile(r"\s*(?:\"((?:[^\"\\]|\\.)*+)\"|([^\s,}\]\"]+))")
_REASON = re.compile(r"[\s,;(]*\b(?:because|since|which|where)\b.*", re.DOTALL)
# "The answer is correct" says something about an answer that is elsewhere.
_COMMENT = re.compile(
    r"(?:not|in|inside|correct|incorrect|right|wrong|clear|above|below|as|given|found|boxed|shown|written|obtained|"
    r"consistent|reasonable|valid|verified|confirmed|helpful|what|that|this|it|there)\b",
    re.IGNORECASE,
)
_POLITE = re.compile(r"(?<=[\w)\]}$*])\s?(?:です|である|となります|になります|だ|입니다|이다|이에요|예요)$")
_OPENING, _CLOSING = "[(（【", "])）】"

# The longest answer that a phrase may announce, and how many phrases of a kind are checked, from the end.
_WINDOW, _PHRASES = 500, 50
_CLAUSE = 80  # characters before "is the answer" that are searched


def announced(text: str, *, comments: bool = False) -> tuple[int, str] | None:
    """The answer that the last committing phrase announces, and where that phrase starts.

    Args:
        comments: Whether an announced word such as "correct" counts, which usually refers to another answer.

    >>> announced("The answer is 5, I think. No: it must be 6. So the answer should be 7.")
    (51, '7')
    >>> announced("最终答案是5。"), announced("So 18 is the answer, and option C is correct.")
    ((2, '5'), (32, 'C'))
    """
    return max(filter(None, (_lead(text, comments), _trail(text))), default=None)


def without_lead(text: str) -> str:
    r"""An answer without the phrase at its start that announces it, also in `\text{}`.

    >>> without_lead(r"\text{The answer is: } 7"), without_lead(r"\text{Answer: 7}"), without_lead("7")
    ('7', '7', '7')
    """
    lead = _LEAD_AT_START.match(text)
    if not lead:
        return text
    rest = text[lead.end() :].strip()
    if rest.count("}") > rest.count("{"):  # the one that closes \\text{
        before, _, after = rest.partition("}")
        rest = f"{before.strip()} {after.strip()}".strip()
    return text if not rest or _COMMENT.match(rest) else rest


def _lead(text: str, comments: bool) -> tuple[int, str] | None:
    for place in _last_places(text, _STEMS):
        lead = _LEAD.match(text, place) or _heading(text, place)
        if not lead or DOUBT.search(text[max(0, place - _CLAUSE) : place]):
            continue
        window = text[lead.end() : lead.end() + _WINDOW]
        bold = BOLD.match(window)
        sentence = SENTENCE.match(window)
        assert sentence  # it may be empty
        if window[sentence.end() : sentence.end() + 1] in ("?", "？") and not bold:  # "Answer: C? No, D."
            continue
        if _REJECTED.search(sentence[0]):
            continue
        answer = bold[1] if bold else _REASON.sub("", sentence[0])
        if text[place - 1 : place] == '"' and (json := _JSON_VALUE.match(window)):  # {"answer": "C"}
            answer = json[1] or json[2] or ""
        if place and (bracket := _OPENING.find(text[place - 1])) >= 0:  # [Answer: C]
            answer = answer.partition(_CLOSING[bracket])[0]
        answer = _POLITE.sub("", answer.rstrip())
        if r"\boxed" in answer or r"\fbox" in answer or not plain(answer):
            continue
        if comments or not (_COMMENT.match(answer) or _LEAD.search(answer)):
            return place, answer
    return None


def _heading(text: str, place: int) -> re.Match | None:
    line = text[max(text.rfind("\n", 0, place) + 1, place - 40) : place]
    return _HEADING.match(text, place) if _HEADING_BEFORE.fullmatch(line) else None


def _trail(text: str) -> tuple[int, str] | None:
    for place in _last_places(text, (" is ", " are ")):
        trail = _TRAIL.match(text, place)
        if not trail or (text[place + 1] == "a" and not trail["answer"]):  # "options B and C are correct"
            continue
        clause = _BEFORE.split(text[max(place - _CLAUSE, 0) : place])[-1]
        start = place - len(clause)
        if option := _OPTION.fullmatch(clause):
            return start + option.start(1), option[1]
        is_value = re.search(r"[\d$\\]", clause) or re.fullmatch(r"[(\[]?[A-Z][)\]]?", clause)
        if trail["answer"] and is_value and "box" not in clause:
            return start, clause
    return None


def _last_places(text: str, stems: tuple[str, ...]) -> list[int]:
    """Where the stems occur in a text, the last first; only the last occurrences of each."""
    lower = text.replace("İ", "I").lower()  # the one character whose lower case is longer
    places: set[int] = set()
    for stem in stems:
        place = len(lower)
        for _ in range(_PHRASES):
            place = lower.rfind(stem, 0, place)
            if place < 0:
                break
            places.add(place)
    return sorted(places, reverse=True)
