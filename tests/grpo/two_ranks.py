"""A few steps with dynamic sampling, on as many ranks as there are: `torchrun tests/grpo/two_ranks.py FOLDER`."""

import json
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from datasets import Dataset
from trl import GRPOConfig

from r1lab.grpo import dynamic_sampling
from r1lab.grpo.trainer import GRPOTrainer
from r1lab.models import loading
from r1lab.recipe.sections import DynamicSampling
from r1lab.recipe.training import Curriculum

GROUPS, SIZE, STEPS = 4, 4, 3


def reward(prompts, completions, row, **_):
    """A third of the rows has groups with signal; a completion's place in its group decides."""
    return [float(i % SIZE < 1 + number % 2) if number % 3 == 0 else 0.0 for i, number in enumerate(row)]


class CutTrainer(GRPOTrainer):
    """Greedy completions do not depend on the rank; cut to different lengths, those of a group differ."""

    def _generate_single_turn(self, *args, **kwargs):
        completion_ids, logprobs = super()._generate_single_turn(*args, **kwargs)
        return [ids[: 2 + i % SIZE] for i, ids in enumerate(completion_ids)], logprobs


def main(folder: Path, words: list[str]) -> None:
    state = PartialState(cpu=True)
    config = GRPOConfig(
        output_dir=str(folder), per_device_train_batch_size=GROUPS * SIZE // state.num_processes, max_steps=STEPS,
        num_generations=SIZE, max_completion_length=6, top_k=1, learning_rate=1e-3, lr_scheduler_type="constant",
        loss_type="dapo", beta=0.0, bf16=False, use_cpu=True, gradient_checkpointing=False, report_to="none",
        save_strategy="no", disable_tqdm=True, seed=3,
    )  # fmt: skip
    tokenizer = loading.load_tokenizer(str(folder / "start"))
    trainer = CutTrainer(
        model=loading.load_model(str(folder / "start"), dtype="float32"), args=config, processing_class=tokenizer,
        reward_funcs=reward,
        dynamic_sampling=None if "plain" in words else DynamicSampling(metric="reward", max_rounds=4),
        curriculum=Curriculum(learnability=True) if "curriculum" in words else None,
        train_dataset=Dataset.from_dict({"prompt": [f"say {n}" for n in range(60)], "row": list(range(60))}),
    )  # fmt: skip
    seen, plain = [], dynamic_sampling.choose

    def choose(*args):
        groups = plain(*args)
        seen.append([group.inputs["row"] for group in groups])
        return groups

    dynamic_sampling.choose = choose
    trainer.train()
    weights = torch.cat([p.detach().flatten() for p in trainer.accelerator.unwrap_model(trainer.model).parameters()])
    torch.save(weights, folder / f"weights_{state.num_processes}_{state.process_index}.pt")
    (folder / f"rows_{state.num_processes}_{state.process_index}.json").write_text(json.dumps(seen))
    state.destroy_process_group()  # or the threads of gloo may end the process with SIGABRT


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
