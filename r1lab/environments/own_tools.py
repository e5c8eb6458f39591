"""Tools that r1lab has: functions with types and docstrings, from which the model's description of them is made.

A docstring has no example, because the model would read it.
"""

from fractions import Fraction

from r1lab.environments.base import ToolError, shortened
from r1lab.errors import MachineError
from r1lab.grading import arithmetic, sandbox

PROGRAM = sandbox.Limits(seconds=3.0, cap=10.0, output=2**20)
"""What a program may use: less than a step may, so that its end is a reply and not the end of the episode."""

PRINTED = 4000
"""Characters of a program's output that the model reads."""

_SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "^": "**", ",": None})


def calculator(expression: str) -> str:
    """
    Calculates the exact value of an arithmetic expression.

    Args:
        expression: Numbers, the operators + - * / // % and **, and parentheses, such as (3 + 4) * 2.5 ** 2.
    """
    try:
        return _written(arithmetic.evaluate(expression.translate(_SIGNS), further=True)[0])
    except ZeroDivisionError as error:
        raise ToolError("division by zero") from error
    except SyntaxError as error:
        raise ToolError(f"not an arithmetic expression: {error.msg}") from error
    except ValueError as error:
        raise ToolError(f"{error}; use numbers, + - * / // % ** and parentheses") from error


def _written(value: Fraction) -> str:
    """A number as a decimal if it is one, else as a fraction and rounded."""
    rest, places = value.denominator, 0
    for prime in 2, 5:
        times = 0
        while rest % prime == 0:
            rest, times = rest // prime, times + 1
        places = max(places, times)
    if rest == 1:
        digits = f"{abs(value.numerator) * 10**places // value.denominator:0{places + 1}d}"
        whole = digits if not places else f"{digits[:-places]}.{digits[-places:]}"
        return f"-{whole}" if value < 0 else whole
    return f"{value} (about {_about(value)})" if len(str(value)) <= 40 else f"about {_about(value)}"


def _about(value: Fraction) -> str:
    """Six significant digits, of a number of any size."""
    exponent = len(str(abs(value.numerator))) - len(str(value.denominator))
    exponent -= abs(value) < Fraction(10) ** exponent
    scaled = float(value / Fraction(10) ** exponent)
    return f"{scaled * 10**exponent:.6g}" if abs(exponent) < 16 else f"{scaled:.6g} * 10**{exponent}"


def python(code: str) -> str:
    """
    Runs a Python program and returns what it prints. Each program starts anew, without network and files.

    Args:
        code: The program. It must print its results.
    """
    result = sandbox.run(code, limits=PROGRAM)
    if result.status.startswith("unavailable"):
        raise MachineError(f"the tool python: {result.status.partition(' ')[2]}")
    printed = shortened(result.stdout.rstrip("\n"), PRINTED)
    if result.status == "ok":
        return printed or "(nothing was printed)"
    raise ToolError(f"{_ENDS.get(result.status, result.status)}" + (f"\nIt printed:\n{printed}" if printed else ""))


_ENDS = {
    "timeout": f"the program used more than {PROGRAM.seconds:g} s of CPU time, or slept for {PROGRAM.cap:g} s",
    "memory": f"the program used more than {PROGRAM.memory >> 20} MiB of memory",
    "output_limit": f"the program printed more than {PROGRAM.output >> 10} KiB",
}
