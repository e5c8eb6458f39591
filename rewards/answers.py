"""What an assistant turn commits itself to: its final text, and the last answer that it marks there.

Everything here takes linear time on any text.
"""

import re
from collections import deque
from itertools import takewhile

# A run of backslashes is one token, so that an escaped brace is told from a line break before a brace.
_TEX = re.compile(r"(\\++)(?:(?:boxed|fbox)(?:\s*+(\{)|[ \t]++([-+−]?\.?\d[^\s{}$\\]*+|[A-Z]\b))|[{}])?|[{}]")
# GSM8K's last line, not a fourth-level heading.
_HASHES = re.compile(
    r"^[ \t]*####[ \t]*((?!\d+[.)][ \t]+\S)(?:[-+−$€£\\(]{0,2}\.?\d|[\\$]|\w[ \t]*$).*)$", re.MULTILINE
)
_LEAD = re.compile(
    r"(?:\b(?:answers?|correct (?:option|choice))\b(?: to (?:the|this) (?:\w{1,20} )?(?:question|problem))?"
    r"[*_]{0,3}\s{0,3}(?:(?:is|are)\b|[:：=])|答案(?:是|为|[:：]))"
    r"(?:[ \t]+(?:therefore|thus|hence|then|simply|option|choice)\b)?"
    r"(?:[*_]{2,3}(?=\s|$))?\s{0,8}(?:[:：][*_]{0,3}\s{0,8})?",
    re.IGNORECASE,
)
# A sentence: formulas (no amounts of dollars), initials and abbreviations whole; a full stop ends it before a blank.
_SENTENCE = re.compile(
    r"(?:\\\$|\$\$.*?\$\$|\$(?![\s$])(?:[^$\n\\]|\\.)*+(?<!\s)\$|\\\[.*?\\\]|\\\(.*?\\\)"
    r"|\b[A-Z]\.(?= [A-Z]\.)|(?<=[A-Z]\. )[A-Z]\.|(?<=[A-Z]\.)[A-Z]\."
    r"|\b(?:Mr|Mrs|Ms|Dr|Prof|St|Mt|vs|approx|[ap]\.m|e\.g|i\.e)\.(?=\s)"
    r"|[^.!?。！？\n]|[.!?](?=\S))*+",
    re.DOTALL,
)
_REASON = re.compile(r"[\s,;(]*\b(?:because|since|which|where)\b.*", re.DOTALL)
# "The answer is correct" says something of an answer that stands elsewhere.
_COMMENT = re.compile(
    r"(?:not|in|inside|correct|incorrect|right|wrong|clear|above|below|as|given|found|boxed|shown|written|obtained|"
    r"consistent|reasonable|valid|verified|confirmed|helpful|what|that|this|it|there)\b",
    re.IGNORECASE,
)
_BOLD = re.compile(r"\*\*([^*\n]+)\*\*")
_WRAPPED = re.compile(
    r"\$\$((?:[^$\\]|\\.)+)\$\$|\$((?:[^$\\]|\\.)+)\$|\\\(((?:(?!\\\)).)+)\\\)|\\\[((?:(?!\\\]).)+)\\\]"
    r"|\\(?:text|math)(?:bf|it|rm|tt|sf|normal)?\s*\{([^{}]+)\}",
    re.DOTALL,
)
_SPACE = re.compile(r"\s*+")
_WORD = re.compile(r"(?<![\\a-zA-Z])[^\W\d_]{2,}")

# The longest answer that a phrase may announce, and how many phrases are looked at, from the end.
_WINDOW, _PHRASES = 500, 20
_BARE_LENGTH, _BARE_WORDS = 60, 3


def final_text(turn: str) -> str | None:
    """What follows the thinking; None where the thinking never ends, so that nothing in it counts.

    >>> final_text("<think> 5? No, 7. </think> It is 7.")
    ' It is 7.'
    >>> final_text("It is 7."), final_text("<think> It is 7.")
    ('It is 7.', None)
    """
    closed = turn.rfind("</think>")
    if turn.rfind("<think>") > closed:
        return None
    return turn if closed < 0 else turn[closed + len("</think>") :]


def thinking(turn: str) -> str:
    """What stands before the final text, without the tags; all of a turn that has none of them.

    >>> thinking("<think> 5? No, 7. </think> It is 7."), thinking("<think> It is 7."), thinking("It is 7.")
    (' 5? No, 7. ', ' It is 7.', 'It is 7.')
    """
    final = final_text(turn)
    before = turn if final is None or final == turn else turn[: len(turn) - len(final)]
    opened = before.find("<think>")
    inside = before if opened < 0 else before[opened:]
    return inside.replace("<think>", "").replace("</think>", "")


def answer_block(text: str) -> str | None:
    """What the last complete `<answer>...</answer>` of the final text holds.

    >>> answer_block("<think> a <answer> 1 </answer> </think> <answer> 2 </answer> <answer> 3 </answer>")
    ' 3 '
    """
    text = final_text(text) or ""
    opened = text.rfind("<answer>", 0, max(text.rfind("</answer>"), 0))
    if opened < 0:
        return None
    return text[opened + len("<answer>") : text.index("</answer>", opened)]


