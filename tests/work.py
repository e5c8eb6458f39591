"""How much work a function does, which no other program on the machine changes: time would not do for a bound."""

import sys
import time


def calls(function, *arguments) -> int:
    """How many functions are called, of Python and of C, until it returns."""
    count = 0

    def see(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(see)
    try:
        function(*arguments)
    finally:
        sys.setprofile(before)
    return count


def growth(function, small, large) -> float:
    """How many times the CPU time of `function(small)` that of `function(large)` is.

    A law about growth holds on a slow machine and under a tracer, where a bound in seconds does not. What takes less
    than 10 ms counts as 10 ms, since so short a time is mostly noise.
    """

    def seconds(argument) -> float:
        started = time.process_time()
        function(argument)
        return time.process_time() - started

    return seconds(large) / max(0.01, min(seconds(small) for _ in range(3)))
