"""How much staleness costs: the quickstart's training on groups from weights some updates old. Prints Markdown.

    python -m benchmarks.staleness --cores 0 1      # takes about 2 hours; docs/studies/staleness.md
    python -m benchmarks.staleness --table          # of the runs that are recorded; takes 5 seconds

For each seed it runs the quickstart once synchronously (`staleness: 0`), and with each staleness and objective. The
engine is in process, so that each update trains on groups from weights exactly as old (`r1lab.grpo.asynchronous`).
With `--servers` a vLLM server generates instead, and what is trained on is at most as old, as in real asynchronous
training. Each run has one core: two runs at once take less time than one after the other on two cores. The answers of
finished runs are kept in docs/studies/staleness.json, so a benchmark that was interrupted goes on, also on another
machine.

Each row has the held-out accuracy after training, sampled, by seed, and the differences from staleness 0: of each
seed, paired by question, and over the seeds with Student's t interval.
"""

import argparse
import fcntl
import json
import os
import queue
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import yaml

from r1lab.evaluation import stats
from r1lab.rundir import storage
from r1lab.text import percent

ROOT = Path(__file__).parent.parent
RECORDS = ROOT / "docs/studies/staleness.json"
TASK = "knights_knaves"


class Cell(NamedTuple):
    """What is run for each seed."""

    staleness: int
    objective: str = ""
    """Of the loss, without one for synchronous training."""
    server: bool = False
    """Whether a rollout server generates, or vLLM in the process of the trainer."""

    def __str__(self) -> str:
        return "-".join([self.objective or "synchronous", str(self.staleness)] + ["server"] * self.server)


SYNCHRONOUS = Cell(0)


