"""Small recipes for several ranks, which tests/stages/rank.py runs, and what the stages wrote."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file

from r1lab.rundir import storage

ROOT = Path(__file__).parents[2]
BATCH = {"sft": 8, "sft-lora": 8, "dpo": 4, "reward": 4, "grpo": 16, "grpo-lora": 16,
         "distill": 16, "distill-lora": 16}  # fmt: skip
"""Rows of a micro-step over all ranks; an update has two of them."""
REWARD = """
import os

def parity(completions, **columns):
    return [float(len(text) % 2) for text in completions]

def fails_on_rank_1(completions, **columns):
    if os.environ["RANK"] == "1":
        raise ZeroDivisionError
    return parity(completions)
"""


def make_base(folder: Path) -> Path:
    """Writes a model of 40,000 parameters with its tokenizer, rows for training and evaluation, and rewards."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from r1lab.models import loading

    config = AutoConfig.for_model(
        "qwen2", vocab_size=768, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "start")
    tokenizer = loading.load_tokenizer("embedded:tiny-qwen2")
    tokenizer.save_pretrained(folder / "start")
    rng = random.Random(0)
    words = ["knight", "knave", "said", "that", "is", "a", "or", "and"]

    def text(least: int) -> str:
        return " ".join(rng.choices(words, k=rng.randint(least, 4 * least)))

    rows = [
        {"prompt": f"say {number}", "answer": "yes", "completion": text(2), "chosen": text(1), "rejected": text(3)}
        for number in range(96)
    ]
    for row in rows[::3]:  # episodes, as a sample stage writes them
        row["prompt_ids"] = tokenizer(row["prompt"])["input_ids"]
        row["turns"] = [turn(tokenizer, text(1), own) for own in (True, False, True)]
    storage.write_jsonl(folder / "rows.jsonl", rows)
    storage.write_jsonl(folder / "test.jsonl", [{"prompt": f"ask {n}", "answer": "yes"} for n in range(3)])
    (folder / "mine.py").write_text(REWARD)
    return folder


def turn(tokenizer, text: str, own: bool) -> dict:
    """A turn of an episode in a file of samples."""
    ids = tokenizer(text)["input_ids"]
    return {"own": own, "text": tokenizer.decode(ids), "ids": ids}


def prepared(base: Path, folder: Path, stage: str, count: int, *, strategy: str = "ddp", train=None, **more) -> Path:
    """Writes a recipe whose updates have the same rows on any number of ranks; returns its run directory.

    Args:
        stage: The kind of the stage, with `-lora` if it trains adapters.
        train: Further keys of the recipe's `train`.
        more: Other sections of the recipe.
    """
    kind, _, lora = stage.partition("-")
    common = {
        "max_steps": 3, "per_device_train_batch_size": BATCH[stage] // count, "learning_rate": 1e-3,
        "global_batch_size": 2 * BATCH[stage], "lr_scheduler_type": "constant", "save_strategy": "no",
    }  # fmt: skip
    recipe = {
        "stage": kind, "name": stage,
        "model": {"path": str(base / "start"), "dtype": "float32"},
        "data": {"path": str(base / "rows.jsonl")}, "train": common | (train or {}), "launch": {"gpus": count},
    }  # fmt: skip
    if count > 1:
        recipe["launch"] |= {"strategy": strategy, "timeout": 300}
    if lora:
        recipe["model"]["lora"] = {"r": 4}
    if kind != "reward":
        recipe["prompt"] = {"template": "none"}
    if kind in ("grpo", "distill"):
        recipe["rewards"] = [{"name": f"{base / 'mine.py'}:parity"}]
        recipe["rollout"] = {
            "engine": "transformers", "num_generations": 4, "max_completion_length": 6, "top_k": 1,
            "biased_sampling": True,
        }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    storage.write_yaml(folder / "config.yaml", recipe | more)
    return folder


@contextmanager
def starter() -> Iterator[Callable[..., list[int]]]:
    """Yields `start(count, run_dirs, **environment)`, which runs stages on a number of ranks, one after another in the
    same processes, and returns the ranks' exit statuses."""
    variables = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-m", "tests.stages.rank"]
    with subprocess.Popen(
        command, env=variables, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout

        def start(count: int, run_dirs: list[Path], **environment: str) -> list[int]:
            process.stdin.write(json.dumps([count, list(map(str, run_dirs)), environment]) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield start
        process.stdin.close()


def logs(run_dir: Path) -> str:
    """The ends of the logs of all ranks, and their errors, for the message of an assertion."""
    own = [file for kind in ("log", "error") for file in sorted((run_dir / "ranks").glob(f"*.{kind}"))]
    files = [run_dir / "log.txt", run_dir / "error.txt", *own]
    return "\n".join(f"{file}:\n{file.read_text()[-3000:]}" for file in files if file.is_file())


def train_rows(run_dir: Path) -> list[dict]:
    """The rows of metrics.jsonl with a loss, in their order."""
    return [row for row in storage.read_jsonl(run_dir / "metrics.jsonl") if row["phase"] == "train"]


def losses(run_dir: Path) -> list[float]:
    """The loss of each step."""
    return [row["loss"] for row in train_rows(run_dir)]


def updates(run_dir: Path) -> dict[int, list]:
    """The rows of each update over all ranks, in an order of their own."""
    found: dict[int, list] = {}
    for file in run_dir.glob("rows.*.jsonl"):
        for line in file.read_text().splitlines():
            step, rows, _ = json.loads(line)
            found.setdefault(step, []).extend(rows)
    return {step: sorted(rows) for step, rows in sorted(found.items())}


def sharded(run_dir: Path) -> bool:
    """Whether the model was sharded in the first micro-step."""
    return json.loads((run_dir / "rows.0.jsonl").read_text().splitlines()[0])[2]


def weights(folder: Path) -> torch.Tensor:
    """All weights of a saved model, one after another."""
    tensors = load_file(folder / "model.safetensors")
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


def apart(start: Path, of: Path, other: Path) -> float:
    """How far the trained weights of two run directories are apart, as a share of the distance that training moved
    them from the model in `start`; a reward model's new head, which `start` lacks, counts in the first alone."""
    first, second, before = (load_file(path / "model.safetensors") for path in (of / "model", other / "model", start))
    gaps = [first[name].float() - second[name].float() for name in first]
    moves = [first[name] - before[name] for name in first if name in before]
    return (_length(gaps) / _length(moves)).item()


def _length(tensors: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack([tensor.float().norm() for tensor in tensors]).norm()
