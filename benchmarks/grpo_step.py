"""Compares a GRPO step of TRL's trainer with one of r1lab's: `python -m benchmarks.grpo_step`. Prints JSON.

The trainers run in turn, each in its own processes, on the same prompts, seeds and settings, with the same engine for
both: vLLM (TRL's with r1lab's weight sync, without which it does not run on a CPU) or transformers. r1lab's process
keeps the memory of freed tensors, as the stages of `r1lab run` do without a GPU; TRL's does so with `--trl-keeps`.
After the warm-up, the seconds of a step are split into generating, grading, syncing weights and training; with
`--overlap`, `early` is the share of the completions that were trained on while others were generated. `ideal_seconds`
is the time of the matrix products that training cannot avoid: each completion token and each distinct prompt token
once, forward and backward, at the rate of a large product on this machine. `of_ideal` is the training time as a
multiple of it.

    python -m benchmarks.grpo_step                       # embedded model, puzzles of 3 people
    python -m benchmarks.grpo_step --overlap             # and r1lab's step with `train.overlap`
    python -m benchmarks.grpo_step --smollm2             # SmolLM2-135M, 200-token prompts, 64-token completions
    python -m benchmarks.grpo_step --batch 64 256 1024 --only r1lab      # how the cost grows
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from r1lab.stages.allocation import keep_freed_memory, use_huge_pages

TRAINERS = ("trl", "r1lab", "overlap")  # the last is r1lab's with `train.overlap`


def child(args) -> dict:
    """Times one trainer's steps in this process."""
    if args.child != "trl" or args.trl_keeps:
        use_huge_pages()
        keep_freed_memory()
    import torch
    import trl
    from datasets import Dataset
    from trl import GRPOConfig
    from trl.trainer import grpo_trainer

    from r1lab.data import knights_knaves
    from r1lab.grading import grader
    from r1lab.grpo.rewards import BatchRewards
    from r1lab.grpo.trainer import GRPOTrainer
    from r1lab.models import loading, prompts
    from r1lab.recipe.training import GrpoTrain

    class Plain(trl.GRPOTrainer):
        _tokenize_prompts, rendered = GRPOTrainer._tokenize_prompts, True

    if args.engine == "vllm":
        from r1lab.engines.vllm import SyncedVLLM

        grpo_trainer.VLLMGeneration = SyncedVLLM
    model = loading.load_model(args.model, dtype=args.dtype)
    tokenizer = loading.load_tokenizer(args.model)
    rows = knights_knaves(people=3, names=16, sayings=1, copies=20, size=max(64, args.batch), seed=1)
    template = "r1-zero" if "tiny" in args.model else "chat"
    texts = [prompts.render(row["prompt"], tokenizer, template=template)[0] for row in rows]
    if args.prompt_tokens:  # the last tokens of the text, repeated until it is long enough
        texts = [tokenizer.decode((ids * 9)[-args.prompt_tokens :]) for ids in tokenizer(texts)["input_ids"]]
    longest = max(len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"])
    folder = Path(tempfile.mkdtemp())
    rewards = BatchRewards(grader.build([{"name": args.reward}]), rows, folder, size=8)
    config = GRPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=args.micro,
        gradient_accumulation_steps=args.batch // args.micro,
        num_generations=8,
        max_completion_length=args.tokens,
        max_steps=args.warmup + args.steps,
        learning_rate=1e-6,
        beta=0.0,
        loss_type="dr_grpo",
        scale_rewards="none",
        use_vllm=args.engine == "vllm",
        vllm_mode="colocate",
        generation_kwargs={"min_tokens" if args.engine == "vllm" else "min_new_tokens": args.min_tokens},
        vllm_max_model_length=longest + args.tokens,
        vllm_importance_sampling_mode="token_truncate",
        bf16=args.dtype == "bfloat16" and torch.cuda.is_available(),
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=0,
    )
    own = GrpoTrain(overlap=args.child == "overlap")
    trainer = (Plain if args.child == "trl" else partial(GRPOTrainer, rewards=rewards, rendered=True, own=own))(
        model=model,
        args=config,
        processing_class=tokenizer,
        reward_funcs=rewards.functions,
        train_dataset=Dataset.from_dict({"prompt": texts, "row": list(range(len(rows)))}),
    )
    spent = dict.fromkeys(("generate", "grade", "sync"), 0.0)
    if args.engine == "vllm":
        timed(trainer.vllm_generation, "sync_weights", spent, "sync")
        timed(trainer.vllm_generation, "generate", spent, "generate")
    else:
        timed(trainer, "_generate_single_turn", spent, "generate")
    timed(trainer, "_calculate_rewards", spent, "grade")
    steps, written = [], []
    if args.child == "overlap":
        trained_early(spent)
    trainer.add_callback(clock(spent, steps))
    count(trainer, written)
    trainer.train()
    steps, written = steps[args.warmup :], written[args.warmup :]
    return {
        "steps": steps,
        "completion_tokens": statistics.fmean(tokens for tokens, _ in written),
        "prompt_tokens": statistics.fmean(tokens for _, tokens in written),
        "parameters": sum(p.numel() for p in model.parameters()),
        "peak_gib": round(peak_memory() / 2**30, 2),
        "flops_per_second": matrix_rate(model.dtype),
    }


def timed(owner, name: str, spent: dict, key: str) -> None:
    """Adds the seconds of a method to `spent` under a key."""
    method = getattr(owner, name)

    def wrapped(*args, **kwargs):
        started = now()
        try:
            return method(*args, **kwargs)
        finally:
            spent[key] += now() - started

    setattr(owner, name, wrapped)


