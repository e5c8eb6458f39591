"""How accurate `r1lab plan` is: about memory, `python -m benchmarks.plan [--only NAME...] [--out FILE]`, and with
`--times` about time, which compares plans with the runs that docs/results has measured and with published ones.

Each configuration is a real stage in its own process, `python -m r1lab.stages`, with its children. On a CPU the peak
is that of their resident memory, with shared pages counted once (the sum of Pss, or the main process's high-water mark
if that is higher). With `--device cuda` it is `torch.cuda.max_memory_allocated`, which a wrapper around the stage
prints at the end. Prints JSON: for each configuration the predicted and the measured peak in GiB, and their ratio.
`--measured FILE` compares a new plan with the measurements of an earlier `--out FILE`.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from r1lab.recipe import loading as recipes
from r1lab.run import children
from r1lab.rundir import directory, manifest, storage

SAMPLED = 0.1  # seconds between two readings of the memory of a process tree
BOUND = 0.15  # the maximum relative error of a prediction
CUDA = (
    "import sys, pathlib, torch; from r1lab.stages.__main__ import main; "
    "status = main(pathlib.Path(sys.argv[1])); "
    "print('peak', torch.cuda.max_memory_allocated(), flush=True); sys.exit(status)"
)

TINY, SMOL, MOE = "embedded:tiny-qwen2", "embedded:smollm2-135m", "embedded:tiny-deepseek-v3"
HOUR = 3600
MEASURED = [
    # recipe with overrides, device, devices, seconds, where it was measured
    ("quickstart", "avx512", 2, 394, "docs/results/quickstart.md"),
    ("quickstart", "avx2", 2, 708, "docs/results/quickstart.md, a slower machine"),
    ("r1/tiny", "avx512", 2, 43.0 * 60, "docs/results/r1-tiny.md"),
    ("r1/zero-deepseek-v3", "avx512", 1, 26 * 60 + 55, "docs/results/zero-deepseek-v3.md, seed 0"),
    ("r1/zero-deepseek-v3", "avx512", 1, 32 * 60 + 12, "docs/results/zero-deepseek-v3.md, seed 1"),
    ("logic-rl/tiny", "avx512", 2, 8 * 60, "docs/studies/logic-rl.md"),
    ("real/smollm2-instructions", "avx512", 2, 50 * 60, "docs/results/smollm2-instructions.md, seed 0, not idle"),
    ("environments/number_guess", "avx512", 2, 9 * 60 + 26, "docs/results/environments.md, seed 0"),
    ("tiny/qwen2-base", "avx512", 2, 15 * 60, "its own header"),
    ("tiny/llama-base", "avx512", 2, 3 * 60, "its own header"),
    ("tiny/deepseek-v3-base", "avx512", 2, 35 * 60, "its own header"),
]
PUBLISHED = [
    ("published/simplerl-zoo", "h100", 16, 15 * HOUR, "arXiv:2503.18892"),
    ("published/open-rs data.size=7000", "a40", 4, 24 * HOUR, "arXiv:2503.16219"),
    ("published/mini-r1-countdown", "h100", 4, 6 * HOUR, "philschmid.de/mini-deepseek-r1"),
]
"""Runs of others, with other software than r1lab, and partly with other settings (see the recipes)."""

TRAIN = {"max_steps": 2, "save_strategy": "no", "learning_rate": 1e-6}


def sft(model: str, *, rows: int, tokens: int, lora: bool = False, **train) -> dict:
    """An SFT stage on rows of about `tokens` tokens each."""
    return {
        "stage": "sft",
        "model": {"path": model} | ({"lora": {"r": 16}} if lora else {}),
        "data": {"tokens": tokens},
        "train": TRAIN | {"per_device_train_batch_size": rows, "gradient_checkpointing": False} | train,
    }


def grpo(model: str, *, rows: int, completion: int, engine: str, group: int = 4, lora: bool = False, **train) -> dict:
    """A GRPO stage that computes all rows, with or without signal."""
    return {
        "stage": "grpo",
        "model": {"path": model} | ({"lora": {"r": 16}} if lora else {}),
        "data": {"tokens": 64},
        "rewards": [{"name": "format"}],
        "rollout": {"engine": engine, "num_generations": group, "max_completion_length": completion},
        "train": TRAIN
        | {"per_device_train_batch_size": rows, "gradient_checkpointing": False, "skip_no_signal": False, "beta": 0.0}
        | train,
    }


CONFIGURATIONS = {
    "sft-tiny": sft(TINY, rows=16, tokens=256),
    "sft-moe": sft(MOE, rows=16, tokens=256),
    "sft-256": sft(SMOL, rows=2, tokens=256),
    "sft-768": sft(SMOL, rows=2, tokens=768),
    "sft-768-checkpointing": sft(SMOL, rows=2, tokens=768, gradient_checkpointing=True),
    "sft-256-lora": sft(SMOL, rows=2, tokens=256, lora=True),
    "sft-256-accumulate": sft(SMOL, rows=1, tokens=256, gradient_accumulation_steps=2),
    "grpo-tiny": grpo(TINY, rows=16, completion=256, engine="transformers"),
    "grpo-64": grpo(SMOL, rows=4, completion=64, engine="transformers"),
    "grpo-64-reference": grpo(SMOL, rows=4, completion=64, engine="transformers", beta=0.01),
    "grpo-64-lora": grpo(SMOL, rows=4, completion=64, engine="transformers", lora=True),
    "grpo-tiny-vllm": grpo(TINY, rows=16, completion=256, engine="vllm"),
    "grpo-64-vllm": grpo(SMOL, rows=4, completion=64, engine="vllm"),
}


def resolved(name: str, folder: Path):
    """A configuration as a recipe, with its rows in `folder`."""
    plain = CONFIGURATIONS[name] | {"name": name}
    tokens = plain["data"]["tokens"]
    words = " ".join(["sun"] * (tokens if plain["stage"] == "grpo" else tokens - 16))  # a token a word, nearly
    row = {"prompt": f"Say: {words}"} if plain["stage"] == "grpo" else {"prompt": "Say:", "completion": words}
    data = folder / f"{name}.jsonl"
    storage.write_jsonl(data, [row] * 64)
    file = folder / f"{name}.yaml"
    storage.write_yaml(file, plain | {"data": {"builder": "rows", "path": str(data)}})
    return recipes.load([str(file)])


def measured(recipe, folder: Path, device: str) -> dict:
    """Runs a stage; returns the peak of its memory in bytes, and seconds.

    Raises:
        RuntimeError: The stage failed.
    """
    run_dir = folder / recipe.name
    plain = json.loads(json.dumps(recipe.model_dump(mode="json")))
    directory.prepare(recipes.dumps(recipe), plain, run_dir, resume=False, overwrite=True)
    wrapped = ["-c", CUDA] if device == "cuda" else ["-m", "r1lab.stages"]
    output = run_dir / "output.txt"
    started, peak = time.monotonic(), 0
    with output.open("wb") as file:
        child = children.start([sys.executable, *wrapped, str(run_dir)], file)
        try:
            while child.poll() is None:
                peak = max(peak, resident(child.pid))
                time.sleep(SAMPLED)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    if child.returncode:
        logs = [path for path in (run_dir / "error.txt", run_dir / "log.txt", output) if path.is_file()]
        raise RuntimeError(f"{recipe.name}: {logs[0].read_text(errors='replace')[-2000:]}")
    if device == "cuda":
        peak = int(output.read_text().rpartition("peak ")[2].split()[0])
    return {"peak": peak, "seconds": round(time.monotonic() - started, 1)}


def resident(pid: int) -> int:
    """Bytes that a process and its descendants hold now, or the peak of the process alone if that is higher."""
    import psutil

    try:
        process = psutil.Process(pid)
        status = Path(f"/proc/{pid}/status").read_text()
        most = int(status.partition("VmHWM:")[2].split()[0]) * 1024
        family = process.children(recursive=True)
        if not family:
            return most
        return max(most, sum(proportional(one.pid) for one in (process, *family)))
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError, IndexError):  # the process has just ended
        return 0


def proportional(pid: int) -> int:
    """A process's Pss in bytes, or 0 if it has ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0
    return int(text.partition("Pss:")[2].split()[0]) * 1024


