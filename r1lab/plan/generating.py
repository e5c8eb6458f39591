"""The memory of generation: an engine's weights and cache on a device, and the rows that it generates in parallel."""

import os

from r1lab import engines
from r1lab.plan import cost, memory, shapes
from r1lab.plan.gpus import GIB, Device, gib
from r1lab.plan.lengths import Lengths, mean_written
from r1lab.plan.memory import Memory
from r1lab.recipe.schema import GrpoRecipe
from r1lab.recipe.sections import Eval, GrpoRollout, Rollout, SampleRollout

ENGINE = 1.0
"""GiB that vLLM is assumed to need on a GPU in addition to weights and cache, for activations and CUDA graphs."""

BATCH = 64
"""Rows that r1lab's engine on `generate` generates in parallel (`r1lab.engines.transformers`)."""


def uses_vllm(rollout: Rollout | None) -> bool:
    """Whether a stage generates with vLLM."""
    return rollout is not None and engines.choose(rollout.engine) == "vllm"


def completion_limit(recipe: GrpoRecipe) -> int:
    """The maximum length of a completion in a GRPO stage."""
    return max(recipe.rollout.max_completion_length, *recipe.schedule.max_completion_length.values(), 0)


def sample_sizes(rollout: Rollout, evaluation: Eval | None) -> tuple[int, int, int]:
    """For an evaluation or a sample stage: tokens per completion, samples and greedy answers per prompt."""
    if evaluation:
        written = evaluation.max_completion_length or rollout.max_completion_length
        return written, evaluation.num_samples, int(evaluation.greedy)
    samples = rollout.num_generations if isinstance(rollout, SampleRollout | GrpoRollout) else 1
    return rollout.max_completion_length, samples, 0


def vllm(
    rollout: Rollout, device: Device, shape: shapes.Shape, size: int, length: int, split: int = 1
) -> tuple[Memory, str]:
    """vLLM's share of a device, and why that is too little for one sequence of `length` tokens, if it is.

    On a GPU vLLM uses `rollout.gpu_memory_utilization` of all memory, and its cache is what the weights leave. On a
    CPU the cache is `VLLM_CPU_KVCACHE_SPACE`, which r1lab sets to 1 GiB, all of it allocated at the start.

    Args:
        split: Devices that share a copy of the model (`train.vllm_tensor_parallel_size`).
    """
    weights = shape.parameters * size // split
    sequence = length * memory.kv_bytes(shape, size, latent=True) // split
    if not device.cuda:
        space = int(float(os.environ.get("VLLM_CPU_KVCACHE_SPACE") or 1) * GIB)
        lacks = f"VLLM_CPU_KVCACHE_SPACE: {gib(space)} GiB, but one sequence needs {gib(sequence)}"
        return Memory(engine=weights, kv_cache=space), lacks if sequence > space else ""
    whole = int(device.memory * rollout.gpu_memory_utilization)
    cache = whole - weights - int(ENGINE * GIB)
    share = Memory(engine=min(whole, weights + int(ENGINE * GIB)), kv_cache=max(0, cache))
    if cache >= sequence:
        return share, ""
    needed = weights + ENGINE * GIB + sequence
    return share, (
        f"vLLM has {gib(whole)} GiB (rollout.gpu_memory_utilization: {rollout.gpu_memory_utilization:g}) but "
        f"needs {gib(needed)} for its weights and one sequence of {length:,} tokens"
    )


def seconds(
    shape: shapes.Shape,
    device: Device,
    rollout: Rollout,
    found: Lengths,
    *,
    rows: float,
    n: int,
    written: int,
    size: int,
    cache: int = 0,
    together: int = 0,
) -> float:
    """Seconds that a device needs for `rows` completions of at most `written` tokens, `n` for each prompt.

    Args:
        cache: Bytes of vLLM's cache, which rows fill with their actual lengths.
        together: Rows of a batch of `generate`.
    """
    mean = mean_written(written)
    return cost.decoding(
        shape,
        device,
        rows=rows,
        prompts=rows / n,
        at_once=together or at_once(cache, shape, size, int(found.mean + mean + found.mean_replies)),
        prompt=found.mean,
        longest=written,
        mean=mean,
        size=size,
        vllm=uses_vllm(rollout),
        replies=found.mean_replies,
    )


def at_once(cache: int, shape: shapes.Shape, size: int, length: int) -> int:
    """Sequences of `length` tokens that fit in `cache` bytes, at least one."""
    return max(1, cache // (length * memory.kv_bytes(shape, size, latent=True)))


def transformers(
    shape: shapes.Shape, size: int, *, prompt: int, written: int, n: int, rows: int | None = None
) -> tuple[Memory, int]:
    """The memory of r1lab's own engine on `generate` without the weights, and the rows that it generates in parallel.

    Args:
        n: Completions per prompt, which are generated together.
        rows: Prompts; None for more than fit in a batch.
    """
    together = max(1, BATCH // n) * n
    if rows is not None:
        together = min(together, rows * n)
    return memory.generating(shape, rows=together, length=prompt + written, size=size), together
