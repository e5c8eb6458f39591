"""How fast a report opens: python benchmarks/report.py [RUN...] [--pictures FOLDER]. Prints JSON.

Without RUN it creates a run of 500 steps and 20,000 completions of about 1,500 characters each, made of random words
with the frequencies of Zipf's law. It needs Chromium and the package websockets. With --pictures it also writes
screenshots of the page on a desktop and on a phone.
"""

import argparse
import importlib.util
import itertools
import json
import random
import statistics
import tempfile
import time
from pathlib import Path

from r1lab import report
from r1lab.evaluation import reflection
from r1lab.rundir import storage

STEPS, GROUP, WORDS, TIMES = 500, 40, 220, 5
LETTERS = "etaoinshrdlcum"

SPEC = importlib.util.spec_from_file_location(
    "chromium", Path(__file__).parent.parent / "tests" / "report" / "chromium.py"
)
chromium = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(chromium)


def make_run(path: Path, *, steps: int = STEPS, group: int = GROUP, words: int = WORDS) -> Path:
    """A GRPO run with completions of random words from a vocabulary of 5,000; the word of rank r has weight 1/r."""
    draw = random.Random(0)
    vocabulary = ["".join(draw.choices(LETTERS, k=draw.randint(2, 10))) for _ in range(5000)]
    vocabulary[::500] = [*reflection.WORDS[:10]]
    weights = list(itertools.accumulate(1 / rank for rank in range(1, 5001)))
    path.mkdir()
    config = {"name": "long", "stage": "grpo", "rollout": {"max_completion_length": 2 * words}}
    storage.write_yaml(path / "config.yaml", config)
    for step in range(1, steps + 1):
        rows = [_completion(draw, vocabulary, weights, step, words) for _ in range(group)]
        storage.write_jsonl(path / "samples" / f"step_{step:06d}.jsonl", rows)
        keys = ("reward", "length", "truncated", "no_signal", "entropy", "kl", "importance_ratio", "loss", "grad_norm")
        row = {"phase": "train", "step": step, "total": steps} | {key: draw.random() for key in keys}
        row |= {
            "rewards": {"maths": draw.random(), "format": draw.random()},
            "seconds": 1.0,
            "tokens_per_second": 1000,
        }
        storage.append_jsonl(path / "metrics.jsonl", row)
    storage.write_json_atomic(path / "result.json", {"stage": "grpo", "seconds": 1.0 * steps, "steps": steps})
    return path


def _completion(draw: random.Random, vocabulary: list[str], weights: list[float], step: int, words: int) -> dict:
    right = draw.random() < 0.5
    text = " ".join(draw.choices(vocabulary, cum_weights=weights, k=draw.randint(words // 2, words * 3 // 2)))
    row = {"step": step, "task": "maths", "prompt": f"question {draw.randint(1, 4000)}", "answer": str(step)}
    row |= {"completion": f"<think> {text} </think> <answer> {step} </answer>", "reward": float(right), "right": right}
    rewards, reasons = {"maths": float(right), "format": 1.0}, {"maths": "correct" if right else "wrong"}
    return row | {"rewards": rewards, "reasons": reasons, "tokens": len(text.split())}


def measure(runs: list[Path], folder: Path, pictures: Path | None) -> dict:
    """Writes a report and opens it several times.

    Returns:
        The seconds to write it, its size in MiB, the seconds until it shows completions (median, maximum, and CPU time
        of all of Chromium, which does not depend on other work on the machine), and the page's console errors and
        network requests.
    """
    started = time.perf_counter()
    file, *_ = report.write(runs, out=folder / "report.html")
    wrote = time.perf_counter() - started
    with chromium.page(folder / "profile") as tab:
        tab.size(1280, 900)
        marks, seconds = [_busy()], []
        for _ in range(TIMES + 1):
            seconds.append(tab.open(file))
            marks.append(_busy())
        seconds, marks = seconds[1:], marks[1:]  # the first one fills Chromium's caches
        measured = {
            "write_seconds": round(wrote, 1),
            "mib": round(file.stat().st_size / 2**20, 2),
            "completions": tab.js("index.stage.length"),
            "open_seconds": round(statistics.median(seconds), 2),
            "open_seconds_most": round(max(seconds), 2),
            "open_cpu_seconds": round((marks[-1] - marks[0]) / TIMES, 2),
            "complaints": tab.complaints(),
            "requests": tab.requests(),
        }
        if pictures:
            _pictures(tab, pictures)
    return measured


def _busy() -> float:
    """CPU seconds that this process's children have used."""
    import psutil

    times = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return sum(time.user + time.system for time in times)


def _pictures(tab, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, width, height, phone in (("desktop", 1180, 900, False), ("phone", 390, 844, True)):
        tab.size(width, height, phone=phone)
        for part, where in (("", "0"), ("-curves", "'curves'"), ("-completions", "'completions'")):
            tab.dark(phone and part == "-completions")
            tab.js(f"{where} ? document.getElementById({where}).scrollIntoView() : scrollTo(0, 0)")
            tab.screenshot(folder / f"report-{name}{part}.png")


def main() -> None:
    """Measures the given runs, or one that it creates."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--pictures", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = arguments.runs or [make_run(Path(folder) / "long")]
        print(json.dumps(measure(runs, Path(folder), arguments.pictures), indent=2))


if __name__ == "__main__":
    main()
