"""The answer that a response commits to: the last one marked in its final text, or the one that stands unmarked.

`boxes`, `phrases` and `markup` define how an answer is boxed, announced and wrapped; `values` defines which value a
sentence names. Everything here takes linear time on any text.
"""

import re
from collections import deque
from itertools import takewhile

from r1lab.grading.boxes import boxes, last_answer
from r1lab.grading.markup import BOLD, plain
from r1lab.grading.parts import answer_block, final_text
from r1lab.grading.phrases import announced, without_lead
from r1lab.grading.values import last_value, value

# GSM8K's last line, not a fourth-level heading.
_HASHES = re.compile(
    r"^[ \t]*####[ \t]*((?!\d+[.)][ \t]+\S)(?:[-+−$€£\\(]{0,2}\.?\d|[\\$]|\w[ \t]*$).*)$", re.MULTILINE
)
_WORD = re.compile(r"(?<![\\a-zA-Z])[^\W\d_]{2,}")
_BARE_LENGTH, _BARE_WORDS = 60, 3


def committed(turn: str, also: re.Pattern | None = None) -> tuple[str, str] | None:
    r"""The last answer that the final text commits to, and how it is marked.

    An `<answer>` block always wins: what is marked in it, else all of it. Next comes the last of a box, GSM8K's `####
    72` and a phrase ("the answer is", "Answer:", "option C is correct") up to the end of its sentence. Next, bold text
    in the last paragraph. Next, the last line, if it is short and not prose. Next, the value in the last sentence that
    names one. A box that never closes means that the text was truncated: then only an earlier mark counts.

    Args:
        also: Further phrases that mark an answer; their first group is the answer.

    Returns:
        The answer without surrounding bold and dollars, and one of answer_tag, boxed, hashes, phrase, bold, bare and
            prose; None if there is no committed answer, as when the thinking never ends.

    >>> committed(r"<think> ... </think> \boxed{5}. Wait, that is wrong. It should be \boxed{7}")
    ('7', 'boxed')
    >>> committed(r"\boxed{5}. No: the final answer is **$1.5$**. I hope it is correct.")
    ('1.5', 'phrase')
    >>> committed(r"The roots are \boxed{2} and \boxed{3}."), committed("So she has 18 dollars left every day.")
    (('2, 3', 'boxed'), ('18 dollars', 'prose'))
    >>> committed("<answer> x = 5 </answer>"), committed("<think> The answer is 5.")
    (('x = 5', 'answer_tag'), None)
    """
    text = final_text(turn)
    if text is None:
        return None
    block = answer_block(text)
    if block is not None:
        marked = _marked(block, also)
        answer, mark = (marked[0] if marked else block), "answer_tag"
    else:
        answer, mark = _marked(text, also) or _unmarked(text) or ("", "")
    answer = plain(without_lead(plain(answer)) if mark in ("boxed", "answer_tag") else answer)
    return (answer, mark) if answer else None


def readings(turn: str) -> list[str]:
    r"""The committed answer of a response as written, followed by the one value that it names.

    Only a sentence outside a box has such a value. A sentence that names several values, or hedges, or negates ("it is
    3 or 4", "not 5"), has no value.

    >>> readings("Final Answer: The largest $n$ is 34."), readings("Result: 175"), readings("The answer is 3 or 4.")
    (['The largest $n$ is 34', '34'], ['Result: 175', '175'], ['3 or 4'])
    """
    found = committed(turn)
    if not found:
        return []
    answer, mark = found
    if mark == "boxed":
        return [answer]
    named = value(answer)
    if named is None and mark in ("bold", "bare") and not re.search(r"\d", answer):  # "I hope this helps!"
        named = last_value(final_text(turn) or "")
    return [answer] if named in (None, answer) else [answer, named]


def _marked(text: str, also: re.Pattern | None) -> tuple[str, str] | None:
    """The last of a box, GSM8K's hashes and a phrase, and how it is marked."""
    found, box = [], last_answer(text, boxes(text)[0])
    if box:
        found.append((box.start, box.content, "boxed"))
    if "####" in text and (hashes := _last(_HASHES, text)):
        found.append((hashes.start(), hashes[1], "hashes"))
    phrase = announced(text)
    if phrase and not (box and box.start <= phrase[0] < box.end):
        found.append((*phrase, "phrase"))
    if also and (other := _last(also, text)):
        found.append((other.start(), other[1], "phrase"))
    return max(found)[1:] if found else None


def _unmarked(text: str) -> tuple[str, str] | None:
    """The answer of an unmarked text: bold, a comment ("the answer is right"), the last line, the last value."""
    if bold := _bold(text):
        return bold, "bold"
    if comment := announced(text, comments=True):
        return comment[1], "phrase"
    if boxes(text)[1]:
        return None
    if line := _bare(text):
        return line, "bare"
    named = last_value(text)
    return (named, "prose") if named else None


def _last(pattern: re.Pattern, text: str) -> re.Match | None:
    found = deque(pattern.finditer(text), maxlen=1)
    return found[0] if found else None


def _bold(text: str) -> str | None:
    paragraph = "\n".join(reversed(list(takewhile(str.strip, reversed(text.rstrip().splitlines())))))
    found = [bold for bold in BOLD.findall(paragraph) if not bold.rstrip().endswith(":") and plain(bold)]
    return found[-1] if found else None


def _bare(text: str) -> str | None:
    line = text.rstrip().rpartition("\n")[2].strip().lstrip("# ")
    if len(line) > _BARE_LENGTH or len(_WORD.findall(line)) > _BARE_WORDS:
        return None
    return line if plain(line) else None
