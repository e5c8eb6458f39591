"""How models write calls of tools: in the formats of Hermes and Qwen, of Llama, and of DeepSeek."""

import json
import re
from collections.abc import Callable
from typing import Any

from r1lab.environments.base import Call

BEGIN, END = "<tool_call>", "</tool_call>"
"""Around a call in the format of Hermes and Qwen."""

_CALL, _SEPARATOR, _CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
_PYTHON_TAG = "<|python_tag|>"
_THOUGHT = re.compile(r"^.*</think>", re.DOTALL)


class CallError(ValueError):
    """What looks like a call cannot be read; the message says why, in words that are fit for the model."""


def read(text: str, style: str = "hermes") -> tuple[list[Call], str]:
    """The calls in a turn, and why what looks like a call is none.

    A call within the thinking, before the last `</think>`, does not count.

    Args:
        style: A name in `STYLES`.

    Returns:
        `(calls, problem)`: all calls, or none and the first problem.

    >>> read('<tool_call>{"name": "age", "arguments": {"person": "Mia"}}</tool_call>')
    ([Call(name='age', arguments={'person': 'Mia'})], '')
    >>> read('<tool_call>{"name": "age"</tool_call>')[1]
    "the call is not valid JSON: Expecting ',' delimiter, at character 14"
    """
    try:
        return STYLES[style](_THOUGHT.sub("", text)), ""
    except CallError as error:
        return [], str(error)


def _hermes(text: str) -> list[Call]:
    return [_call(_object(part.partition(END)[0])) for part in text.split(BEGIN)[1:]]


def _llama(text: str) -> list[Call]:
    """Llama 3.1 and later: the whole turn is one JSON object, or several with semicolons between them."""
    tagged = _PYTHON_TAG in text
    text = text.rpartition(_PYTHON_TAG)[2].strip()
    if not tagged and not re.match(r'\{\s*"(name|type)"', text):
        return []
    calls, decoder = [], json.JSONDecoder()
    while text:
        try:
            found, end = decoder.raw_decode(text)
        except (ValueError, RecursionError) as error:
            raise _invalid(error) from error
        calls.append(_call(found))
        text = text[end:].lstrip(" \n;")
    return calls


def _deepseek(text: str) -> list[Call]:
    """The name on a line of its own, and the arguments as a block of JSON."""
    calls = []
    for part in text.split(_CALL)[1:]:
        name, _, arguments = (
            part.partition(_CALL_END)[0].removeprefix("function").removeprefix(_SEPARATOR).partition("\n")
        )
        arguments = arguments.strip().removeprefix("```json").removesuffix("```")
        calls.append(_call({"name": name.strip(), "arguments": _object(arguments)}))
    return calls


STYLES: dict[str, Callable[[str], list[Call]]] = {"hermes": _hermes, "llama": _llama, "deepseek": _deepseek}
"""The formats of calls, by name."""


def style_of(tokenizer) -> str:
    """The format that a model's chat template teaches; that of Hermes if it teaches none.

    A chat template may be a dict of several ones, of which `tool_use` then counts.
    """
    template = tokenizer.chat_template or ""
    if isinstance(template, dict):
        template = template.get("tool_use") or template.get("default") or ""
    if "tool▁call▁begin" in template:
        return "deepseek"
    if _PYTHON_TAG in template or ('"parameters"' in template and BEGIN not in template):
        return "llama"
    return "hermes"


def _object(text: str) -> Any:
    try:
        return json.loads(text.strip())
    except (ValueError, RecursionError) as error:
        raise _invalid(error) from error


def _invalid(error: Exception) -> CallError:
    if isinstance(error, json.JSONDecodeError):
        return CallError(f"the call is not valid JSON: {error.msg}, at character {error.pos}")
    return CallError(f"the call is not valid JSON: {error}")  # such as a number with too many digits


def _call(found: Any) -> Call:
    if isinstance(found, dict) and isinstance(found.get("function"), dict):  # as in OpenAI's messages
        found = found["function"]
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        raise CallError('the call is not an object with a "name" and "arguments"')
    arguments = found.get("arguments", found.get("parameters", {}))
    if isinstance(arguments, str):  # some models write the arguments as JSON in a text
        arguments = _object(arguments or "{}")
    if not isinstance(arguments, dict):
        raise CallError(f'the "arguments" of the call of {found["name"]} are not an object')
    return Call(found["name"], arguments)


def written(call: Call, style: str = "hermes") -> str:
    """A call as a model of a style writes it.

    >>> read(written(Call("age", {"person": "Mia"}), "llama"), "llama")
    ([Call(name='age', arguments={'person': 'Mia'})], '')
    """
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    name = json.dumps(call.name, ensure_ascii=False)
    if style == "llama":
        return f'{{"name": {name}, "parameters": {arguments}}}'
    if style == "deepseek":
        return f"{_CALL}function{_SEPARATOR}{call.name}\n```json\n{arguments}\n```{_CALL_END}"
    return f'{BEGIN}\n{{"name": {name}, "arguments": {arguments}}}\n{END}'
