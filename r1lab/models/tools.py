"""Tools in a prompt: shown by the model's chat template, or as text if that has no place for them."""

import json
from functools import lru_cache

from r1lab.errors import UserError

TEXT = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n{tools}\n</tools>\n\n"
    "For each function call, return a json object with function name and arguments within <tool_call></tool_call> "
    'XML tags:\n<tool_call>\n{{"name": <function-name>, "arguments": <args-json-object>}}\n</tool_call>'
)
"""The tools as text: what the chat template of Qwen2.5 writes into its system prompt."""

_PROBE = "r1lab_probe"


def schemas(tools: str | list[dict] | None) -> list[dict]:
    """The JSON schemas in a row's column `tools`, each as `{"type": "function", "function": {...}}`.

    Args:
        tools: A list of such schemas, or of their inner parts alone (`{"name": ..., "parameters": ...}`), or either of
            them as JSON.

    Raises:
        UserError: It is something else.

    >>> schemas('[{"name": "age", "parameters": {"type": "object", "properties": {}}}]')[0]["function"]["name"]
    'age'
    """
    found = tools
    if isinstance(tools, str):
        try:
            found = json.loads(tools)
        except ValueError as error:
            raise _unreadable(f"not JSON: {error}", tools) from error
    made = []
    for tool in found or []:
        inner = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
            raise _unreadable('not an object with a "name" and "parameters"', tool)
        made.append({"type": "function", "function": inner})
    return made


def _unreadable(why: str, found: object) -> UserError:
    what = f"data: tools: {str(found)[:60]!r} is {why}"
    return UserError(f"{what}: give a list of JSON schemas, or rename a column that has other content")


def as_text(listed: list[dict]) -> str:
    """The tools as text, one JSON schema per line, with how to write a call."""
    return TEXT.format(tools="\n".join(json.dumps(tool, ensure_ascii=False) for tool in listed))


def into(prompt: str | list[dict], listed: list[dict]) -> str | list[dict]:
    """A prompt with the tools as text before its question, which is the first user message of several messages.

    Raises:
        UserError: There is no user message.

    >>> into("How old is Mia?", [{"name": "age"}]).endswith("</tool_call>\\n\\nHow old is Mia?")
    True
    """
    if isinstance(prompt, str):
        return f"{as_text(listed)}\n\n{prompt}"
    first = next((i for i, message in enumerate(prompt) if message["role"] == "user"), None)
    if first is None:
        raise UserError("data: tools: the prompt has no user message to put them into: add one, or remove `tools`")
    asked = prompt[first] | {"content": f"{as_text(listed)}\n\n{prompt[first]['content']}"}
    return [*prompt[:first], asked, *prompt[first + 1 :]]


@lru_cache(maxsize=8)
def shown(tokenizer, source: str) -> bool:
    """Whether a chat template shows tools.

    Args:
        source: The chat template; part of the key, because the same tokenizer may get another one.
    """
    parameters = {"type": "object", "properties": {"x": {"type": "string", "description": "?"}}, "required": ["x"]}
    tool = {"type": "function", "function": {"name": _PROBE, "description": "?", "parameters": parameters}}
    given = {} if source == str(tokenizer.chat_template) else {"chat_template": source}
    try:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": "?"}], tools=[tool], tokenize=False, add_generation_prompt=True, **given
        )
    except Exception:  # a chat template is a program, which may raise anything
        return False
    return _PROBE in text


def check_shown(text: str, listed: list[dict], template: str) -> None:
    """Checks that a rendered prompt names each tool.

    Raises:
        UserError: It does not.
    """
    if lost := [tool["function"]["name"] for tool in listed if tool["function"]["name"] not in text]:
        what = f"prompt.template: {template}: the prompt does not show the tool {lost[0]} of its row"
        raise UserError(f"{what}: set prompt.template: chat, or write `tools` or the question into the template")
