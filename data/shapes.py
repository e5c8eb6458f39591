"""The shapes of rows: messages, parts of messages, thinking in its own column, values that JSON lacks."""

import base64
import datetime
import decimal
import pathlib
import uuid
from typing import Any

MESSAGES = ("messages", "conversations")
"""Columns that have a whole conversation."""

COMPLETIONS = ("completion", "chosen", "rejected")
"""Columns that have a response of the assistant."""

_TEXT = ("text", "input_text", "output_text")  # types of a message's parts that are text
_ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython")
_OF_SHAREGPT = {"human": "user", "gpt": "assistant"}
_THOUGHT = ("reasoning_content", "reasoning", "thinking")  # fields of messages with the thinking


def shaped(row: dict) -> dict:
    r"""A row with a prompt that is text or messages of text, completions that are text, and values that JSON has.

    - Messages alone (`messages`, or `conversations` with `from` and `value`) become `prompt` and, if the last message
        is the assistant's, `completion`. For `chosen` and `rejected` conversations, their common part becomes
        `prompt`.
    - The content of a message may be a list of text parts, which are joined.
    - A `thinking` column is put in front of a completion that has no thinking, in `<think>` tags.

    Raises:
        ValueError: It has another shape; the message starts with the column.

    >>> question = {"role": "user", "content": [{"type": "text", "text": "2+2?"}]}
    >>> row = shaped({"messages": [question, {"role": "assistant", "content": "4"}]})
    >>> row["prompt"], row["completion"]
    ([{'role': 'user', 'content': '2+2?'}], '4')
    >>> shaped({"prompt": "2+2?", "thinking": "Two pairs.", "completion": "4"})["completion"]
    '<think>\nTwo pairs.\n</think>\n\n4'
    """
    row = json_values(row)
    if row.get("prompt") in (None, "", []):
        row |= _from_messages(row)
    if isinstance(row.get("prompt"), list) and row["prompt"]:
        row["prompt"] = messages(row["prompt"], "prompt")
        _ends_with_a_question(row["prompt"])
    for column in COMPLETIONS:
        if isinstance(row.get(column), list) and row[column]:
            row[column] = _turn(messages(row[column], column), row.get("prompt"), column)
        elif row.get(column) is not None and not isinstance(row[column], str | list):
            raise ValueError(f"{column}: should be text, or messages with `role` and `content`")
    if row.get("completion") and row.get("thinking"):
        row["completion"] = thought(_one_text(row["thinking"]), row["completion"])
    return row