def predicted(recipe, device: str):
    """The peak that `r1lab plan` predicts; on a GPU without the process's overhead, which torch does not count."""
    from r1lab import plan

    (stage,) = plan.plan(recipe).stages
    outside = stage.peak.overhead if device == "cuda" else 0
    return {"predicted": stage.peak.total - outside, "at": stage.moment, "parts": asdict(stage.peak)}


def compared(seen: dict, planned: dict) -> dict:
    """The two peaks in GiB, and the ratio of the predicted to the measured one."""
    gib = {
        key: round(value / 2**30, 3)
        for key, value in (("predicted", planned["predicted"]), ("measured", seen["peak"]))
    }
    parts = {key: round(value / 2**30, 3) for key, value in planned["parts"].items() if value}
    return gib | {"ratio": round(planned["predicted"] / seen["peak"], 3), "at": planned["at"], "parts": parts}


def times(runs: list[tuple]) -> list[dict]:
    """The planned and the measured seconds of runs, and their ratio."""
    from r1lab import plan
    from r1lab.plan import gpus

    rows = []
    for name, device, count, seconds, source in runs:
        given: dict = {"gpu": device, "gpus": count}
        if device.startswith("avx"):  # cores of the machine that measured, at assumed rates
            cores = gpus.cores(count, 24 * gpus.GIB, avx512=device == "avx512")
            given = {"device": cores}
        made = plan.plan(recipes.load(name.split()), **given)
        planned, assumed = made.seconds, sorted({line for stage in made.stages for line in stage.assumed})
        ratio = round(planned / seconds, 2) if planned else None
        rows.append({"recipe": name, "device": device, "devices": count, "planned": planned and round(planned)})
        rows[-1] |= {"measured": round(seconds), "ratio": ratio, "source": source, "assumed": assumed}
    return rows


