"""Tests one NVIDIA GPU in ten minutes, without a network: `make gpu OUT=FOLDER`, or `python -m benchmarks.gpu`.

Five steps, each in its own process with a time limit: `device` (the card, the versions, how fast it copies and
multiplies), `tests` (`pytest -m gpu`), `memory` (peak memory of a step with a vocabulary of 152k, for both trainers),
`grpo_step` (the benchmark of that name) and `train` (`recipes/gpu/knights-knaves.yaml`). If something is missing, such
as vLLM or SmolLM2's package, it is reported and the rest runs. FOLDER gets `STEP.json` while each step runs,
`summary.json` and `log.txt`.

Exit status: 0 all steps done, 1 some were not, 3 there is no CUDA device. `--device cpu` scales every step down.
"""

import argparse
import importlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECIPE = "recipes/gpu/knights-knaves.yaml"
STOPPING = 10  # seconds before a step's end at which its commands are interrupted
TINY, SMOLLM2 = "embedded:tiny-qwen2", "embedded:smollm2-135m"
SIZES = {
    "cuda": {
        "copy": 2**30,
        "matrix": 8192,
        "memory": "",
        "grpo_step": "--dtype bfloat16 --batch 128 --micro 32 --tokens 320 --steps 4 --warmup 2",
        "train": [],
    },
    "cpu": {
        "copy": 2**24,
        "matrix": 512,
        "memory": "--rows 4 --prompt 8 --completion 24 --vocabulary 4096 --width 64 --layers 2",
        "grpo_step": "--dtype float32 --batch 16 --micro 8 --tokens 24 --steps 1 --warmup 1",
        "train": ["rollout.max_completion_length=32", "eval.size=8", "eval.num_samples=2"]
        + ["stages.cold.train.max_steps=2", "stages.zero.train.max_steps=2"]
        + ["stages.zero.train.per_device_train_batch_size=8", "stages.zero.train.global_batch_size=8"],
    },
}


def device(*, sizes: dict, record, **_) -> None:
    """The card, the versions, and the card's copy and multiplication rates, as a scale."""
    import torch

    where = "cuda" if torch.cuda.is_available() else "cpu"
    card = {"name": "no CUDA device", "cores": len(os.sched_getaffinity(0)), "python": sys.version.split()[0]}
    if where == "cuda":
        properties = torch.cuda.get_device_properties(0)
        card |= {"name": properties.name, "memory_gib": round(properties.total_memory / 2**30, 1)}
        card |= {"driver": driver(), "cuda": torch.version.cuda}
    record(card=card)
    source = torch.empty(sizes["copy"], dtype=torch.uint8, device=where)
    target = torch.empty_like(source)
    copy = 2 * sizes["copy"] / seconds_of(lambda: target.copy_(source)) / 1e9
    n = sizes["matrix"]
    a, b = (torch.randn(n, n, device=where).bfloat16() for _ in range(2))
    product = 2 * n**3 / seconds_of(lambda: a @ b) / 1e12
    rates = {"copy_gb_per_second": round(copy, 1), "bf16_tflop_per_second": round(product, 2)}
    record(rates=rates, says=f"{card['name']}: copies {copy:,.0f} GB/s, bf16 {product:,.1f} TFLOP/s")
    found = {}
    for name in ("torch", "transformers", "accelerate", "datasets", "peft", "trl", "vllm"):
        try:
            found[name] = importlib.import_module(name).__version__
        except (ImportError, OSError, RuntimeError) as error:  # not installed, or a build that cannot be loaded here
            found[name] = f"missing: {first_line(error)}"
        record(versions=found)
    missing = [name for name, version in found.items() if version.startswith("missing")]
    if missing:
        record(missing=missing)


def driver() -> str | None:
    """The version of NVIDIA's driver, or None if nvidia-smi is not on the path."""
    if not shutil.which("nvidia-smi"):
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def seconds_of(work, *, repeats: int = 20) -> float:
    """The median seconds of a piece of work on the default device, after three warm-up repeats."""
    import torch

    taken = []
    for _ in range(3 + repeats):
        started = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[3:])


def tests(*, record, **_) -> None:
    """The tests that need a GPU, with the skipped ones and the reasons."""
    # Only files with a GPU test: importing the whole suite would take a large part of the time limit.
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in path.read_text()]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "-rs", f"--junitxml={report}", *map(str, files)]
        status = subprocess.run(command, cwd=ROOT).returncode
        cases = list(ElementTree.parse(report).iter("testcase")) if report.is_file() else []
    found = {"passed": [], "failed": [], "skipped": []}
    for case in cases:
        kinds = {child.tag: child for child in case}
        kind = "failed" if kinds.keys() & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        why = "".join(f": {child.get('message', '')}" for child in kinds.values() if child.get("message"))
        found[kind].append(f"{case.get('classname')}.{case.get('name')}{why.splitlines()[0] if why else ''}")
    counts = {kind: len(names) for kind, names in found.items()}
    record(counts=counts, **found, says=", ".join(f"{count} {kind}" for kind, count in counts.items()))
    if status:
        sys.exit(f"pytest ended with status {status}")