def recipe(folder: Path) -> Path:
    """The quickstart without the evaluation of the untrained model, which is the same for all runs."""
    content = yaml.safe_load((ROOT / "recipes/quickstart.yaml").read_text())
    content["stages"] = [stage for stage in content["stages"] if stage["name"] != "base"]
    del content["compare"]
    path = folder / "staleness.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def run(cell: Cell, seed: int, core: int, runs_dir: Path, overrides: list[str]) -> dict:
    """Runs a cell on a core and returns its record."""
    name = f"seed{seed}-{cell}"
    settings = [
        f"seed={seed}",
        "stages.zero.train.vllm_importance_sampling_correction=true",
        *(["stages.zero.launch={gpus: 2, rollout: server}"] if cell.server else []),
        *overrides,
    ]
    if cell.objective or not cell.server:
        asynchronous = f"staleness: {cell.staleness}, objective: {cell.objective or 'decoupled'}"
        settings.append(f"stages.zero.rollout.async={{{asynchronous}}}")
    place = ["--no-check", "--resume", "--name", name, "--runs-dir", str(runs_dir)]
    command = [sys.executable, "-m", "r1lab", "run", str(runs_dir / "staleness.yaml"), *settings, *place]
    with (runs_dir / f"{name}.log").open("w") as log:
        done = subprocess.run(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
    if done.returncode:
        sys.exit(f"staleness: {name}: exit status {done.returncode} (log: {log.name})")
    return {"seed": seed} | cell._asdict() | record(runs_dir / name)


def record(folder: Path) -> dict:
    """What is kept of a run: the correct samples and greedy answers of each question, and metrics of the steps."""
    (zero,), (after,) = folder.glob("*-zero"), folder.glob("*-after")
    questions = sorted(storage.read_jsonl(after / "samples/questions.jsonl"), key=lambda row: row["index"])
    steps = [row for row in storage.read_jsonl(zero / "metrics.jsonl") if "reward" in row]
    return {
        "correct": "".join(str(int(sum(row["scores"]))) for row in questions),
        "samples": len(questions[0]["scores"]),
        "greedy": "".join(str(int(row["greedy"])) for row in questions),
        "rewards": [round(row["reward"], 3) for row in steps],
        "clipped": [round(row.get("async", {}).get("clipped", 0.0), 4) for row in steps],
        "seconds": round(sum(row["seconds"] for row in steps)),
    }


def cell_of(row: dict) -> Cell:
    """Which cell a record is of."""
    return Cell(row["staleness"], row["objective"], row["server"])


def load() -> dict[tuple[int, Cell], dict]:
    """The records by seed and cell."""
    rows = json.loads(RECORDS.read_text() or "[]") if RECORDS.exists() else []
    return {(row["seed"], cell_of(row)): row for row in rows}


def save(row: dict) -> None:
    """Adds a record."""
    RECORDS.parent.mkdir(parents=True, exist_ok=True)
    with RECORDS.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # two commands may run at once, one on each core
        rows = [row for _, row in sorted((load() | {(row["seed"], cell_of(row)): row}).items())]
        file.truncate(0)
        file.write("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


def run_all(cells: list[Cell], seeds: list[int], cores: list[int], runs_dir: Path, overrides: list[str]) -> None:
    """Runs what is not recorded yet, a run at a time on each of the cores."""
    recipe(runs_dir)
    free: queue.Queue[int] = queue.Queue()
    for core in cores:
        free.put(core)

    def one(seed: int, cell: Cell) -> None:
        core = free.get()
        try:
            row = run(cell, seed, core, runs_dir, overrides)
        finally:
            free.put(core)
        save(row)
        print(f"seed {seed}, {cell}: {percent(share(row, 'correct'))}", file=sys.stderr, flush=True)

    left = [(seed, cell) for seed in seeds for cell in cells if (seed, cell) not in load()]
    with ThreadPoolExecutor(len(cores)) as pool:
        for done in [pool.submit(one, seed, cell) for seed, cell in left]:
            done.result()


def scores(row: dict, metric: str) -> list[float]:
    """The score of each question: `correct` as the share of its samples, or `greedy`."""
    return [int(digit) / (row["samples"] if metric == "correct" else 1) for digit in row[metric]]


def share(row: dict, metric: str) -> float:
    """The accuracy of a run."""
    return sum(scores(row, metric)) / len(row[metric])


def table(metric: str) -> str:
    """The table of all recorded runs, a row for each staleness and objective."""
    rows = load()
    seeds = sorted({seed for seed, _ in rows})
    lines = [
        f"| staleness | objective | generated by | {' | '.join(f'seed {seed}' for seed in seeds)} | over the seeds |",
        f"|---|---|---|{'---|' * len(seeds)}---|",
    ]
    for cell in sorted({cell for _, cell in rows}):
        texts, differences = [], []
        for seed in seeds:
            row, base = rows.get((seed, cell)), rows.get((seed, SYNCHRONOUS))
            texts.append(percent(share(row, metric)) if row else "")
            if row and base and cell != SYNCHRONOUS:
                difference, interval = stats.paired_diff(scores(base, metric), scores(row, metric))
                differences.append(difference)
                texts[-1] += f": {percent(difference, interval, signed=True)}"
        mean = percent(*stats.over_runs(differences), signed=True) if len(differences) > 1 else ""
        engine = "a server" if cell.server else "the trainer's process"
        lines.append(f"| {cell.staleness} | {cell.objective} | {engine} | {' | '.join(texts)} | {mean} |")
    return "\n".join(lines)


def main() -> None:
    """Runs the cells and prints the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--staleness", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--objectives", nargs="*", default=["ppo", "decoupled"])
    parser.add_argument("--servers", action="store_true", help="a server generates, also without staleness")
    parser.add_argument("--cores", type=int, nargs="+", default=[0], help="a run at a time on each")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/staleness"))
    parser.add_argument("--table", action="store_true", help="print the tables of the recorded runs, and run nothing")
    parser.add_argument("overrides", nargs="*", help="key=value, merged over the recipe")
    given = parser.parse_args()
    stale = [(staleness, objective) for staleness in given.staleness for objective in given.objectives]
    cells = [Cell(0, "", given.servers), *(Cell(*pair, given.servers) for pair in stale)]
    if not given.table:
        run_all(cells, given.seeds, given.cores, given.runs_dir.resolve(), given.overrides)
    print(f"Sampled accuracy:\n\n{table('correct')}\n\nGreedy accuracy:\n\n{table('greedy')}")


if __name__ == "__main__":
    main()