def json_values(value, where: str = "") -> Any:
    """A value as JSON can represent it.

    Dates become text in ISO form, decimals their digits, bytes text (base64 if they are not UTF-8), and NaN, which
    pandas writes for a missing value, None.

    Raises:
        ValueError: A text has half of a character, or a value has a type that files of rows do not have.

    >>> json_values({"day": datetime.date(2024, 1, 2), "price": decimal.Decimal("1.50"), "name": b"Ada"})
    {'day': '2024-01-02', 'price': '1.50', 'name': 'Ada'}
    """
    if isinstance(value, str):
        if not value.isascii():
            _whole_characters(value, where)
        return value
    if value is None or isinstance(value, bool | int | float):
        return None if value != value else value
    if isinstance(value, dict):
        return {
            json_values(key, where or "the name of a column"): json_values(v, where or str(key))
            for key, v in value.items()
        }
    if isinstance(value, list | tuple):
        return [json_values(v, where) for v in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return format(value, "f")
    if isinstance(value, bytes | bytearray | memoryview):
        return _text_of_bytes(bytes(value))
    if isinstance(value, datetime.timedelta | uuid.UUID | pathlib.PurePath):
        return str(value)
    if hasattr(value, "tolist"):  # numpy's arrays and numbers
        return json_values(value.tolist(), where)
    raise ValueError(
        f"{where}: a value of the type {type(value).__name__}, which JSON lacks: make it text or a number"
    )


def messages(listed: list, column: str) -> list[dict]:
    """Chat messages with `role` and text `content`.

    Raises:
        ValueError: An item is not a message, its role is unknown, or its content is not text.
    """
    found = []
    for number, message in enumerate(listed, 1):
        if not isinstance(message, dict):
            raise ValueError(f"{column}: should be text, or messages with `role` and `content`")
        role, of_role = message.get("role"), "content"
        if role is None and isinstance(message.get("from"), str):
            role, of_role = message["from"], "value"
        if not isinstance(role, str) or of_role not in message:
            raise ValueError(f"{column}: should be text, or messages with `role` and `content`")
        role = _OF_SHAREGPT.get(role, role)
        if role not in _ROLES:  # many chat templates would write it unchanged, or leave the message out
            known = f"{', '.join(_ROLES)}, and human and gpt, which are read as user and assistant"
            raise ValueError(f"{column}: message {number} has an unknown role, {role!r}; the known ones are {known}")
        content = _content(message, of_role, f"{column}: message {number} ({role})")
        more = {k: v for k, v in message.items() if k not in ("role", "content", "from", "value") and v is not None}
        found.append({"role": role, "content": content, **more})
    return found


def thought(thinking: str, final: str) -> str:
    """A completion of thinking and final text, or the final text alone if it already includes its thinking."""
    if "</think>" in final or not thinking.strip():
        return final
    return f"<think>\n{thinking.strip()}\n</think>\n\n{final.strip()}"


def answer(message: dict) -> str:
    """The text of an assistant's message, including its thinking if that is in a separate field."""
    thinking = next((message[key] for key in _THOUGHT if isinstance(message.get(key), str)), "")
    return thought(thinking, message["content"])


def _content(message: dict, key: str, where: str) -> str:
    content = message[key]
    if isinstance(content, str):
        return content
    if content is None and message.get("tool_calls"):
        return ""  # servers represent a turn that only calls a tool in this way
    if isinstance(content, list) and content:
        odd = [part for part in content if not _is_text(part)]
        if odd:
            kind = odd[0].get("type", "no known type") if isinstance(odd[0], dict) else type(odd[0]).__name__
            raise ValueError(f"{where}: has a part of type {kind}, but only text parts are supported")
        return "".join(part if isinstance(part, str) else part["text"] for part in content)
    shown = "null" if content is None else "not text"
    raise ValueError(f"{where}: its content is {shown}: write the text, or leave the message out")


def _is_text(part: object) -> bool:
    if isinstance(part, str):
        return True
    return isinstance(part, dict) and part.get("type", "text") in _TEXT and isinstance(part.get("text"), str)


def _from_messages(row: dict) -> dict:
    """The `prompt`, and maybe the `completion`, of a row that has only messages; empty if it has none."""
    column = next((name for name in MESSAGES if isinstance(row.get(name), list)), None)
    if column and row[column]:
        listed = messages(row[column], column)
        if listed[-1]["role"] != "assistant":
            return {"prompt": listed}
        if len(listed) == 1:
            raise ValueError(f"{column}: only the assistant speaks: a prompt needs a user message before it")
        completion = {} if row.get("completion") else {"completion": answer(listed[-1])}
        return {"prompt": listed[:-1], **completion}
    pair = {side: row.get(side) for side in ("chosen", "rejected")}
    talks = {side: listed for side, listed in pair.items() if isinstance(listed, list) and len(listed) > 1}
    if len(talks) < 2:
        return {}
    chosen, rejected = (messages(listed, side) for side, listed in talks.items())
    if chosen[:-1] != rejected[:-1]:
        raise ValueError("chosen: continues another conversation than `rejected`: both need the same `prompt`")
    return {"prompt": chosen[:-1]}


def _turn(listed: list[dict], prompt: object, column: str) -> str:
    """The assistant's response in a completion that is given as messages."""
    *before, last = listed
    if last["role"] != "assistant":
        raise ValueError(f"{column}: its last message is from the {last['role']}, not from the assistant")
    question = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if before and _said(before) not in (_said(question), _said(question)[-1:]):
        raise ValueError(f"{column}: starts with other messages than `prompt`: leave `prompt` out, or those messages")
    return answer(last)


def _said(listed: object) -> list[tuple[str, str]]:
    """The role and text of each message, without the system prompt."""
    turns = listed if isinstance(listed, list) else []
    return [(m["role"], m["content"].strip()) for m in turns if m["role"] != "system"]


def _ends_with_a_question(prompt: list[dict]) -> None:
    if prompt[-1]["role"] == "assistant":
        what = "prompt: its last message is from the assistant, but the model's response comes next"
        raise ValueError(f"{what}: leave it out, or move it into `completion`")
    if all(message["role"] in ("system", "developer") for message in prompt):
        what = f"prompt: has no user message, only messages from the {prompt[-1]['role']}"
        raise ValueError(f"{what}: add the question as a message with the role user")
    if not prompt[-1]["content"].strip():
        raise ValueError(f"prompt: its last message, from the {prompt[-1]['role']}, is empty")


def _one_text(thinking: object) -> str:
    """The text of a `thinking` column, which s1K has as a list of one."""
    texts = thinking if isinstance(thinking, list) else [thinking]
    if len(texts) != 1 or not isinstance(texts[0], str):
        raise ValueError("thinking: should be one text")
    return texts[0]


def _whole_characters(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start].encode("unicode_escape").decode()
        what = f"has half of a character ({half}, at place {error.start + 1}), which is not text"
        raise ValueError(f"{where}: {what}: write the whole character, or leave the row out") from error


def _text_of_bytes(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return base64.b64encode(value).decode()