def memory(*, sizes: dict, ends: float, record, **_) -> None:
    """Peak memory of a step's loss and gradient, for r1lab's trainer and for TRL's."""
    says, problems = [], []
    for who in ("r1lab", "trl"):
        command = [sys.executable, "-m", "benchmarks.grpo_memory", "--trainer", who, *sizes["memory"].split()]
        done = finished(command, ends=ends, stdout=subprocess.PIPE)
        if done.returncode:
            problems.append(f"{who} {ending(done, ends)}")
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        peak = "out of memory" if "out_of_memory" in found else f"{found['peak_gib']} GiB, {found['seconds']} s"
        says.append(f"{who} {peak}")
        record(**{who: found}, says="; ".join(says))
    stop_at(problems)


def grpo_step(*, sizes: dict, ends: float, record, **_) -> None:
    """The GRPO step compared with TRL's, in bfloat16 on a GPU."""
    says, problems = [], []
    for model in base_models():
        for engine in usable_engines(ends):
            command = [sys.executable, "-m", "benchmarks.grpo_step", "--model", model, "--engine", engine]
            done = finished([*command, *sizes["grpo_step"].split()], ends=ends, stdout=subprocess.PIPE)
            name = f"{model.removeprefix('embedded:')} with {engine}"
            if done.returncode:
                problems.append(f"{name} {ending(done, ends)}")
                continue
            found = json.loads(done.stdout)
            says.append(f"{name} {next(iter(found['by_batch'].values()))['ratio']} times TRL's rate")
            record(**{name: found}, says="; ".join(says))
            break
    stop_at(problems)


def train(*, sizes: dict, ends: float, record, **_) -> None:
    """SFT, then GRPO, through `r1lab run`, with held-out scores before and after."""
    model, problems = base_models()[0], []
    for engine in usable_engines(ends):
        name = f"{model.removeprefix('embedded:')} with {engine}"
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "r1lab", "run", RECIPE, f"rollout.engine={engine}"]
            command += [f"stages.cold.model.path={model}", *sizes["train"], "--runs-dir", folder, "--name", "train"]
            done = finished(command, ends=ends)
            run = Path(folder) / "train"
            found = training_results(run)
            record(**{name: found})
            if done.returncode == 0:
                record(says=f"{name}: {differences(found['compare'])}")
                break
            for log in sorted(run.glob("*/log.txt")):
                print(f"\n--- {log.parent.name}\n{log.read_text(errors='replace')[-4000:]}", flush=True)
        problems.append(f"{name} {ending(done, ends)}")
    stop_at(problems)


def training_results(run: Path) -> dict:
    """The results of a run, including one that did not finish."""
    from r1lab.rundir import storage

    found = {"stages": {path.parent.name: json.loads(path.read_text()) for path in sorted(run.glob("*/result.json"))}}
    for path in run.glob("*-zero/metrics.jsonl"):
        kept = ("step", "reward", "length", "truncated", "entropy", "importance_ratio", "seconds", "tokens_per_second")
        steps = [row for row in storage.read_jsonl(path) if row["phase"] == "train"]
        found["grpo"] = [{key: row[key] for key in kept if key in row} for row in steps]
    if (run / "result.json").is_file():
        found["compare"] = json.loads((run / "result.json").read_text())["compare"]
        found["example"] = storage.read_jsonl(next(run.glob("*-after/samples/questions.jsonl")))[0]["completions"][0]
    return found


def differences(compare: list[dict]) -> str:
    """The change on the whole task, in one line."""
    return "; ".join(
        f"{row['metric']} {row['before_value']:.1%} to {row['after_value']:.1%}, "
        f"{row['diff']:+.1%} [{row['ci95'][0]:+.1%}, {row['ci95'][1]:+.1%}]"
        for row in compare
        if row["task"] == "knights_knaves"
    )


def base_models() -> list[str]:
    """SmolLM2 if its package is installed, and the tiny model. On a CPU only the tiny model."""
    import torch

    from r1lab.errors import UserError
    from r1lab.models.smollm2 import convert

    if not torch.cuda.is_available():
        return [TINY]
    try:
        convert()
    except UserError as error:
        print(error, flush=True)
        return [TINY]
    return [SMOLLM2, TINY]


