"""Whether the calls of tools in a response are those that are expected."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from r1lab.environments import calls as written_calls
from r1lab.environments.base import Call
from r1lab.errors import UserError
from r1lab.grading.parts import final_text
from r1lab.models.tools import schemas
from r1lab.rewards.facts import reward
from r1lab.rewards.score import Score

MODES = ("ast", "strict")
ANY = "any"
"""The answer of a row for which any call of one of its tools is right."""

_PYTHON = {"string": str, "integer": int, "number": float, "boolean": bool, "array": list, "object": dict}
_IGNORED = str.maketrans({**dict.fromkeys(" ,./-_*^"), "'": '"'})
_LEFT_OUT = ""  # among the allowed values of an argument: it may be left out


@dataclass(frozen=True)
class Expected:
    """A call that is expected.

    Attributes:
        name: Of its tool.
        arguments: For each argument the allowed values.
        literal: Whether these are values as a call has them. In BFCL's answers, an object among them has a list of
            allowed values for each of its keys.
    """

    name: str
    arguments: dict[str, list]
    literal: bool = False


@reward(looks_for="work")
def tool_calls_reward(
    completions, *, answer, tools, calls: str = "auto", mode: str = "ast", **columns
) -> list[float | None]:
    """1 if the calls of tools in a response are the expected ones, by BFCL's comparison, else 0.

    The comparison is the one of the Berkeley Function Calling Leaderboard (`ast_checker.py` of the package bfcl-eval):
    as many calls as expected, in any order; the name; all required arguments and no unknown ones; and for each
    argument the type that the tool's schema declares and one of the allowed values. An integer is accepted for a
    number. Texts are equal without regard to case, spaces and `,./-_*^`. Names of tools are equal if they differ by
    `.` and `_` only.

    Calls within the thinking do not count, and text around calls makes no difference.

    Args:
        completions: Responses, with a prefilled `<think>` restored.
        answer: For each row the expected calls, as a list or as JSON: `[{"name": "age", "arguments": {"person":
            "Mia"}}]`, or with all allowed values, as in BFCL: `[{"age": {"person": ["Mia"], "unit": ["years", ""]}}]`,
            where `""` says that the argument may be left out. An empty list if no call is right; `"any"` if any call
            of one of the tools is; None if the reward does not apply.
        tools: For each row the JSON schemas of the tools, as a list or as JSON.
        calls: How calls are written: `hermes` (also Qwen), `llama`, `deepseek`, or `auto`, for any of them.
        mode: `ast` is BFCL's comparison. `strict` ignores only case and repeated spaces in texts, and an argument that
            may be left out must not be empty instead.

    Returns:
        `Score`s with the reason correct, unfinished (the thinking never ends), unparsed, no_call, no_answer (nothing
            is said where no call is right), unexpected_call, wrong_count, wrong_name, missing_argument,
            unknown_argument, wrong_type or wrong_value.

    Raises:
        UserError: A setting is unknown, or a row's tools are not JSON schemas.
        ValueError: A row's answer is not of this form, or none of its tools has the name of an expected call.

    >>> tool = {"name": "age", "parameters": {"type": "object", "properties": {"person": {"type": "string"}}}}
    >>> turn = '<tool_call>{"name": "age", "arguments": {"person": "mia"}}</tool_call>'
    >>> score = tool_calls_reward([turn], answer=[[{"age": {"person": ["Mia"]}}]], tools=[[tool]])[0]
    >>> score, score.reason
    (1.0, 'correct')
    """
    if mode not in MODES:
        raise UserError(f"rewards: tool_calls: mode: {mode!r}: should be ast or strict")
    if calls != "auto" and calls not in written_calls.STYLES:
        raise UserError(f"rewards: tool_calls: calls: {calls!r}: should be auto, {', '.join(written_calls.STYLES)}")
    rows = zip(completions, answer, tools, strict=True)
    return [None if gold is None else _score(turn, gold, known, calls, mode) for turn, gold, known in rows]


def _score(turn: str, answer: str | list, tools: str | list | None, style: str, mode: str) -> Score:
    expected = ANY if answer == ANY else expected_calls(answer)
    known = _known(tools)
    text = final_text(turn)
    if text is None:
        return Score(0.0, "unfinished")
    found, problem = _read(text, style)
    if problem:
        return Score(0.0, f"unparsed: {problem}")
    if expected == ANY:
        if not found:
            return Score(0.0, "no_call")
        unknown = [call.name for call in found if _plain_name(call.name) not in known]
        return Score(0.0, f"wrong_name: {unknown[0]}") if unknown else Score(1.0, "correct")
    why = _mismatch(found, expected, known, strict=mode == "strict")
    if not why and not expected and not text.strip():
        why = "no_answer"
    return Score(0.0, why) if why else Score(1.0, "correct")


def _read(text: str, style: str) -> tuple[list[Call], str]:
    """The calls in a text, or why they cannot be read; in the first style in which there are any, if it is `auto`."""
    found, problem = [], ""
    for one in reversed(written_calls.STYLES) if style == "auto" else [style]:
        found, problem = written_calls.read(text, one)
        if found or problem:
            break
    return found, problem


def expected_calls(answer: str | list) -> list[Expected]:
    """The expected calls of a row's answer.

    Raises:
        ValueError: It is not a list of calls.

    >>> expected_calls('[{"age": {"person": ["Mia"], "unit": ["years", ""]}}]')[0].arguments
    {'person': ['Mia'], 'unit': ['years', '']}
    """
    found = json.loads(answer) if isinstance(answer, str) else answer
    if not isinstance(found, list):
        raise ValueError(f"answer: should be a list of calls: {str(answer)[:80]}")
    return [_expected(one) for one in found]


def _expected(one: Any) -> Expected:
    if isinstance(one, dict) and isinstance(one.get("name"), str) and isinstance(one.get("arguments"), dict):
        return Expected(one["name"], {name: [value] for name, value in one["arguments"].items()}, literal=True)
    if isinstance(one, dict) and len(one) == 1:
        ((name, arguments),) = one.items()
        if isinstance(arguments, dict) and all(isinstance(values, list) for values in arguments.values()):
            return Expected(name, arguments)
    raise ValueError(f"answer: not a call with its arguments: {str(one)[:80]}")


def example(expected: Expected, tools: str | list) -> Call:
    """A call that is correct: the first allowed value of each argument that may not be left out.

    Some rows of BFCL allow to leave out an argument that the tool's schema requires; BFCL then demands it.

    Args:
        tools: The JSON schemas of the row's tools.

    >>> expected = expected_calls('[{"age": {"person": ["Mia"], "unit": ["years", ""]}}]')[0]
    >>> example(expected, [{"name": "age"}])
    Call(name='age', arguments={'person': 'Mia'})
    """
    if expected.literal:
        return Call(expected.name, {name: values[0] for name, values in expected.arguments.items()})
    required = (_known(tools)[_plain_name(expected.name)].get("parameters") or {}).get("required") or []
    values = {name: [one for one in allowed if one != _LEFT_OUT] for name, allowed in expected.arguments.items()}
    needed = [name for name, allowed in expected.arguments.items() if name in required or _LEFT_OUT not in allowed]
    return Call(expected.name, {name: _unfolded(values[name][0]) for name in needed if values[name]})


def _known(tools: str | list | None) -> dict[str, dict]:
    """The schemas of tools, by their names without dots."""
    return {_plain_name(tool["function"]["name"]): tool["function"] for tool in schemas(tools)}


def _unfolded(value: Any) -> Any:
    """An allowed value of an argument as a call has it."""
    if isinstance(value, list):
        return [_object(item) if isinstance(item, dict) else item for item in value]
    return _object(value) if isinstance(value, dict) else value


def _object(allowed: dict[str, list]) -> dict[str, Any]:
    return {key: listed[0] for key, listed in allowed.items() if listed and _LEFT_OUT not in listed}


def _plain_name(name: str) -> str:
    return name.replace(".", "_")  # OpenAI's API and several chat templates allow no dots, so BFCL replaces them


def _mismatch(found: list[Call], expected: list[Expected], known: dict[str, dict], *, strict: bool) -> str:
    """Why calls are not the expected ones, or nothing if there is a one-to-one assignment between them."""
    if not expected:
        return f"unexpected_call: {found[0].name}" if found else ""
    if not found:
        return "no_call"
    if len(found) != len(expected):
        return f"wrong_count: {len(found)} instead of {len(expected)}"
    why = [[_misfit(call, one, known, strict=strict) for call in found] for one in expected]
    taken: dict[int, int] = {}  # call: expected call

    def assign(i: int, tried: set[int]) -> bool:
        for k in range(len(found)):
            if why[i][k] or k in tried:
                continue
            tried.add(k)
            if k not in taken or assign(taken[k], tried):
                taken[k] = i
                return True
        return False

    for i in range(len(expected)):
        if not assign(i, set()):
            reasons = [reason for reason in why[i] if reason]  # some, or a call would have been left for it
            return next((reason for reason in reasons if not reason.startswith("wrong_name")), reasons[0])
    return ""


def _misfit(call: Call, expected: Expected, known: dict[str, dict], *, strict: bool) -> str:
    """Why a call is not an expected one, or nothing."""
    tool = known.get(_plain_name(expected.name))
    if tool is None:
        raise ValueError(f"answer: none of the tools is {expected.name}")
    if _plain_name(call.name) != _plain_name(expected.name):
        return f"wrong_name: {call.name}"
    parameters = tool.get("parameters") or {}
    declared = parameters.get("properties") or {}
    needed = [*(parameters.get("required") or []), *(n for n, v in expected.arguments.items() if _LEFT_OUT not in v)]
    if missing := [name for name in needed if name not in call.arguments]:
        return f"missing_argument: {missing[0]}"
    for name, value in call.arguments.items():
        if name not in declared or name not in expected.arguments:
            return f"unknown_argument: {name}"
        if why := _wrong(value, expected, name, declared[name], strict=strict):
            return f"{why}: {name}"
    return ""


def _wrong(value: Any, expected: Expected, name: str, schema: dict, *, strict: bool) -> str:
    """Whether the value of an argument has the `wrong_type` or is a `wrong_value`, or nothing.

    As in BFCL, the type is the declared one or that of the first allowed value, which some rows declare otherwise. A
    value of the second kind must equal an allowed one exactly.
    """
    allowed = expected.arguments[name]
    given = [one for one in allowed if one != _LEFT_OUT]
    kind, other = _PYTHON.get(str(schema.get("type")), str), type(given[0]) if given else None
    allowed = given if strict else allowed
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        fits = type(value) is other
        return "" if fits and value in allowed else "wrong_value" if fits else "wrong_type"
    inner = _PYTHON.get(str((schema.get("items") or {}).get("type"))) if kind is list else None
    if inner and not any(_items_fit(value, one, inner) for one in allowed):
        return "wrong_type"
    if other not in (None, kind):
        return "" if value in allowed else "wrong_value"
    fold = _fold_strictly if strict else _fold
    if expected.literal:
        return "" if any(_deep(value, fold) == _deep(one, fold) for one in allowed) else "wrong_value"
    return "" if any(_equal(value, one, inner, fold) for one in allowed) else "wrong_value"


def _items_fit(value: list, allowed: Any, kind: type) -> bool:
    """Whether the items of a list have the declared type or that of the first allowed item."""
    if not isinstance(allowed, list):
        return True
    other = next((type(item) for item in allowed if item != _LEFT_OUT), None)
    return all(type(item) in (kind, other) for item in value)


def _equal(value: Any, allowed: Any, inner: type | None, fold: Callable[[Any], Any]) -> bool:
    """Whether a value of the declared type is an allowed one, by BFCL's rules.

    Texts are folded at the top, as items of a list and as values of an object; what lies deeper must be equal. An
    empty list counts as left out, as an empty text does.
    """
    if isinstance(value, dict):
        return isinstance(allowed, dict) and _same_object(value, allowed, fold)
    if not isinstance(value, list):
        return fold(value) == fold(allowed)
    if not isinstance(allowed, list):
        return not value and allowed == _LEFT_OUT
    if inner is dict:
        pairs = zip(value, allowed)
        return len(value) == len(allowed) and all(_equal(one, other, None, fold) for one, other in pairs)
    return [fold(item) for item in value] == [fold(item) for item in allowed]


def _same_object(value: dict, allowed: dict[str, list], fold: Callable[[Any], Any]) -> bool:
    if any(key not in value and _LEFT_OUT not in listed for key, listed in allowed.items()):
        return False
    return all(key in allowed and fold(one) in map(fold, allowed[key]) for key, one in value.items())


def _deep(value: Any, fold: Callable[[Any], Any]) -> Any:
    """A value with all of its texts folded."""
    if isinstance(value, dict):
        return {key: _deep(one, fold) for key, one in value.items()}
    return [_deep(one, fold) for one in value] if isinstance(value, list) else fold(value)


def _fold(value: Any) -> Any:
    """A text in the form in which BFCL compares it; anything else as it is."""
    return value.translate(_IGNORED).lower() if isinstance(value, str) else value


def _fold_strictly(value: Any) -> Any:
    return " ".join(value.casefold().split()) if isinstance(value, str) else value
