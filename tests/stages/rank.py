"""Ranks of stages that record what they train on: `python -m tests.stages.rank`.

With run directories as arguments, it is a rank itself, for tests that start each rank in an environment of its own.
Otherwise it reads jobs from standard input, one JSON line each: the number of ranks, the run directories, and more
environment variables. It answers each with a line of the ranks' exit statuses. The ranks are forks of this process,
because importing torch, transformers and TRL takes longer than these trainings.

A rank runs `r1lab.stages` with changes. It writes the rows of each micro-step, and whether the model is sharded, to
`rows.RANK.jsonl`, the prompts of each rollout to `trained.RANK.jsonl`, and the dtypes of the policy and the reference
model to `dtypes.RANK.json`. It cuts greedy completions to different lengths, so that those of a group differ and do
not depend on the number of ranks. STOP_AT=N sends a SIGTERM to the last rank in step N, KILL_AT=N a SIGKILL to each
rank. MASKED=R masks all completions of rank R, as TRL does with truncated ones. HOST_MEMORY is the memory of the
machine in bytes.
"""

import json
import os
import signal
import sys
from pathlib import Path

from r1lab import hardware, ranks
from r1lab.stages.__main__ import run_all


def rows_of(inputs) -> list:
    """The rows of a micro-step, as JSON that is the same for any padding."""
    if isinstance(inputs, list):  # grpo
        return [row["row"] for row in inputs]
    return [ids[mask.bool()].tolist() for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"])]


def change() -> None:
    import torch
    from transformers import Trainer
    from trl import GRPOTrainer

    from r1lab.models import shard

    step, generate, memory = Trainer.training_step, GRPOTrainer._generate_single_turn, hardware.memory

    def training_step(self, model, inputs, num_items_in_batch=None):
        number = self.state.global_step + 1
        with (Path(self.args.output_dir).parent / f"rows.{ranks.rank()}.jsonl").open("a") as file:
            file.write(json.dumps([number, rows_of(inputs), shard.is_sharded(model)]) + "\n")
        models = [model, getattr(self, "ref_model", None)]
        dtypes = [str(next(m.parameters()).dtype) if m is not None else None for m in models]
        (Path(self.args.output_dir).parent / f"dtypes.{ranks.rank()}.json").write_text(json.dumps(dtypes))
        if str(number) == os.environ.get("KILL_AT"):
            os.kill(os.getpid(), signal.SIGKILL)
        if str(number) == os.environ.get("STOP_AT") and ranks.rank() == ranks.world_size() - 1:
            del os.environ["STOP_AT"]  # a second signal would end it at once
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, model, inputs, num_items_in_batch)

    def cut(self, *args, **kwargs):
        return tuple(
            found and [part[: 2 + i % self.num_generations] for i, part in enumerate(found)]
            for found in generate(self, *args, **kwargs)  # ids, and log-probabilities or None
        )

    made = GRPOTrainer._generate_and_score_completions

    def masked(self, inputs):
        batch = made(self, inputs)
        prompts = self.processing_class.batch_decode(batch["prompt_ids"], skip_special_tokens=True)
        with (Path(self.args.output_dir).parent / f"trained.{ranks.rank()}.jsonl").open("a") as file:
            file.write(json.dumps([self.state.global_step, prompts]) + "\n")
        if str(ranks.rank()) == os.environ.get("MASKED"):
            batch["completion_mask"] = torch.zeros_like(batch["completion_mask"])
        return batch

    GRPOTrainer._generate_and_score_completions = masked

    def given() -> hardware.MemoryOfMachine:
        given = os.environ.get("HOST_MEMORY")
        return hardware.MemoryOfMachine(*3 * [int(given)]) if given else memory()

    Trainer.training_step, GRPOTrainer._generate_single_turn, hardware.memory = training_step, cut, given


def forked(rank: int, count: int, port: int, run_dirs: list[str], environment: dict[str, str]) -> int:
    """Starts a rank, and returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    if count > 1:
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        os.environ |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    os.environ |= environment
    status = run_all([Path(run_dir) for run_dir in run_dirs])
    sys.stdout.flush()
    os._exit(status)


if __name__ == "__main__":
    from accelerate.utils.other import get_free_port

    from r1lab.stages import dpo, grpo, reward, sft  # noqa: F401  imported once, for all ranks

    change()
    if len(sys.argv) > 1:
        os._exit(run_all([Path(run_dir) for run_dir in sys.argv[1:]]))
    for line in sys.stdin:
        count, *job = json.loads(line)
        port = get_free_port()
        children = [forked(rank, count, port, *job) for rank in range(count)]
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]), flush=True)
