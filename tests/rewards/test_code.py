"""The code reward: what is run, how it is compared, and programs that would rather not solve the task."""

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1lab.errors import MachineError, UserError
from r1lab.grading import sandbox
from r1lab.grading.sandbox import Result
from r1lab.rewards.code import code_reward, read_tests
from r1lab.rewards.code_blocks import extract

SUM = [{"input": "1 2\n", "output": "3\n"}, {"input": "-4 4", "output": "0"}]
ADD = [{"function": "add", "args": [1, 2], "output": 3}, {"function": "add", "args": [-4, 4], "output": 0}]
READ = "a, b = map(int, input().split())\n"
GOOD = f"```python\n{READ}print(a + b)\n```"


def fenced(code: str) -> str:
    return f"<think> Let me see. </think>\n```python\n{code}\n```"


def score_all(turns, tests, **settings):
    """Each turn's score and reason against the same tests."""
    return [(float(s), s.reason) for s in code_reward(list(turns), tests=[tests] * len(turns), **settings)]


SOLVES_SUM = [
    GOOD,
    f"<think> Easy. </think> {READ}\n{GOOD}",
    f"<think> Easy. </think><answer>\n{GOOD}\n</answer>",
    f"<think> Easy. </think><answer>{GOOD}</answer>",
    f"<think> First try:\n```python\nprint(0)\n```\n</think>\n{GOOD}",
    f"<think> a </think>\n```python\nprint(0)\n```\nBetter:\n{GOOD}",
    f"{GOOD}\nwhich prints\n```\n3\n```",
    f"{GOOD}\nor, in C:\n```c\nint main() {{}}\n```",
    f"<think> a </think> <answer> no </answer> <answer>\n{GOOD}\n</answer> ```python\nprint(0)\n```",
    GOOD.replace("python", "py"),
    GOOD.replace("python", ""),
    GOOD.replace("python", "Python3 title=main.py"),
    GOOD.replace("\n```", "```"),
    GOOD.replace("\n", "\r\n"),
    fenced(READ + "print(f'  {a + b}  \\n\\n')"),
    fenced("print(sum(map(int, open(0).read().split())))"),
    fenced("def main():\n    print(sum(map(int, input().split())))\n\nif __name__ == '__main__':\n    main()"),
    fenced(READ + "print(a + b); exit()"),
    fenced(READ + "import sys\nprint(a + b)\nprint('a remark', file=sys.stderr)"),
]


def test_programs_that_solve_it():
    assert score_all(SOLVES_SUM, SUM) == [(1.0, "passed")] * len(SOLVES_SUM)


NO_CODE = [
    "",
    "3",
    "print(3)",
    "<think> print(3) </think> 3",
    f"<think> {GOOD}",
    f"<think>\n{GOOD}\n</think> That is it.",
    f"<think> a </think>\n{GOOD}\n<answer> as above </answer>",
    GOOD.removesuffix("```"),
    "``python\nprint(3)\n``",
    "```python print(3)```",
    "'''python\nprint(3)\n'''",
    "\u02cb\u02cb\u02cbpython\nprint(3)\n\u02cb\u02cb\u02cb",
    "\0",
    "```" * 100_000,
    "```\n" * 1,
    "\\boxed{3}" * 10_000,
]


def test_no_code():
    assert score_all(NO_CODE, SUM) == [(0.0, "no_code")] * len(NO_CODE)