def last_boxed(text: str) -> str | None:
    r"""What the last `\boxed{...}` or `\fbox{...}` holds whose braces are balanced; empty ones do not count.

    The last one is the one that opens last, so the inner one of two. `\boxed 5` is read too.

    >>> last_boxed(r"\boxed{5}, no: \boxed{\frac{1}{2}}. I put it in \boxed{}, as in \boxed{3")
    '\\frac{1}{2}'
    """
    found = _boxed(text)
    return found and found[1]


def committed(turn: str) -> tuple[str, str] | None:
    r"""The last answer that the final text commits itself to, and how it is marked.

    An `<answer>` block always wins: what is marked in it, else all of it. Then whichever comes last of a box, GSM8K's
    `#### 72` and a phrase ("the answer is", "Answer:") to the end of its sentence. Then what is bold in the last
    paragraph. Then the last line, if it is short and no prose.

    Returns:
        The answer without the bold and the dollars around it, and one of answer_tag, boxed, hashes, phrase, bold and
        bare; None where nothing is committed to, so also where the thinking never ends.

    >>> committed(r"<think> ... </think> \boxed{5}. Wait, that is wrong. It should be \boxed{7}")
    ('7', 'boxed')
    >>> committed(r"\boxed{5}. No: the final answer is **$1.5$**. I hope it is correct.")
    ('1.5', 'phrase')
    >>> committed("<answer> x = 5 </answer>"), committed("<think> The answer is 5.")
    (('x = 5', 'answer_tag'), None)
    """
    text = final_text(turn)
    if text is None:
        return None
    block = answer_block(text)
    if block is not None:
        marked = _marked(block)
        answer, mark = (marked[1] if marked else block), "answer_tag"
    else:
        _, answer, mark = _marked(text) or _bold(text) or _phrase(text, comments=True) or _bare(text) or (0, "", "")
    answer = plain(answer)
    return (answer, mark) if answer else None


def plain(answer: str) -> str:
    r"""An answer without what is wrapped around it: bold, dollars, `\text{}`, a full stop.

    >>> plain(r"**$\text{(B)}$.**")
    '(B)'
    """
    for _ in range(4):  # markup in markup, but no text of nothing but dollars
        answer = answer.strip().rstrip(".,;:").strip("*` \t\n")
        if wrapped := _WRAPPED.fullmatch(answer):
            answer = next(filter(None, wrapped.groups()))
    return answer.strip()


def _marked(text: str) -> tuple[int, str, str] | None:
    """Whichever comes last of a box, GSM8K's hashes and a phrase: where, what, and how it is marked."""
    return max(filter(None, (_boxed(text), _hashes(text), _phrase(text))), default=None)


def _boxed(text: str) -> tuple[int, str, str] | None:
    if "box" not in text:
        return None
    found, open_braces = None, []  # for each open brace, where its box and its content begin
    for token in _TEX.finditer(text):
        slashes, box_brace, unbraced = token.groups()
        start, end = token.span()
        if unbraced:
            found = start, token.start(3), end
        elif box_brace:
            open_braces.append((start, end))
        elif slashes and (len(slashes) % 2 or end == token.end(1)):
            continue  # an escaped brace, or none
        elif token[0].endswith("{"):
            open_braces.append(None)
        elif open_braces and (box := open_braces.pop()) and (not found or box[0] > found[0]):
            if _SPACE.match(text, box[1]).end() < end - 1:
                found = *box, end - 1
    return found and (found[0], text[found[1] : found[2]].strip(), "boxed")


def _hashes(text: str) -> tuple[int, str, str] | None:
    found = deque(_HASHES.finditer(text), maxlen=1)
    return (found[0].start(), found[0][1], "hashes") if found else None


def _phrase(text: str, *, comments: bool = False) -> tuple[int, str, str] | None:
    for lead in reversed(deque(_LEAD.finditer(text), maxlen=_PHRASES)):
        window = text[lead.end() : lead.end() + _WINDOW]
        bold = _BOLD.match(window)
        answer = bold[1] if bold else _REASON.sub("", _SENTENCE.match(window)[0])
        if r"\boxed" in answer or r"\fbox" in answer or not plain(answer):
            continue
        if comments or not (_COMMENT.match(answer) or _LEAD.search(answer)):
            return lead.start(), answer, "phrase"
    return None


def _bold(text: str) -> tuple[int, str, str] | None:
    paragraph = "\n".join(reversed(list(takewhile(str.strip, reversed(text.rstrip().splitlines())))))
    found = [bold for bold in _BOLD.findall(paragraph) if not bold.rstrip().endswith(":") and plain(bold)]
    return (0, found[-1], "bold") if found else None


def _bare(text: str) -> tuple[int, str, str] | None:
    line = text.rstrip().rpartition("\n")[2].strip().lstrip("# ")
    if len(line) > _BARE_LENGTH or len(_WORD.findall(line)) > _BARE_WORDS or r"\boxed" in line:
        return None
    return 0, line, "bare"
