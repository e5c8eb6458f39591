"""What a model and an environment exchange: turns, calls of tools, and replies."""

import re
from dataclasses import dataclass, field
from typing import Any


class ToolError(Exception):
    """A tool refuses a call; the model reads the message."""


NO_TOOL = "there is no tool"
"""How the error begins of a call whose tool the model has invented."""

LONGEST = 2**20
"""Characters of all replies to a turn, or of what the environment says at the start; more are left out."""


@dataclass
class Call:
    """A call of a tool that a model wrote."""

    name: str
    arguments: dict[str, Any]


@dataclass
class Turn:
    """What a model wrote in one turn.

    Attributes:
        text: The turn without its end token.
        calls: The calls of tools in it, in their order.
        number: The number of the turn in its episode, from 1.
        truncated: Whether it was truncated at its maximum length.
        problem: Why what looks like a call is none, or nothing.
    """

    text: str
    calls: list[Call] = field(default_factory=list)
    number: int = 1
    truncated: bool = False
    problem: str = ""

    @property
    def answer(self) -> str:
        """The part of the text that answers: what is in the last `<answer>`, or what follows the thinking.

        >>> Turn("<think> 3 or 4 </think> <answer> 4 </answer>").answer, Turn("<think> 3").answer, Turn("4.").answer
        ('4', '', '4.')
        """
        text = self.text.rpartition("</think>")[2].partition("<think>")[0]
        return (re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL) or [text])[-1].strip()


@dataclass
class Reply:
    """What an environment replies to a turn.

    Attributes:
        content: The text that the model reads.
        role: Who says it in a chat template: `tool` or `user`.
        done: Whether the episode ends with this reply, which the model then does not read.
        reward: A reward for the turn, which is added to that of the episode.
        error: Why a call failed, for the record; `content` is what the model reads.
        raised: Whether it failed because the tool raised an exception.
    """

    content: str
    role: str = "tool"
    done: bool = False
    reward: float | None = None
    error: str = ""
    raised: bool = False


def shortened(text: str, most: int = LONGEST) -> str:
    """A text with at most `most` characters and a note: of a longer one the middle is left out.

    >>> shortened("a" * 10 + "z" * 10, 6)
    'aaa\\n[14 characters left out]\\nzzz'
    """
    text = clean(text)
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n[{len(text) - 2 * half} characters left out]\n{text[len(text) - half :]}"


def clean(text: str) -> str:
    """A text without lone surrogates, which no tokenizer takes."""
    return text.encode("utf-8", "replace").decode()
