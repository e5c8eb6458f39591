"""Peak memory of a GRPO step's loss and gradient, with a large vocabulary: `python -m benchmarks.grpo_memory`.

Uses a random Qwen2 model, random completions of equal length, and one trainer per process: run it with
`--trainer r1lab` and with `--trainer trl`. It makes two passes and times the second. Prints one line of JSON: the
memory of the weights, the peak (on a CPU that of the whole process), seconds, and `out_of_memory` if the card was too
small.
"""

import argparse
import json
import resource
import tempfile
import time

GROUP = 8  # completions that share a prompt


def measure(
    *, trainer: str, rows: int, prompt: int, completion: int, vocabulary: int, width: int, layers: int
) -> dict:
    """Peak memory in GiB, and seconds, of one trainer's forward and backward pass.

    Args:
        trainer: `r1lab` or `trl`.
        rows: The number of completions.
        prompt, completion: Tokens per prompt and per completion.
        vocabulary, width, layers: Sizes of the model, which is in bfloat16 on a GPU and in float32 on a CPU.
    """
    import torch
    import trl

    from r1lab.grpo.trainer import GRPOTrainer
    from r1lab.models import loading

    on_gpu = torch.cuda.is_available()
    torch.manual_seed(0)
    made = make(
        GRPOTrainer if trainer == "r1lab" else trl.GRPOTrainer,
        model=random_model(vocabulary=vocabulary, width=width, layers=layers, dtype=loading.torch_dtype("auto")),
        tokenizer=loading.load_tokenizer("embedded:tiny-qwen2"),
        rows=rows,
        completion=completion,
        bf16=on_gpu,
    )
    inputs = batch(rows=rows, prompt=prompt, completion=completion, vocabulary=vocabulary, device=made.model.device)
    found = {"weights_gib": gib(sum(p.numel() * p.element_size() for p in made.model.parameters()))}
    try:
        for _ in range(2):
            started = time.perf_counter()
            with made.accelerator.autocast():
                loss = made.compute_loss(made.model, dict(inputs))
            loss.backward()
            loss.item()
            if on_gpu:
                torch.cuda.synchronize()
            found["seconds"] = round(time.perf_counter() - started, 3)
    except torch.OutOfMemoryError as error:
        found["out_of_memory"] = str(error).splitlines()[0]
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return found | {"peak_gib": gib(torch.cuda.max_memory_allocated() if on_gpu else resident)}


def random_model(*, vocabulary: int, width: int, layers: int, dtype):
    """A random Qwen2 model with heads of size 64, on the GPU if there is one."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = {"hidden_size": width, "intermediate_size": 5 * width, "num_hidden_layers": layers}
    shape |= {"num_attention_heads": width // 64, "num_key_value_heads": 1, "tie_word_embeddings": True}
    config = AutoConfig.for_model("qwen2", vocab_size=vocabulary, **shape)
    return AutoModelForCausalLM.from_config(config, dtype=dtype).to("cuda" if torch.cuda.is_available() else "cpu")


def make(trainer, *, model, tokenizer, rows: int, completion: int, bf16: bool):
    """A trainer that is ready to take a step."""
    from datasets import Dataset
    from trl import GRPOConfig

    with tempfile.TemporaryDirectory() as folder:
        made = trainer(
            model=model,
            args=GRPOConfig(
                output_dir=folder,
                per_device_train_batch_size=rows,
                num_generations=min(GROUP, rows),
                max_completion_length=completion,
                beta=0.0,
                loss_type="dr_grpo",
                bf16=bf16,
                gradient_checkpointing=False,
                report_to="none",
            ),
            processing_class=tokenizer,
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            train_dataset=Dataset.from_dict({"prompt": ["a"] * rows}),
        )
    made.model.train()
    made.current_gradient_accumulation_steps = 1
    return made


def batch(*, rows: int, prompt: int, completion: int, vocabulary: int, device) -> dict:
    """The inputs that TRL passes to the loss: `rows` random completions, in groups that share a prompt."""
    import torch

    group = min(GROUP, rows)
    prompts = torch.randint(vocabulary, (rows // group, prompt), device=device).repeat_interleave(group, 0)
    completions = torch.randint(vocabulary, (rows, completion), device=device)
    return {
        "prompt_ids": prompts,
        "prompt_mask": torch.ones_like(prompts),
        "completion_ids": completions,
        "completion_mask": torch.ones_like(completions),
        "advantages": torch.randn(rows, device=device),
        "num_items_in_batch": torch.tensor(completions.numel(), device=device),
    }


def gib(size: int) -> float:
    return round(size / 2**30, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trainer", choices=("r1lab", "trl"), default="r1lab")
    parser.add_argument("--rows", type=int, default=16, help="number of completions")
    parser.add_argument("--prompt", type=int, default=128, help="tokens per prompt")
    parser.add_argument("--completion", type=int, default=896, help="tokens per completion")
    parser.add_argument("--vocabulary", type=int, default=151_936, help="size of the vocabulary (default: Qwen2.5's)")
    parser.add_argument("--width", type=int, default=896, help="hidden size (default: Qwen2.5-0.5B's)")
    parser.add_argument("--layers", type=int, default=4)
    arguments = vars(parser.parse_args())
    print(json.dumps({"settings": arguments} | measure(**arguments)))


if __name__ == "__main__":
    main()