def main() -> None:
    """Measures, plans and prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=CONFIGURATIONS, default=list(CONFIGURATIONS), metavar="NAME")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--times", action="store_true", help="compare times instead of memory; runs nothing")
    parser.add_argument("--out", type=Path, help="file for the measurements, one per line")
    parser.add_argument(
        "--measured", type=Path, help="use the measurements of an earlier --out instead of running the stages"
    )
    arguments = parser.parse_args()
    if arguments.times:
        found = {"measured": times(MEASURED), "published": times(PUBLISHED)}
        within = sum(0.5 <= row["ratio"] <= 2 for row in found["measured"])
        print(json.dumps(found | {"within_a_factor_of_two": f"{within} of {len(MEASURED)}"}, indent=2))
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        loaded = {name: resolved(name, folder) for name in arguments.only}
        if arguments.measured:
            seen = {row.pop("name"): row for row in storage.read_jsonl(arguments.measured)}
        else:
            seen = {}
            for name, recipe in loaded.items():
                seen[name] = measured(recipe, folder, arguments.device)
                if arguments.out:
                    storage.append_jsonl(arguments.out, {"name": name} | seen[name])
        compares = {n: compared(seen[n], predicted(loaded[n], arguments.device)) for n in loaded if n in seen}
    report = {
        "device": arguments.device,
        "versions": manifest.versions(),
        "configurations": compares,
        "furthest": max(abs(row["ratio"] - 1) for row in compares.values()),
        "within_bound": sum(abs(row["ratio"] - 1) <= BOUND for row in compares.values()),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
