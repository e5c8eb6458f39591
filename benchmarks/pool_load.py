"""Verdicts on a busy machine: `python -m benchmarks.pool_load [--loops 8]`. Prints JSON.

Grades 600 ordinary and 20 hostile answers on two cores, once on the machine as it is and once with eight busy loops on
the same cores. Compares every verdict, and counts the worker processes that are alive at the same time.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

CORES = sorted(os.sched_getaffinity(0))[:2]
os.sched_setaffinity(0, CORES)  # before the pool reads it

from r1lab.grading import pool  # noqa: E402

ORDINARY = 600
HOSTILE = [
    "9^{9^{9^{9}}}", r"9^{9^{9}}", "(9^{9})^{9^{9}}", "10^{10^{10}} - 10^{10^{10}} + 7", r"\frac{1}{9^{9^{9}}}",
    r"\sum_{k=1}^{10^{12}} k", r"\prod_{k=1}^{10^{7}} k", "((9!)!)!", r"\binom{10^{9}}{5 \cdot 10^{8}}",
    r"\int_0^1 x^{x^{x^{x}}} dx", r"\int \frac{\sin(x^{7}) \cos(x^{5})}{x^{3} + e^{x}} dx",
    "(x+y+z+w)^{400}", "(a+b+c+d+e+f)^{60} - (a+b+c)^{90}", r"\sqrt[99]{(x+1)^{99} + (x-1)^{98}}",
    r"\frac{(x^{99}-1)(x^{77}-1)(y^{55}+x)}{(x-1)(y-1)(x+y)^{44}}", r"\log_{2}(3^{10^{9}})",
    r"\begin{pmatrix}" + r" \\ ".join(" & ".join(f"x^{{{i * j}}}+{i}" for i in range(12)) for j in range(12))
    + r"\end{pmatrix}", r"\gcd(10^{10^8}, 3^{10^8})", "+".join(f"x_{{{i}}}^{{{i}}}" for i in range(150)),
    "(" * 200 + "7" + ")" * 200,
]  # fmt: skip


def items() -> list[tuple[str, str]]:
    """Answers with their gold answers: every second ordinary one is correct, with the hostile ones in between."""
    made = []
    for i in range(ORDINARY):
        a, b = i % 97 + 1, i % 89 + 2
        gold = [
            rf"\frac{{{a}}}{{{b}}}", f"{a}x + {b}", str(a * b), f"({a}, {b})", rf"{a}\sqrt{{{b}}}", rf"[{a}, \infty)"
        ][i % 6]  # fmt: skip
        said = gold if i % 2 else gold.replace(str(a), str(a + 1))
        made.append((rf"<think> {a} and {b}. </think> It is \boxed{{{said}}}.", gold))
        if i % (ORDINARY // len(HOSTILE)) == 7:
            made.append((rf"\boxed{{{HOSTILE[i // (ORDINARY // len(HOSTILE))]}}}", r"\frac{7 x + 1}{2}"))
    return made


def graded() -> dict:
    """The outcomes of a new pool, its seconds, and the maximum number of worker processes alive at the same time."""
    graders = pool.Pool("r1lab.grading.maths:grade")
    graders.map(items()[:8])
    most, done = 0, threading.Event()

    def count() -> None:
        nonlocal most
        while not done.is_set():
            server = graders._server.pid
            most = max(most, len(Path(f"/proc/{server}/task/{server}/children").read_text().split()))
            time.sleep(0.02)

    counter = threading.Thread(target=count)
    counter.start()
    started = time.perf_counter()
    outcomes = graders.map(items())
    seconds = time.perf_counter() - started
    done.set()
    counter.join()
    graders.close()
    return {"outcomes": outcomes, "seconds": round(seconds, 1), "workers": graders.workers, "most_alive": most}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loops", type=int, default=8)
    loops_wanted = parser.parse_args().loops
    idle = graded()
    loop = f"import os\nwhile os.getppid() == {os.getpid()}: pass"  # ends with this process, even if that is killed
    loops = [subprocess.Popen([sys.executable, "-c", loop]) for _ in range(loops_wanted)]
    try:
        busy = graded()
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    pairs = list(zip(items(), idle.pop("outcomes"), busy.pop("outcomes")))
    different = [{"answer": a[:80], "idle": was, "busy": now} for (a, _), was, now in pairs if was != now]
    result = {
        "answers": len(pairs),
        "right": sum(was.status == "ok" and was.value[0] == 1 for _, was, _ in pairs),
        "timeouts": sum(was.status == "timeout" for _, was, _ in pairs),
        "loops": loops_wanted,
        "idle": idle,
        "busy": busy,
        "different_verdicts": different,
    }
    print(json.dumps(result, indent=1))
    within = max(idle["most_alive"], busy["most_alive"]) <= idle["workers"] + 16
    sys.exit(1 if different or not within else 0)


if __name__ == "__main__":
    main()