FAILS_SUM = {
    "": "failed: test 1 of 2",
    "print()": "failed: test 1 of 2",
    READ + "print(a - b)": "failed: test 1 of 2",
    READ + "print(a + b, a + b)": "failed: test 1 of 2",
    READ + "print(a + b)\nprint('done')": "failed: test 1 of 2",
    READ + "print('The sum is', a + b)": "failed: test 1 of 2",
    READ + "print(f'{a + b}.1')": "failed: test 1 of 2",
    READ + "print(f'0{a + b}')": "failed: test 1 of 2",
    READ + "print(f'\\u202e{a + b}')": "failed: test 1 of 2",
    READ + "print(f'{a + b}\\0')": "failed: test 1 of 2",
    READ + "print(chr(0x660 + a + b))": "failed: test 1 of 2",  # Arabic digits
    READ + "print(a + b)\nraise SystemExit(1)": "error: exit status 1",
    READ + "print(a + b)\nimport os\nos.abort()": "error: SIGABRT",
    READ + "print(a + b)\n1 / 0": "error: ZeroDivisionError",
    "print(a + b)": "error: NameError",
    "def f(:": "error: SyntaxError",
    "print(plus(1, 2))": "error: NameError",
    "import requests_of_nowhere": "error: ModuleNotFoundError",
    "data = []\nwhile True: data.append(bytearray(10**7))": "memory",
    "while True: print(3)": "output_limit",
    "import time; time.sleep(60)": "timeout",
    "while True: pass": "timeout",
    # Hacks: in bulk, by what lies about, by what runs it, by leaving at once.
    "for n in range(-100, 100): print(n)": "failed: test 1 of 2",
    "print(0, 3, sep='\\n')": "failed: test 1 of 2",
    "print('passed')": "failed: test 1 of 2",
    "print(open('main.py').read())": "failed: test 1 of 2",
    "print(input())": "failed: test 1 of 2",
    "import sys; sys.exit(0)": "failed: test 1 of 2",
    "import os; os._exit(0)": "failed: test 1 of 2",
    "import os\nfor n in range(3, 64):\n  try: os.write(n, b'exit 0')\n  except OSError: pass": "failed: test 1 of 2",
    "import builtins\nbuiltins.print = lambda *a: None\nstr.__eq__": "failed: test 1 of 2",
    "import os, glob\nfor f in glob.glob('/*/*.json'): print(open(f).read())": "failed: test 1 of 2",
}


def test_programs_that_do_not_solve_it():
    turns = [fenced(code) for code in FAILS_SUM]
    assert score_all(turns, SUM, timeout=2.0, memory=256) == [(0.0, why) for why in FAILS_SUM.values()]


def test_share_and_all():
    turn = [fenced("print(3)")]
    assert score_all(turn, SUM) == [(0.5, "failed: test 2 of 2")]
    assert score_all(turn, SUM, mode="all") == [(0.0, "failed: test 2 of 2")]
    assert score_all([GOOD], SUM, mode="all") == [(1.0, "passed")]
    assert score_all([fenced("if input() == '1 2': print(3)\nelse: 1 / 0")], SUM) == [
        (0.5, "error: ZeroDivisionError")
    ]


def test_a_timeout_ends_it():
    runs = []

    def counted(*arguments):
        runs.append(arguments)
        return sandbox.run(*arguments)

    turn = fenced("if input() == '1 2': print(3)\nwhile input: pass")
    slow = fenced("n = input()\nif n == '1 2': print(3)\nelse:\n    while True: pass")
    tests = [SUM[0], *[SUM[1]] * 50]
    scores = score_all([turn, slow], tests, timeout=1.0, sandbox=counted)
    assert scores == [(0.0, "timeout"), (pytest.approx(1 / 51), "timeout")]
    assert len(runs) == 3


SOLVES_ADD = [
    "def add(a, b):\n    return a + b",
    "add = lambda a, b: a + b",
    "class Solution:\n    def add(self, a, b):\n        return a + b",
    "class Solution:\n    add = staticmethod(lambda a, b: a + b)",
    "from operator import add",
    "from __future__ import annotations\ndef add(a: int, b: int) -> int:\n    return a + b",
    "def add(a, b):\n    print('thinking')\n    return a + b",
    "def add(a, b):\n    print('thinking', end='')\n    return float(a + b)",
    "def add(a, b):\n    return a + b\n\nif __name__ == '__main__':\n    print(add(*map(int, input().split())))",
    "class N(int):\n    def __repr__(self): return '7'\ndef add(a, b):\n    return N(a + b)",
    "import sys\nsys.stdout.close()\ndef add(a, b):\n    return a + b",
    "def add(a, b):\n    print('\\n' + '0' * 32 + '5')\n    return a + b",
]


