"""Whether the program in a completion passes its tests, run in a sandbox."""

import json
import math
import secrets
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal
from typing import Literal

from r1lab.errors import MachineError, UserError
from r1lab.hardware import usable_cores
from r1lab.rewards.code_blocks import extract
from r1lab.rewards.code_results import printed, same
from r1lab.rewards.facts import reward
from r1lab.rewards.score import Score

_OUTPUT = 2**20  # bytes that a program may always print
_DIGITS = 4300  # of an integer that Python converts directly; longer ones in a result would take quadratic time
_LONG_INTEGERS = threading.Lock()

# Runs in the sandbox before the code: it imports the names that LiveCodeBench's harness and LeetCode import. They are
# put among the builtins, so that the function that a test calls must come from the code itself.
_PRELUDE = """\
def prepare():
    import builtins, resource, sys
    names = "string re datetime collections heapq bisect copy math random statistics itertools functools operator io"
    modules = {name: __import__(name) for name in [*names.split(), "sys", "json", "typing"]}
    known = {}
    for module in modules.values():
        public = getattr(module, "__all__", None) or [name for name in vars(module) if name[0] != "_"]
        known.update((name, getattr(module, name)) for name in public)
    for name, value in (known | modules).items():
        if not hasattr(builtins, name):
            setattr(builtins, name, value)
    _, most = resource.getrlimit(resource.RLIMIT_STACK)
    stack = 2**28 if most == resource.RLIM_INFINITY else min(2**28, most)
    resource.setrlimit(resource.RLIMIT_STACK, (stack, most))
    sys.setrecursionlimit(50_000)
    sys.set_int_max_str_digits(0)
prepare()
del prepare
"""
# Runs the code as the main program.
_PROGRAM = """exec(compile({code!r}, "main.py", "exec", dont_inherit=True))"""
# Calls one function of the code and prints what it returned.
_CALL = """\
import json, os, sys
dumps, stdout = json.dumps, os.fdopen(os.dup(1), "w", encoding="utf-8")
request = json.loads(sys.stdin.read())
solution = sys.modules["solution"] = type(sys)("solution")
space = vars(solution)
exec(compile(request["code"], "solution.py", "exec", dont_inherit=True), space)
name = request["function"]
function = space[name] if name in space else getattr(space["Solution"](), name)
print("\\n" + request["token"] + dumps(function(*request["args"])), file=stdout, flush=True)
"""


@reward(looks_for="work", runs_programs=True)
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

    This is the rule-based reward of DeepSeek-R1 for competition code (arXiv:2501.12948, section 2.2.2), as Open-R1's
    `code_reward` computes it. The program is the last fenced block marked as Python, else the last fenced block, of
    the text after `</think>`, or of its last `<answer>` if it has one. For tests that call a function, it is the last
    such block that defines the function.

    As in LiveCodeBench's harness, printed numbers are compared as decimals, and the names that contests need (`List`,
    `deque`, `math`, `inf`) are available without an import.

    Expected values never enter the sandbox: the output is compared in this process, and each test runs in a process of
    its own. A program may patch, print or end anything and is still correct only if it gives the correct value. A
    program that lists the expected outputs looks the same as one that computes them, so use more tests than the prompt
    shows.

    Args:
        completions: Responses.
        tests: For each row a list of tests, or the same as JSON text (a column of a dataset cannot mix types); None if
            the reward does not apply. A test is `{"input": "1 2", "output": "3"}`: the printed output is compared line
            by line, ignoring repeated white space, empty lines at either end, and how numbers are written (see
            `printed`). Or it is `{"function": "add", "args": [1, 2], "output": 3}`: the function, or the method of a
            class `Solution`, must return a value that JSON writes in the same way (so a tuple equals a list, but True
            is not 1), floats within a relative 1e-6. Open-R1's `verification_info`, `{"test_cases": [...]}`, works
            unchanged; with an `fn_name` its `input` is the list of arguments.
        mode: `"share"`: the share of tests passed. `"all"`: 1 if all pass, else 0.
        timeout: Seconds of CPU time for each test; the load of the machine does not matter, and a sleeping program is
            ended after half a minute. The first test that takes longer, or that prints more than 1 MiB and twice the
            expected output, is the last one that runs: those after it count as failed.
        memory: MiB that each process may use. Stack space reserved for a thread with deep recursion does not count.
        workers: The number of programs that run at a time. Default: one per core.
        sandbox: `"local"`: see `r1lab.grading.sandbox`, which says what it does not protect against. `"e2b"`: E2B's
            sandbox, whose package must be installed. A dotted path or a function: your own, called as
            `sandbox(program, stdin, limits)`.

    Returns:
        `Score`s with the reasons passed; `failed: test N of M` (the first that failed), or, if that test did not end
            normally, timeout, memory, output_limit, no_result, `error: ` with the exception, signal or exit status;
            no_code.

    Raises:
        UserError: A setting is invalid.
        ValueError: Tests do not have that form.
        MachineError: The sandbox itself fails, for lack of memory or processes.

    >>> turn = "<think> Read, add, print. </think> ```python\\nprint(sum(map(int, input().split())))\\n```"
    >>> code_reward([turn, "<think> Hm. </think> 3"], tests=[[{"input": "1 2", "output": "3"}]] * 2)
    [1.0, 0.0]
    >>> turn = "```python\\ndef add(a, b):\\n    return abs(a) + b\\n```"
    >>> cases = [{"function": "add", "args": [a, 2], "output": a + 2} for a in (1, -1)]
    >>> code_reward([turn], tests=[cases]), code_reward([turn], tests=[cases], mode="all")
    ([0.5], [0.0])
    """
    if mode not in ("share", "all"):
        raise UserError(f"rewards: code: mode: {mode!r} is not share or all")
    workers = usable_cores() if workers is None else workers
    for name, value, kind, least in (
        ("timeout", timeout, int | float, 0.1),
        ("memory", memory, int, 64),
        ("workers", workers, int, 1),
    ):
        if isinstance(value, bool) or not isinstance(value, kind) or not least <= value < math.inf:
            whole = "whole " if kind is int else ""
            raise UserError(f"rewards: code: {name}: {value!r} is not a {whole}number of at least {least}")
    run, limits = _sandbox(sandbox), {"seconds": timeout, "memory": memory * 2**20}
    cases = [None if given is None else read_tests(given) for given in tests]

    def score(text: str, cases: list[dict] | None) -> Score | None:
        if cases is None:
            return None
        if (code := extract(text, cases[0]["function"])) is None:
            return Score(0.0, "no_code")
        return _score(code, cases, mode, run, limits)

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda row: score(*row), zip(completions, cases, strict=True)))


def read_tests(given: list | dict | str) -> list[dict]:
    """Tests in one form, with `function`, `args`, `output` for a call, or `input`, `output` for a program.

    The other keys are None.

    >>> read_tests('{"test_cases": [{"type": "stdin_stdout", "fn_name": null, "input": "1", "output": "2"}]}')
    [{'function': None, 'args': None, 'input': '1', 'output': '2'}]
    """
    with _long_integers():
        return _read_tests(given)


@contextmanager
def _long_integers():
    """Lifts Python's process-wide limit on the digits of an integer while tests are read."""
    with _LONG_INTEGERS:
        most = sys.get_int_max_str_digits()
        sys.set_int_max_str_digits(0)
        try:
            yield
        finally:
            sys.set_int_max_str_digits(most)


