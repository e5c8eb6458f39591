"""Which fenced block of a turn is the program, and where it ends."""

import textwrap
import time

import pytest

from r1lab.rewards.code_blocks import extract

CODE = "import sys\nfor line in sys.stdin:\n    if line:\n        print(line)\n"
OTHER = "print('other')\n"


def quoted(text: str, before: str) -> str:
    return textwrap.indent(text, before, lambda line: True)


FENCED = {
    "plain": f"```python\n{CODE}```",
    "four backticks": f"````python\n{CODE}````",
    "six backticks": f"``````python\n{CODE}``````",
    "closed by more": f"```python\n{CODE}`````",
    "closed by fewer": f"````python\n{CODE}```\nThat is it.",
    "tildes": f"~~~python\n{CODE}~~~",
    "four tildes": f"~~~~ python\n{CODE}~~~~",
    "unmarked tildes": f"~~~\n{CODE}~~~",
    "indented": quoted(f"```python\n{CODE}```", "   "),
    "indented by a tab": quoted(f"```python\n{CODE}```", "\t"),
    "only the fences are indented": f"  ```python\n{CODE}  ```",
    "only the code is indented": f"```python\n{quoted(CODE, '    ')}```",
    "in an item": "1. So:\n\n" + quoted(f"```python\n{CODE}```", "    "),
    "opened by an item": f"- ```python\n{quoted(CODE, '  ')}  ```",
    "opened by a numbered item": f"10. ```python\n{quoted(CODE, '    ')}    ```",
    "in a quotation": quoted(f"```python\n{CODE}```", "> "),
    "in an item of a quotation": quoted(f"- So:\n  ```python\n{quoted(CODE, '  ')}  ```", "> "),
    "after text": f"The program: ```python\n{CODE}```",
    "closed after code": f"```python\n{CODE.rstrip()}```",
    "blanks after the fences": f"```python  \n{CODE}```  ",
    "carriage returns": f"```python\n{CODE}```".replace("\n", "\r\n"),
    "a comment first": f"```python\n    # the program\n{CODE}```",
    "a block of tildes within": f"````python\n{CODE}# ~~~\n````",
    "in an answer": f"<answer>```python\n{CODE}```</answer>",
    "output after it": f"```python\n{CODE}```\nprints\n```\n3\n```",
    "shell before it": f"```bash\npip install x\n```\n```python\n{CODE}```\n```sh\npython x.py\n```",
    "a try before it": f"```python\n{OTHER}```\nBetter:\n```python\n{CODE}```",
    "a bare try before it": f"```\n{OTHER}```\nBetter:\n```\n{CODE}```",
    "a draft in the thinking": f"<think>\n```python\n{OTHER}```\n</think>\n```python\n{CODE}```",
    "a broken try before it": f"```python\nx = '''open\n```\nBetter:\n```python\n{CODE}```",
}
MARKS = [
    "python",
    "py",
    "Python",
    "PYTHON",
    "python3",
    "py3",
    "Python 3",
    "python3.11",
    " python",
    "python title=a.py",
]
MARKS += ["{python}", "{.python .numberLines}", "python,linenos", "python:main.py", "ipython3", "pypy3", "ipython"]


@pytest.mark.parametrize("kind", FENCED)
def test_a_program_in_its_fence(kind):
    code = extract(FENCED[kind])
    lines = [line.rstrip() for line in code.splitlines() if line.strip() and "#" not in line]
    assert lines == CODE.splitlines()


@pytest.mark.parametrize("mark", MARKS)
def test_a_mark_of_python(mark):
    assert extract(f"```{mark}\n{CODE}```\n```\n3\n```") == CODE
    assert extract(f"~~~{mark}\n{CODE}~~~\n```c\nint a;\n```") == CODE


@pytest.mark.parametrize("mark", ["python-repl", "pyx", "pycon", "cython", "pytb", "py+c", "output", "text", "bash"])
def test_no_mark_of_python(mark):
    assert extract(f"```python\n{CODE}```\n```{mark}\n{OTHER}```") == CODE


WITH_FENCES = [
    "note = '''\n```\nnot a fence\n```\n'''\nprint(note)\n",
    'note = """\n```python\nnot a fence\n```\n"""\nprint(note)\n',
    "def f():\n    '''Returns.\n\n    ```\n    f()\n    ```\n    '''\n    return 1\n",
    "s = '```'\nprint(s)\n",
    "s = '```'  # three ticks\nprint(s)\n",
    "# as in ```\nprint(1)\n",
    "x = 1  # it isn't a ```\nprint(x)\n",
    's = "\\"```"\nprint(s)\n',
    "s = r'''\\n\n```\n'''\nprint(s)\n",
    "s = '''it's\n```\n'''\nprint(s)\n",
    "s = '''```\n```'''\nprint(s)\n",
    "print('''# ```''')\nprint(2)\n",
]


@pytest.mark.parametrize("code", WITH_FENCES)
def test_a_fence_in_a_string_or_a_comment_ends_nothing(code):
    assert extract(f"```python\n{code}```\nIt prints that.") == code
    assert extract(f"```python\n{OTHER}```\nor\n```py\n{code}```\nIt's done: ```x```") == code


FUNCTION = "def f(n):\n    return n\n"
DEFINITIONS = [
    FUNCTION,
    "f = lambda n: n\n",
    "class Solution:\n    def f(self, n): return n\n",
    "async def f(n): ...\n",
]


@pytest.mark.parametrize("code", DEFINITIONS)
def test_a_block_that_only_calls_the_function_is_not_the_program(code):
    turn = f"```python\n{OTHER}```\n```python\n{code}```\nFor example:\n```python\nprint(f(3))\nff = 2\n```"
    assert extract(turn, "f") == code
    assert extract(turn) == "print(f(3))\nff = 2\n"
    assert extract(turn, "g") == (code if "Solution" in code else "print(f(3))\nff = 2\n")


def test_the_last_definition_counts():
    assert extract(f"```python\n{FUNCTION}```\nNo:\n```python\ndef f(n): return 0\n```", "f") == "def f(n): return 0\n"


NO_CODE = ["", CODE, f"```python\n{CODE}", f"``python\n{CODE}``", f"~~~python\n{CODE}```", f"```python\n{CODE}~~~"]
NO_CODE += [f"```python {CODE.strip()[:10]}```", f"<think>\n```python\n{CODE}```", f"`````python\n{CODE}"]
NO_CODE += [f"```python\n{CODE}```\n<answer> as above </answer>", f"<think>```python\n{CODE}```</think> Done."]


@pytest.mark.parametrize("turn", NO_CODE)
def test_no_program(turn):
    assert extract(turn) is None


PIECES = ["`", "```", "```\n", "```python\n", "~~~\n", "~~~ x\n", "<answer>", "</think>", " ", "\n", "\0", "\u202e"]
PIECES += ["\\boxed{1}", "> ", "- ", "1. ", "'''", "'''\n```\n", "# ```\n", '"\\', "\\", "'", "\t```\n", "x ``` y\n"]
PIECES += ["```\n'''\n```\n'''\n", "```\n'''\n```\n\"\"\"\n", "f =", "def f", " \n"]


@pytest.mark.parametrize("piece", PIECES)
def test_long_degenerate_turns_take_no_time(piece):
    started = time.process_time()
    for start in ("", "```python\n", "```python\n'''", '```python\n"', "<think>"):
        for end in ("", "\n```"):
            extract(start + piece * (200_000 // len(piece)) + end, "f")
    assert time.process_time() - started < 10
