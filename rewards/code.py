"""Whether a program that a completion gives passes its tests, run where it can do no harm."""

import json
import logging
import math
import os
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from r1lab.errors import UserError
from r1lab.rewards.score import Score

_log = logging.getLogger(__name__)

# Runs inside the sandbox as the program proper: calls one function of the completion's code and prints what it gave.
_CALL = """\
import json, os, sys
dumps, stdout = json.dumps, os.fdopen(os.dup(1), "w", encoding="utf-8")
request = json.loads(sys.stdin.read())
space = {"__name__": "solution"}
exec(compile(request["code"], "solution.py", "exec"), space)
name = request["function"]
function = space[name] if name in space else getattr(space["Solution"](), name)
print("\\n" + request["token"] + dumps(function(*request["args"])), file=stdout, flush=True)
"""


def code_reward(
    completions,
    *,
    tests,
    mode: Literal["share", "all"] = "share",
    timeout: float = 5.0,
    memory: int = 512,
    workers: int | None = None,
    sandbox: str | Callable = "local",
    **columns,
) -> list[float | None]:
    """The share of its tests that a completion's Python program passes, each run in a fresh sandbox.

    The rule-based reward of DeepSeek-R1 for competition code (arXiv:2501.12948, section 2.2.2), as Open-R1's
    `code_reward` computes it. The program is the last fenced block marked as Python, else the last fenced block, of
    what follows `</think>`, and of its last `<answer>` where there is one.

    Expected values never enter the sandbox: output is compared in this process, and each test runs in a process of its
    own. A program can thus patch, print or end what it likes and is still right only where it gives the right value. A
    program that lists the answers cannot be told from one that finds them: test on more than the prompt shows.

    Args:
        completions: Assistant turns.
        tests: For each row a list of tests, or the same as JSON text (a column of a dataset cannot mix types); None:
            does not apply. A test is `{"input": "1 2", "output": "3"}`: what the program prints is compared line by
            line, where runs of white space and empty lines at either end do not matter; or it is
            `{"function": "add", "args": [1, 2], "output": 3}`: the function, or the method of a class `Solution`, must
            return what JSON writes in the same way (so a tuple is a list, but True is not 1), floats within a relative
            1e-6. Open-R1's `verification_info`, `{"test_cases": [...]}`, can be given as it is; with an `fn_name` its
            `input` is the list of arguments.
        mode: `"share"`: the share of tests passed. `"all"`: 1 if all are, else 0.
        timeout: Seconds for each test. The first test that takes longer, or prints more than 1 MiB, is the last: those
            after it count as failed.
        memory: MiB for each process.
        workers: Programs that run at a time. Default: one for each core.
        sandbox: `"local"`: see `r1lab.verify.sandbox`, which says what it does not cover. `"e2b"`: E2B's, whose
            package must be installed. A dotted path, or a function: yours, called as
            `sandbox(program, stdin, limits)`.

    Returns:
        `Score`s. Reasons: passed; `failed: test N of M` (the first that failed), or where that test did not end well
        timeout, memory, output_limit, no_result, `error: ` with the exception, signal or exit status; no_code. None
        where the sandbox itself fails.

    Raises:
        UserError: A setting is wrong.
        ValueError: Tests are not of that form.

    >>> turn = "<think> Read, add, print. </think> ```python\\nprint(sum(map(int, input().split())))\\n```"
    >>> code_reward([turn, "<think> Hm. </think> 3"], tests=[[{"input": "1 2", "output": "3"}]] * 2)
    [1.0, 0.0]
    >>> turn = "```python\\ndef add(a, b):\\n    return abs(a) + b\\n```"
    >>> cases = [{"function": "add", "args": [a, 2], "output": a + 2} for a in (1, -1)]
    >>> code_reward([turn], tests=[cases]), code_reward([turn], tests=[cases], mode="all")
    ([0.5], [0.0])
    """
    from r1lab.verify.sandbox import Limits

    if mode not in ("share", "all"):
        raise UserError(f"rewards: code: mode: {mode!r} is not share or all")
    workers = (os.cpu_count() or 1) if workers is None else workers
    for name, value, kind, least in (
        ("timeout", timeout, int | float, 0.1),
        ("memory", memory, int, 64),
        ("workers", workers, int, 1),
    ):
        if isinstance(value, bool) or not isinstance(value, kind) or not least <= value < math.inf:
            whole = "whole " if kind is int else ""
            raise UserError(f"rewards: code: {name}: {value!r} is not a {whole}number of at least {least}")
    run, limits = _sandbox(sandbox), Limits(seconds=timeout, memory=memory * 2**20)
    cases = [None if given is None else read_tests(given) for given in tests]

    def score(text: str, cases: list[dict] | None) -> Score | None:
        if cases is None:
            return None
        if (code := extract(text)) is None:
            return Score(0.0, "no_code")
        return _score(code, cases, mode, run, limits)

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda row: score(*row), zip(completions, cases, strict=True)))