def now() -> float:
    """The time in seconds, once the device has finished its work."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def clock(spent: dict, steps: list):
    """A callback that records the seconds of each step, in total and by part."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_step_begin(self, *args, **kwargs):
            spent.update(dict.fromkeys(("generate", "grade", "sync"), 0.0), started=now())

        def on_step_end(self, *args, **kwargs):
            total = now() - spent.pop("started")
            early = {key: spent.pop(key) for key in ("early",) if key in spent}
            steps.append({"total": total, **spent, "train": total - sum(spent.values()), **early})

    return Clock()


def trained_early(spent: dict) -> None:
    """Records the share of a rollout's completions that were trained on before it ended."""
    from r1lab.grpo.overlap import Overlap

    settle = Overlap.settle

    def wrapped(overlap, batch):
        rows = settle(overlap, batch)
        spent["early"] = len(rows) / len(batch["advantages"])
        return rows

    Overlap.settle = wrapped


def count(trainer, written: list) -> None:
    """Records the completion tokens and the distinct prompt tokens of each generation."""
    method = trainer._generate_and_score_completions

    def wrapped(inputs):
        batch = method(inputs)
        prompts = batch["prompt_mask"].sum().item() / trainer.num_generations
        written.append((batch["completion_mask"].sum().item(), prompts))
        return batch

    trainer._generate_and_score_completions = wrapped


def peak_memory() -> int:
    """The peak memory of this process so far in bytes: torch's on a GPU, otherwise the resident memory."""
    import resource

    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def matrix_rate(dtype) -> float:
    """Floating-point operations per second of a large matrix product on this machine."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    n = 8192 if device == "cuda" else 1536
    a, b = (torch.randn(n, n, dtype=dtype, device=device) for _ in range(2))
    best = 0.0
    for _ in range(5):
        started = time.perf_counter()
        (a @ b).sum().item()
        best = max(best, 2 * n**3 / (time.perf_counter() - started))
    return best


def summary(result: dict, batch: int) -> dict:
    """Medians over the steps, and the ideal time for comparison."""
    median = {key: statistics.median(step[key] for step in result["steps"]) for key in result["steps"][0]}
    tokens = result["completion_tokens"] + result["prompt_tokens"]
    ideal = 6 * result["parameters"] * tokens / result["flops_per_second"]
    return {
        "completions_per_second": round(batch / median["total"], 2),
        "seconds": {key: round(value, 3) for key, value in median.items()},
        "ideal_seconds": round(ideal, 3),
        "of_ideal": round(median["train"] / ideal, 2),
        "completion_tokens": round(result["completion_tokens"] / batch, 1),
        "prompt_tokens": round(result["prompt_tokens"] * 8 / batch, 1),
        "peak_gib": result["peak_gib"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="embedded:tiny-qwen2")
    parser.add_argument("--engine", choices=("vllm", "transformers"), default="vllm")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch", type=int, nargs="+", default=[128], help="completions per step")
    parser.add_argument("--micro", type=int, default=16, help="per_device_train_batch_size")
    parser.add_argument("--tokens", type=int, default=448, help="maximum tokens per completion")
    parser.add_argument("--min-tokens", type=int, default=0, help="minimum tokens per completion")
    parser.add_argument("--prompt-tokens", type=int, help="tokens per prompt (default: the length of the puzzles)")
    parser.add_argument("--reward", default="knights_knaves")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1, help="how often both trainers run, in turn")
    parser.add_argument(
        "--smollm2", action="store_true", help="SmolLM2-135M: 64 completions of 64 tokens, prompts of 200 tokens"
    )
    parser.add_argument(
        "--overlap", action="store_true", help="r1lab also with `train.overlap`, in turn with the others"
    )
    parser.add_argument("--only", choices=TRAINERS, help="run one trainer only, without a ratio")
    parser.add_argument("--trl-keeps", action="store_true", help="TRL's trainer too keeps the memory of freed tensors")
    parser.add_argument("--child", choices=TRAINERS, help=argparse.SUPPRESS)
    # SmolLM2 solves no puzzle. This reward differs between completions, so that no group is skipped.
    smollm2 = {"model": "embedded:smollm2-135m", "batch": [64], "tokens": 64, "min_tokens": 64, "prompt_tokens": 200}
    if "--smollm2" in sys.argv:
        parser.set_defaults(**smollm2, reward="repetition", steps=3, warmup=1)
    args = parser.parse_args()
    if args.child:
        args.batch = args.batch[0]
        print("\n" + json.dumps(child(args)))
        return
    found = {}
    for batch in args.batch:
        for _ in range(args.rounds):
            for who in (args.only,) if args.only else TRAINERS[: 3 if args.overlap else 2]:
                result = run(who, batch, sys.argv[1:])
                known = found.setdefault(batch, {}).setdefault(who, result)
                known["steps"] += result["steps"] if known is not result else []
    report = {}
    for batch, both in found.items():
        lines = {who: summary(result, batch) for who, result in both.items()}
        report[batch] = dict(lines)
        rates = {who: line["completions_per_second"] for who, line in lines.items()}
        for who, name in (("r1lab", "ratio"), ("overlap", "ratio_with_overlap")):
            if who in rates and "trl" in rates:
                report[batch] |= {name: round(rates[who] / rates["trl"], 2)}
    settings = {key: value for key, value in vars(args).items() if key not in ("child", "batch", "smollm2")}
    print(json.dumps({"settings": settings, "by_batch": report}, indent=1))


def run(who: str, batch: int, words: list[str]) -> dict:
    """Runs one trainer in its own process."""
    command = [sys.executable, "-m", "benchmarks.grpo_step", *words, "--child", who, "--batch", str(batch)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{who}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