def test_functions_that_solve_it():
    assert score_all([fenced(code) for code in SOLVES_ADD], ADD) == [(1.0, "passed")] * len(SOLVES_ADD)


FAILS_ADD = {
    "def add(a, b):\n    return a - b": "failed: test 1 of 2",
    "def add(a, b):\n    print(a + b)": "failed: test 1 of 2",
    "def add(a, b):\n    return str(a + b)": "failed: test 1 of 2",
    "def add(a, b):\n    return [a + b]": "failed: test 1 of 2",
    "def add(a, b):\n    return None": "failed: test 1 of 2",
    "def add(a, b):\n    return float('nan')": "failed: test 1 of 2",
    "def add(a, b):\n    return [a - b, a + b]": "failed: test 1 of 2",
    "def plus(a, b):\n    return a + b": "error: KeyError",
    "add = 3": "error: TypeError",
    "def add(a):\n    return a": "error: TypeError",
    "def add(a, b):\n    return {a + b}": "error: TypeError",
    "def add(a, b):\n    return 1 / 0": "error: ZeroDivisionError",
    "def add(a, b):\n    x = []\n    x.append(x)\n    return x": "error: ValueError",
    "def add(a, b):\n    return add(b, a)": "error: RecursionError",
    "def add(a, b):\n    return 10 ** 4400": "failed: test 1 of 2",
    "def add(a, b):\n    print('x' * 10**7)\n    return a + b": "output_limit",
    # Objects equal to all, patched builtins and modules, exits, and forged results.
    "class E:\n    def __eq__(self, o): return True\ndef add(a, b):\n    return E()": "error: TypeError",
    "class E(int):\n    def __eq__(self, o): return True\ndef add(a, b):\n    return E(7)": "failed: test 1 of 2",
    "class E(str):\n    def __eq__(self, o): return True\ndef add(a, b):\n    return E('7')": "failed: test 1 of 2",
    "class E(list):\n    def __eq__(self, o): return True\n    def __len__(self): return 3\n"
    "def add(a, b):\n    return E()": "failed: test 1 of 2",
    "import builtins\nbuiltins.all = builtins.isinstance = lambda *a: True\ndef add(a, b):\n    return 7": (
        "error: TypeError"
    ),
    "import json\njson.dumps = json.loads = lambda *a: '3'\ndef add(a, b):\n    return 7": "failed: test 1 of 2",
    "import sys\nsys.exit()": "no_result",
    "import os\nos._exit(0)": "no_result",
    "print(3)\nimport os\nos._exit(0)": "no_result",
    "def add(a, b):\n    raise SystemExit(0)": "no_result",
    "import atexit\ndef add(a, b):\n    atexit.register(print, '\\n3')\n    return 7": "failed: test 1 of 2",
    "import sys\nt = sys._getframe(1).f_globals['request']['token']\nprint('\\n' + t + '7' * 5000)\nsys.exit()": (
        "failed: test 1 of 2"
    ),
    "import sys\nt = sys._getframe(1).f_globals['request']['token']\nprint('\\n' + t + '[' * 9000)\nsys.exit()": (
        "no_result"
    ),
    "import sys\nr = sys._getframe(1).f_globals['request']\ndef add(a, b):\n    return r.get('output', 7)": (
        "failed: test 1 of 2"
    ),
}


def test_functions_that_do_not_solve_it():
    turns = [fenced(code) for code in FAILS_ADD]
    assert score_all(turns, ADD) == [(0.0, why) for why in FAILS_ADD.values()]


def test_a_function_knows_only_its_own_test():
    """Neither files nor globals pass from one test to the next, so a program cannot count them."""
    code = "import os\ndef add(a, b):\n  n = len(os.listdir())\n  open(str(n), 'w')\n  return [3, 0][n - 1]"
    assert score_all([fenced(code)], ADD) == [(0.5, "failed: test 2 of 2")]


def test_expected_output_does_not_enter_the_sandbox():
    seen = []

    def spy(program, stdin, limits):
        seen.append(program + stdin)
        return Result("ok", "")

    for tests in ([{"input": "", "output": "canary"}], [{"function": "f", "args": [], "output": ["canary"]}]):
        score_all([GOOD], tests, sandbox=spy)
    assert len(seen) == 2
    assert "canary" not in "".join(seen)