def usable_engines(ends: float) -> Iterator[str]:
    """vLLM if it can be imported; then transformers, in case vLLM does not start, if there is time left."""
    if subprocess.run([sys.executable, "-c", "import vllm"]).returncode == 0:
        yield "vllm"
    if time.time() < ends - STOPPING:
        yield "transformers"


def finished(command: list[str], *, ends: float, **kwargs) -> subprocess.CompletedProcess:
    """Runs a command to its end, or interrupts it shortly before the step ends."""
    process = subprocess.Popen(command, cwd=ROOT, text=True, **kwargs)
    try:
        output, _ = process.communicate(timeout=max(0, ends - STOPPING - time.time()))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate()  # at the step's end, this process and all its children are killed
    return subprocess.CompletedProcess(command, process.returncode, output)


def ending(done: subprocess.CompletedProcess, ends: float) -> str:
    """How a failed command ended."""
    return "ran out of time" if time.time() > ends - STOPPING else f"ended with status {done.returncode}"


def stop_at(problems: list[str]) -> None:
    """Ends the step with a message if there were problems."""
    if problems:
        sys.exit("; ".join(problems))


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


STEPS = {device: 45, tests: 100, memory: 60, grpo_step: 150, train: 230}
"""The time limit of each step in seconds: less than ten minutes in total."""


def update(path: Path, **values) -> dict:
    """Adds values to a JSON file atomically: a kill leaves either the old file or the new one."""
    known = json.loads(path.read_text()) if path.is_file() else {}
    known |= values
    part = path.with_suffix(".part")
    part.write_text(json.dumps(known, indent=1) + "\n")
    part.replace(path)
    return known


def run_step(name: str, limit: int, *, out: Path, device: str) -> dict:
    """Runs a step in its own process group and kills it at its limit; what it has recorded by then stays."""
    path, started = out / f"{name}.json", time.time()
    path.unlink(missing_ok=True)
    update(path, status="running", limit_seconds=limit)
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", out, "--device", device, "--child", name]
    with (out / "log.txt").open("a+") as log:
        log.write(f"\n===== {name}\n")
        log.flush()
        begin = log.tell()
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.seek(begin)
        lines = [line.rstrip() for line in log if line.strip()] or ["no output"]
    ended = {
        "status": {0: "done", None: "timed out"}.get(status, "failed"),
        "seconds": round(time.time() - started, 1),
    }
    if status != 0:
        ended |= {"error": lines[-1][:500], "log_tail": lines[-60:]}
    return update(path, **ended)


def has_cuda() -> bool:
    """Whether torch is installed and sees a CUDA device; checked in another process, to keep this one off the card."""
    program = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", program], stderr=subprocess.DEVNULL).returncode == 0


def main() -> int:
    names = {step.__name__: step for step in STEPS}
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="where the JSON goes (default: runs/gpu)")
    parser.add_argument(
        "--steps", nargs="+", choices=names, default=list(names), metavar="STEP", help=", ".join(names)
    )
    parser.add_argument(
        "--device", choices=SIZES, default="cuda", help="cpu: run every step at small scale, to try the script"
    )
    parser.add_argument("--child", choices=names, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    out, device = arguments.out.resolve(), arguments.device
    if arguments.child:
        step = names[arguments.child]
        record = partial(update, out / f"{arguments.child}.json")
        step(sizes=SIZES[device], record=record, ends=time.time() + STEPS[step])
        return 0

    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the running step is killed too
    out.mkdir(parents=True, exist_ok=True)
    for name in ("log.txt", "summary.json"):
        (out / name).unlink(missing_ok=True)
    steps, lacking = arguments.steps, device == "cuda" and not has_cuda()
    if lacking:
        print(
            f"{sys.executable} sees no CUDA device: only the step `device` runs, to report what is installed",
            flush=True,
        )
        steps, device = ["device"], "cpu"
    statuses = []
    for name in steps:
        update(out / "summary.json", **{name: {"status": "running"}})
        found = run_step(name, STEPS[names[name]], out=out, device=device)
        statuses.append(found["status"])
        brief = {key: found[key] for key in ("status", "seconds", "says", "missing", "error") if found.get(key)}
        update(out / "summary.json", **{name: brief})
        tail = " · ".join(str(brief[key]) for key in ("says", "error") if key in brief)
        print(f"{name:10} {found['status']:10} {found['seconds']:6.1f} s  {tail}", flush=True)
    print(f"{out / 'summary.json'}")
    return 3 if lacking else int(any(status != "done" for status in statuses))


if __name__ == "__main__":
    sys.exit(main())
