"""Who is called what in an answer of any form: sentences, lists of the knights and of the knaves, tables.

Everything here takes linear time on any text.
"""

import re
from collections.abc import Iterator
from functools import lru_cache

_SAME = "the kind of the claim before"
_OTHER = {"knight": "knave", "knave": "knight"}
_KIND = r"(knight|knave)(s?)\b(?![-'’]\w)"
_DASH = r"(?::|=>?|-{1,2}>?|[–—→⇒])"
# Between people and their kind, with a "not" that negates it. A weak link counts only if no "knave:" follows.
_VERB = (
    r"(?:is|was|are|were|must|has|have|to|be|both|all|each|clearly|indeed|therefore|definitely|thus|then|hence|so)"
    r"\s*:?\s+"
)
_NOT = r"(not\s+|isn['’]t\s+|aren['’]t\s+|cannot\s+be\s+)?(?:an?\s+|the\s+)?"
# What may come between: "Noah lies and is a knave", "Noah, on the other hand, is a knave".
_BETWEEN = (
    r"(?:,?\s+(?:always\s+|never\s+)?(?:lies|lied|is\s+lying|is\s+truthful|tells\s+(?:the\s+truth|lies)|told\s+the\s+truth)"
    r",?\s+(?:and|so)(?=\s+(?:so\s+|thus\s+|therefore\s+|hence\s+)?(?:is|must|has)\b)"
    r"|,\s+(?:on\s+the\s+other\s+hand|however|therefore|thus|hence|though|in\s+(?:contrast|turn)|by\s+contrast|then"
    r"|meanwhile|of\s+course|being\s+(?:truthful|honest|a\s+liar)),)?"
)
_STRONG = (
    rf"{_BETWEEN}(?:\s*{_DASH}\s*((?:{_VERB})*+)|\s+((?:{_VERB})++|(?=not|isn|aren|cannot))"
    rf"|['’]s\s+(?=not\b|an?\b|the\b)){_NOT}"
)
_WEAK = r" ?[ (,] ?(?:an? )?(knight|knave)\b(?![-'’]\w|\s*(?:[:=]|is\b|are\b))"
_ALL = (
    r"\b(?:(?:both|all|everyone|everybody)(?:\s+(?:of|them|the|two|three|four|five|six|people|inhabitants|islanders))*+"
    r"\s+(?:is|are)|they(?:['’]re|\s+are)\s+(?:both|all))\s+(?:an?\s+)?"
)
# "The others are knights", "Bob is too", "so is Bob", "everyone except Ann is a knight".
_REST = (
    r"(?:the\s+(?:other|rest|remaining)\w*(?:\s+(?:one|two|three|four|five|six|person|people))?"
    r"|(?:every(?:one|body)|all)\s+(?:else|others))"
)
_TOO = r"(?:too|as\s+well|also)\b(?!\s+\w)"
_EXCEPT = r"(?:except(?:\s+for)?|but|other\s+than|apart\s+from)"
# Before a claim, what makes it no claim of the answer's own; after it, what withdraws it.
_NO_CLAIM = re.compile(
    r"(?:\b(?:not|never|neither|if|whether|suppos(?:e|ing)|assum(?:e|ing)|either|(?:says?|said|claim(?:s|ed)?|states?|"
    r"except(?: for)?|other than|apart from|(?:all|everyone|everybody) but|"
    r"false|untrue|not true|n['’]t true)(?: that)?)[\s,:\"(]*(?:both\s+)?|[~¬!≠]\s*)$"
)
_TAKEN_BACK = re.compile(
    r"[\s\",)]*(?:/|or\b|\?|"
    r"(?:=|:|is|leads to|gives|would be|cannot be)\s+(?:an?\s+)?(?:false|wrong|untrue|impossible|contra))"
)
_CELL = re.compile(r"(?:an?\s+)?(knight|knave)")


def claims(text: str, names: tuple[str, ...]) -> dict[str, str]:
    r"""Name to knight or knave, by the last claim about each person that has one.

    Args:
        text: The answer in lower case, without markup and empty lines, and with single spaces.
        names: The people, in lower case.

    >>> claims("knights: ann and bob\nknaves: carl", ("ann", "bob", "carl"))
    {'ann': 'knight', 'bob': 'knight', 'carl': 'knave'}
    >>> claims("| ann | knight |\n| bob | knave |", ("ann", "bob"))
    {'ann': 'knight', 'bob': 'knave'}
    >>> claims("if ann is a knight, bob lies. so ann is not a knight and bob is a knight or a knave", ("ann", "bob"))
    {'ann': 'knave'}
    """
    found = sorted([*_sentences(text, names), *_rows(text, names)], key=lambda claim: claim[0])
    kinds, last = {}, None
    for _, name, kind in found:
        last = last if kind == _SAME else kind
        left = [name] if name else [other for other in names if other not in kinds]
        if not left:  # "the others", after claims about everyone: it is unknown who they are
            kinds.clear()
        kinds.update(dict.fromkeys(left, last))
    return {name: kind for name, kind in kinds.items() if kind}