def test_prompt_text_copied_does_not_pay():
    prompt = "Write a program that adds two numbers.\nInput: 1 2\nOutput: 3\n```python\n# your code here\n```"
    assert score_all([prompt, fenced(prompt)], SUM) == [(0.0, "failed: test 1 of 2"), (0.0, "error: SyntaxError")]


def test_shapes_of_tests():
    plain = [{"function": None, "args": None, "input": "1", "output": "2"}]
    case = {"input": "1", "output": "2"}
    for given_tests in ([case], [{**case, "function": None, "args": None}], json.dumps([case])):
        assert read_tests(given_tests) == plain
    assert (
        read_tests({"language": "python", "test_cases": [{**case, "type": "stdin_stdout", "fn_name": None}]}) == plain
    )
    assert read_tests([{"output": "2"}]) == [{**plain[0], "input": ""}]
    call = [{"function": "f", "args": [1, "x"], "input": None, "output": [2, None]}]
    assert read_tests([{"function": "f", "args": [1, "x"], "output": (2, None)}]) == call
    assert read_tests([{"fn_name": "f", "input": [1, "x"], "output": [2, None]}]) == call


@pytest.mark.parametrize(
    "wrong",
    ["", "[]", [], {}, "3", [3], ["assert add(1, 2) == 3"], [{"input": "1"}], [{"input": 1, "output": "2"}], 3]
    + [[{"input": "1", "output": 2}], [{"function": "f", "output": 2}], [{"function": "f", "args": "1", "output": 2}]],
)
def test_tests_of_another_shape(wrong):
    with pytest.raises(ValueError):
        code_reward([GOOD], tests=[wrong])


def test_does_not_apply():
    assert code_reward([GOOD, GOOD], tests=[None, SUM], answer=["x", "y"]) == [None, 1.0]


def test_a_sandbox_that_fails_gives_no_score():
    with pytest.raises(MachineError, match="the sandbox is unavailable: no more processes"):
        code_reward([GOOD], tests=[SUM], sandbox=lambda *a: Result("unavailable: no more processes"))


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"mode": "any"}, "rewards: code: mode: 'any' is not share or all"),
        ({"timeout": 0}, "rewards: code: timeout: 0 is not a number of at least 0.1"),
        ({"timeout": float("inf")}, "rewards: code: timeout: inf is not a number"),
        ({"timeout": "5"}, "rewards: code: timeout: '5' is not a number"),
        ({"timeout": True}, "rewards: code: timeout: True is not a number"),
        ({"memory": 1}, "rewards: code: memory: 1 is not a whole number of at least 64"),
        ({"workers": -1}, "rewards: code: workers: -1 is not a whole number of at least 1"),
        ({"workers": 1.5}, "rewards: code: workers: 1.5 is not"),
        ({"workers": 0}, "rewards: code: workers: 0 is not a whole number of at least 1"),
        ({"sandbox": "docker"}, "rewards: code: sandbox: 'docker' is not local, e2b, or a dotted path"),
        ({"sandbox": 3}, "rewards: code: sandbox: 3 is not local, e2b"),
        ({"sandbox": "nowhere.at.all"}, "rewards: code: sandbox: nowhere.at.all: cannot import nowhere.at"),
    ],
)
def test_wrong_settings(settings, line):
    with pytest.raises(UserError, match=line):
        code_reward([GOOD], tests=[SUM], **settings)


def test_a_sandbox_by_its_path():
    assert score_all([GOOD], SUM, sandbox="r1lab.grading.sandbox.run") == [(1.0, "passed")]


@given(
    st.text()
    | st.lists(st.sampled_from(["```", "python", "\n", "<think>", "</think>", "<answer>", "x=1", "`"])).map("".join)
)
@settings(max_examples=200, deadline=None)
def test_any_text_has_a_score(text):
    (score,) = code_reward([text], tests=[SUM], sandbox=lambda *a: Result("ok", "3"), workers=1)
    assert score == (0.0 if extract(text) is None else 0.5)


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_any_output_has_a_score(stdout):
    for tests in (SUM, ADD):
        (score,) = code_reward([GOOD], tests=[tests], sandbox=lambda *a: Result("ok", stdout), workers=1)
        assert score in (0.0, 0.5)