def _integer(digits: str) -> int | Decimal:
    """An integer from a program's result; one too long for `int` is a `Decimal`, which is read in linear time."""
    return int(digits) if len(digits) <= _DIGITS else Decimal(digits)


def _read_tests(given: list | dict | str) -> list[dict]:
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


def _score(code: str, tests: list[dict], mode: str, run: Callable, limits) -> Score:
    verdicts = []
    for test in tests:
        verdicts.append(verdict := _verdict(code, test, run, limits))
        if verdict.startswith("unavailable"):
            raise MachineError(f"the sandbox is {verdict}")
        if verdict in ("timeout", "output_limit") or (mode == "all" and verdict != "passed"):
            break
    passed = verdicts.count("passed")
    if passed == len(tests):
        return Score(1.0, "passed")
    first = next(i for i, verdict in enumerate(verdicts) if verdict != "passed")
    reason = f"failed: test {first + 1} of {len(tests)}" if verdicts[first] == "wrong" else verdicts[first]
    return Score(passed / len(tests) if mode == "share" else 0.0, reason)


def _verdict(code: str, test: dict, run: Callable, given: dict) -> str:
    """`passed`, `wrong`, `no_result`, or the status of a program that did not end normally."""
    from r1lab.grading.sandbox import Limits

    with _long_integers():
        expected = test["output"] if test["function"] is None else json.dumps(test["output"])
    limits = Limits(**given, output=max(_OUTPUT, 2 * len(expected.encode())))
    if test["function"] is None:
        ended = run(_PRELUDE + _PROGRAM.format(code=code), test["input"], limits)
        if ended.status != "ok":
            return ended.status
        return "passed" if printed(ended.stdout, expected) else "wrong"
    # Output of the code cannot be mistaken for the result unless the code searches its own process for the token; and
    # even then it has only reported what its function returns in another way.
    token = secrets.token_hex(16)
    call = {"code": code, "function": test["function"], "args": test["args"], "token": token}
    with _long_integers():
        request = json.dumps(call)
    ended = run(_PRELUDE + _CALL, request, limits)
    if ended.status != "ok":
        return ended.status
    _, found, rest = ended.stdout.rpartition("\n" + token)
    if not found:
        return "no_result"
    try:
        value = json.loads(rest.partition("\n")[0], parse_int=_integer)
    except (ValueError, RecursionError):
        return "no_result"
    return "passed" if same(value, test["output"]) else "wrong"


def _sandbox(sandbox: str | Callable) -> Callable:
    from r1lab import lookup
    from r1lab.grading import sandbox as offered

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