@lru_cache(maxsize=1024)
def _patterns(names: tuple[str, ...]) -> tuple[re.Pattern, ...]:
    """Patterns that find a name, and claims: "people are kind", "name kind", "kind are people", "all are kind"."""
    known = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    name = rf"(?<![\w'’])(?:{known})(?!\w)"
    people = rf"((?>{name}(?:(?:\s*[,;&]\s*(?:and\s+)?|\s+and\s+|\s+){name}){{0,30}}))"
    first = r"(?:^|[\n.;,:]|\band\b|\bwhile\b)\s*(?:(?:the|only)\s+)*+"
    after = rf"\s*(?:is\b|are\b|{_DASH})\s*(?:only\s+)?{people}(?!['’:]|\s+(?:is|are|says|said)\b)"
    rest = rf"\b{_REST}(?:\s+(?:must|has|have|to|be|is|are|both|all|each))++\s*:?\s+{_NOT}{_KIND}"
    too = rf"({name})\s+(?:is|are)\s+{_TOO}|\bso\s+is\s+({name})"
    everyone = (
        rf"\b(?:every(?:one|body)|all)(?:\s+of\s+them)?\s+{_EXCEPT}\s+{people}\s+(?:is|are)\s+(?:an?\s+)?{_KIND}"
    )
    texts = (name, people + _STRONG + _KIND, f"({name}){_WEAK}", first + _KIND + after, _ALL + _KIND)
    texts += (rest, too, everyone)
    return tuple(map(re.compile, texts))


def _sentences(text: str, names: tuple[str, ...]) -> Iterator[tuple[int, str | None, str | None]]:
    """Claims in sentences and lists: place, people (None: the others), and kind (None if it is withdrawn)."""
    name, people_kind, name_kind, kind_people, all_kind, rest_kind, name_too, all_except = _patterns(names)
    for found in people_kind.finditer(text):
        people, dashed, linked, negated, kind, plural = found.groups()
        start, called = found.start(), name.findall(people)
        if not plural and "are" not in (dashed or linked or ""):  # "Unlike Bob, Ann is a knight"
            start, called = found.end(1) - len(called[-1]), called[-1:]
        yield from _claimed(text, start, found.end(), called, _OTHER[kind] if negated else kind)
    for found in name_kind.finditer(text):
        yield from _claimed(text, found.start(), found.end(), [found[1]], found[2])
    for found in kind_people.finditer(text):
        yield from _claimed(text, found.start(1), found.end(), name.findall(found[3]), found[1])
    for found in all_kind.finditer(text):
        yield from _claimed(text, found.start(), found.end(), names, found[1])
    for found in rest_kind.finditer(text):
        negated, kind, _ = found.groups()
        yield from _claimed(text, found.start(), found.end(), [None], _OTHER[kind] if negated else kind)
    for found in name_too.finditer(text):
        yield from _claimed(text, found.start(), found.end(), [found[1] or found[2]], _SAME)
    for found in all_except.finditer(text):
        others = name.findall(found[1])
        yield from _claimed(text, found.start(), found.end(), others, _OTHER[found[2]])
        yield from _claimed(text, found.start(), found.end(), [n for n in names if n not in others], found[2])


def _claimed(text: str, start: int, end: int, called, kind: str) -> Iterator[tuple[int, str, str | None]]:
    if not _NO_CLAIM.search(text[max(0, start - 40) : start]):
        claimed = None if _TAKEN_BACK.match(text, end) else kind
        yield from ((start, name, claimed) for name in called)


def _rows(text: str, names: tuple[str, ...]) -> Iterator[tuple[int, str, str | None]]:
    """Claims in tables: a row with one name and one kind, or a row of kinds below a row of names."""
    place, above = 0, []
    for line in text.split("\n"):
        if "|" in line:
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            people = [(i, cell) for i, cell in enumerate(cells) if cell in names]
            kinds = [(i, found[1]) for i, cell in enumerate(cells) if (found := _CELL.fullmatch(cell))]
            if len(people) == len(kinds) == 1:
                yield place, people[0][1], kinds[0][1]
            elif len(kinds) == len(above) and [i for i, _ in kinds] == [i for i, _ in above]:
                yield from ((place, name, kind) for (_, name), (_, kind) in zip(above, kinds))
            above = people or above
        place += len(line) + 1