@given(st.permutations(range(4)), st.lists(st.integers(0, 3), max_size=4))
@settings(max_examples=200, deadline=None)
def test_rows_do_not_depend_on_one_another(order, company):
    turns = [GOOD, "", fenced("print(3)"), fenced("1 / 0")]
    values = [1.0, 0.0, 0.5, 0.0]

    def fake(program, stdin, limits):
        if "/" in program:
            return Result("error: ZeroDivisionError")
        return Result("ok", "3" if "3" in program else str(sum(map(int, stdin.split()))))

    rows = [*order, *company]
    scores = code_reward([turns[row] for row in rows], tests=[SUM] * len(rows), sandbox=fake)
    assert scores == [values[row] for row in rows]


THREAD = """\
import sys, threading
def main():
    def depth(n): return 0 if n == 0 else 1 + depth(n - 1)
    print(depth(int(input())))
sys.setrecursionlimit(10**6)
threading.stack_size({size})
thread = threading.Thread(target=main)
thread.start()
thread.join()
"""
AS_CONTESTS_RUN_THEM = {
    "print(int(input()) % 1000)": ("7" * 5000, "777"),
    "print(2 ** int(input()))": ("20000", None),
    "n = int(input())\nprint(n * n)": ("3" * 4400, None),
    "print(len(str(3 ** 10000)))": ("", "4772"),
    "print(sum(int(x) for x in open(0)))": ("9" * 5000 + "\n1", "1" + "0" * 5000),
    "import sys\nprint(*map(int, sys.stdin.read().split()), sep='\\n')": ("8" * 5000, "8" * 5000),
    "for i in range(200_000): print(1_000_000_000 + i)": ("", None),
    "print('x' * 3_000_000)": ("", "x" * 3_000_000),
    "import sys\nsys.stdout.write('漢' * 1_000_000)": ("", "漢" * 1_000_000),
    THREAD.format(size="512 * 1024 * 1024"): ("100000", "100000"),
    THREAD.format(size="2**29"): ("200000", "200000"),
    THREAD.format(size="67108864"): ("50000", "50000"),
    "import sys\nsys.setrecursionlimit(10**6)\ndef f(n): return 0 if n == 0 else 1 + f(n - 1)\nprint(f(90000))": (
        "",
        "90000",
    ),
    "from functools import lru_cache\nimport sys\nsys.setrecursionlimit(10**6)\n@lru_cache(None)\n"
    "def f(n): return 0 if n == 0 else 1 + f(n - 1)\nprint(f(30000))": ("", "30000"),
    "def f(n): return 0 if n == 0 else 1 + f(n - 1)\nprint(f(20000))": ("", "20000"),
    "d = deque(map(int, input().split()))\nprint(d.popleft() + d.pop())": ("1 2 3", "4"),
    "print(gcd(*map(int, input().split())), math.lcm(4, 6), bisect.bisect([1, 2], 1), inf)": ("12 18", "6 12 1 inf"),
    "print(Counter(input()).most_common(1)[0][0], ascii_lowercase[0], reduce(add, [1, 2]))": ("aab", "a a 3"),
    "print(*accumulate(range(4)), datetime.date(2020, 1, 1), re.sub('a', 'b', 'a'))": ("", "0 1 3 6 2020-01-01 b"),
    "heap = [3, 1]\nheapify(heap)\nprint(heappop(heap), copy.deepcopy(heap), json.dumps(heap))": ("", "1 [3] [3]"),
    "print(sys.stdin.readline().strip(), stdin.read())": ("a\nb", "a b"),
    "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\nprint(P(3))": ("", "P(x=3)"),
    "from __future__ import annotations\ndef f(x: Nothing): return x\nprint(f(3))": ("", "3"),
    "import pickle\nclass P: pass\nprint(type(pickle.loads(pickle.dumps(P()))) is P)": ("", "True"),
    "print(sorted(name for name in globals() if name[0] != '_'), __name__)": ("", "[] __main__"),
    "print(pow(2, 5, 3), abs(-1), all([]), open is __builtins__.open)": ("", "2 1 True True"),
}