def extract(text: str) -> str | None:
    """The program in an assistant turn, or None.

    The last closed block of three backticks that is marked as Python, else the last one. Nothing counts that stands in
    the thinking, or outside the last `<answer>` where there is one.

    >>> extract("<think> ```python\\n1\\n``` </think> First:\\n```py\\n2\\n```\\nIts output:\\n```\\n3\\n```")
    '2\\n'
    """
    _, thought, after = text.rpartition("</think>")
    if not thought and "<think>" in text:
        return None
    before, answered, last = after.rpartition("<answer>")
    if answered:
        after = last.partition("</answer>")[0]
    marked, unmarked = None, None
    python, lines = None, []  # whether the block that is open is Python's (None: none is open), and its lines
    # Line by line, since a regular expression would look through all the rest of the text for each fence left open.
    for line in after.split("\n"):
        bare = line.strip()
        if python is None:
            if bare.startswith("```") and "`" not in bare[3:]:
                python, lines = bare[3:].strip().lower().partition(" ")[0] in ("python", "py", "python3"), []
        elif bare.endswith("```"):
            code = "\n".join([*lines, line.rstrip().rstrip("`")])
            marked, unmarked = (code, unmarked) if python else (marked, code)
            python = None
        else:
            lines.append(line)
    return unmarked if marked is None else marked


def read_tests(given: list | dict | str) -> list[dict]:
    """Tests in one form: `function`, `args`, `output` of a call, or `input`, `output` of a program, the rest None.

    >>> read_tests('{"test_cases": [{"type": "stdin_stdout", "fn_name": null, "input": "1", "output": "2"}]}')
    [{'function': None, 'args': None, 'input': '1', 'output': '2'}]
    """
    found = json.loads(given) if isinstance(given, str) else given
    found = found.get("test_cases") if isinstance(found, dict) else found
    if not isinstance(found, list) or not found:
        raise ValueError(f"code: not a list of tests: {str(given)[:200]}")
    return [_test(case) for case in found]


def _test(case: dict) -> dict:
    if isinstance(case, dict) and "output" in case:
        output = case["output"]
        if function := case.get("function") or case.get("fn_name"):
            args = case.get("input") if case.get("args") is None else case["args"]
            if isinstance(args, list):
                return {"function": function, "args": args, "input": None, "output": json.loads(json.dumps(output))}
        elif isinstance(case.get("input", ""), str) and isinstance(output, str):
            return {"function": None, "args": None, "input": case.get("input", ""), "output": output}
    raise ValueError(f"code: not a test with input and output, or with function, args and output: {str(case)[:200]}")


def _score(code: str, tests: list[dict], mode: str, run: Callable, limits) -> Score | None:
    verdicts = []
    for test in tests:
        verdicts.append(verdict := _verdict(code, test, run, limits))
        if verdict.startswith("unavailable"):
            _log.warning("code: a program was not scored, the sandbox is %s", verdict)
            return None
        if verdict in ("timeout", "output_limit") or (mode == "all" and verdict != "passed"):
            break
    passed = verdicts.count("passed")
    if passed == len(tests):
        return Score(1.0, "passed")
    first = next(i for i, verdict in enumerate(verdicts) if verdict != "passed")
    reason = f"failed: test {first + 1} of {len(tests)}" if verdicts[first] == "wrong" else verdicts[first]
    return Score(passed / len(tests) if mode == "share" else 0.0, reason)


def _verdict(code: str, test: dict, run: Callable, limits) -> str:
    """`passed`, `wrong`, `no_result`, or the status of a program that did not end well."""
    if test["function"] is None:
        ended = run(code, test["input"], limits)
        if ended.status != "ok":
            return ended.status
        return "passed" if _lines(ended.stdout) == _lines(test["output"]) else "wrong"
    # What the code prints itself cannot be taken for the result, unless it searches its own process for the token; and
    # then it has only said in another way what its function returns.
    token = secrets.token_hex(16)
    call = {"code": code, "function": test["function"], "args": test["args"], "token": token}
    ended = run(_CALL, json.dumps(call), limits)
    if ended.status != "ok":
        return ended.status
    _, found, rest = ended.stdout.rpartition("\n" + token)
    try:
        value = json.loads(rest.partition("\n")[0]) if found else None
    except (ValueError, RecursionError):
        found = ""
    if not found:
        return "no_result"
    return "passed" if same(value, test["output"]) else "wrong"


def _lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.strip().split("\n")]


def same(value: object, expected: object) -> bool:
    """Whether two values read from JSON are the same, floats within a relative 1e-6 (1e-9 about zero).

    >>> same([0.1 + 0.2], [0.3]), same({"a": 1.0}, {"a": 1}), same(True, 1)
    (True, True, False)
    """
    if isinstance(expected, list):
        return isinstance(value, list) and len(value) == len(expected) and all(map(same, value, expected))
    if isinstance(expected, dict):
        return (
            isinstance(value, dict)
            and value.keys() == expected.keys()
            and all(same(value[k], expected[k]) for k in value)
        )
    if isinstance(value, bool) or isinstance(expected, bool):
        return value is expected
    if (
        isinstance(value, float)
        and isinstance(expected, float)
        and math.isclose(value, expected, rel_tol=1e-6, abs_tol=1e-9)
    ):
        return True
    return value == expected


def _sandbox(sandbox: str | Callable) -> Callable:
    from r1lab import lookup
    from r1lab.verify import sandbox as offered

    if callable(sandbox):
        return sandbox
    if sandbox in ("local", "e2b"):
        return offered.run if sandbox == "local" else offered.e2b
    if not isinstance(sandbox, str) or "." not in sandbox:
        raise UserError(
            f"rewards: code: sandbox: {sandbox!r} is not local, e2b, or a dotted path to a function of yours"
        )
    try:
        return lookup.function("rewards", sandbox)
    except UserError as error:
        raise UserError(f"rewards: code: sandbox: {error}") from error