@pytest.mark.parametrize("code", AS_CONTESTS_RUN_THEM, ids=lambda code: code[:30])
def test_programs_run_as_at_a_contest(code):
    stdin, expected = AS_CONTESTS_RUN_THEM[code]
    if expected is None:
        done = subprocess.run(
            [sys.executable, "-X", "int_max_str_digits=0", "-c", code], input=stdin.encode(), capture_output=True
        )
        expected = done.stdout.decode()
    tests = [{"input": stdin, "output": expected}]
    assert score_all([fenced(code)], tests, timeout=20.0) == [(1.0, "passed")]
    assert score_all([fenced(code)], [{"input": stdin, "output": expected + "1"}], timeout=20.0)[0][0] == 0.0


FUNCTIONS_OF_LEETCODE = [
    "class Solution:\n    def f(self, xs: List[int]) -> Optional[int]:\n        return len(xs)",
    "class Solution:\n    def f(self, xs: List[int]) -> int:\n        return Counter(xs)[1] + int(inf > 2) + 1",
    "class Solution:\n    def f(self, xs):\n        d = defaultdict(list)\n        d[0] += xs\n"
    "        return len(d[0])",
    "class Solution:\n    def f(self, xs):\n        return heapq.nlargest(1, xs)[0]",
    "class Solution:\n    @cache\n    def g(self, n): return 0 if n == 0 else 1 + self.g(n - 1)\n"
    "    def f(self, xs): return self.g(3)",
    "def f(xs: 'List[int]') -> int:\n    return max(accumulate(xs)) // 2",
    "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\n"
    "def f(xs): return P(3).x",
    "def f(xs):\n    def g(n): return 0 if n == 0 else 1 + g(n - 1)\n    return g(40_000) - 39_997",
]


def test_functions_find_what_leetcode_imports():
    tests = [{"function": "f", "args": [[1, 2, 3]], "output": 3}]
    turns = [fenced(code) for code in FUNCTIONS_OF_LEETCODE]
    assert score_all(turns, tests, timeout=20.0) == [(1.0, "passed")] * len(turns)


@pytest.mark.parametrize("name", ["add", "gcd", "reduce", "count", "mode", "match", "choice", "path", "deque", "json"])
def test_what_is_imported_for_a_program_does_not_solve_a_task_of_that_name(name):
    tests = [{"function": name, "args": [1, 2], "output": value} for value in (3, 1, 2, None)]
    assert score_all([fenced("def other(): pass"), fenced("class Solution: pass")], tests) == [
        (0.0, "error: KeyError"),
        (0.0, "error: AttributeError"),
    ]


def test_a_block_that_only_calls_the_function_is_not_graded():
    turn = fenced("def add(a, b):\n    return a + b") + "\nTry it:\n```python\nprint(add(1, 2))\n```"
    assert score_all([turn], ADD) == [(1.0, "passed")]


def test_output_over_twice_the_expected_is_not_read():
    tests = [{"input": "", "output": "x" * 2_000_000}]
    assert score_all([fenced("print('x' * 5_000_000)")], tests) == [(0.0, "output_limit")]


def test_integers_of_any_length():
    long = 10**5000 + 7
    text = f'[{{"function": "f", "args": [1{"0" * 5000}], "output": 1{"0" * 4999}7}}]'
    turns = [fenced("def f(n): return n + 7"), fenced("def f(n): return n + 8"), fenced("def f(n): return 7")]
    assert [float(s) for s in code_reward(turns, tests=[text] * 3)] == [1.0, 0.0, 0.0]
    given = [{"function": "f", "args": [long - 7], "output": long}]
    assert [float(s) for s in code_reward(turns[:2], tests=[given] * 2)] == [1.0, 0.0]
    with pytest.raises(ValueError):  # the limit is back
        int("1" * 5000)
