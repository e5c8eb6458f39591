"""Estimates of work and time: FLOPs of a pass, and seconds of training, generation and exchange between devices.

A matrix product costs two FLOPs per token and parameter, and twice that in the backward pass (arXiv:2001.08361,
section 2.1); attention adds its two products (arXiv:2204.02311, appendix B), here over half the context because it is
causal.
"""

from r1lab.plan.gpus import CORE_BANDWIDTH, NETWORK, Device
from r1lab.plan.memory import kv_bytes
from r1lab.plan.shapes import Shape
from r1lab.plan.training import Training

READING = 0.5
"""The assumed share of a device's bandwidth that decoding reaches."""

EXCHANGING = 0.7
"""The assumed share of a link's bandwidth that NCCL reaches with large messages."""

EXPERTS = 0.5
"""The rate of a mixture of experts as a share of a dense model's, whose matrices are larger (docs/plan.md)."""

RUNNING = 1024
"""Sequences that vLLM runs at the same time by default, at most."""


def forward(shape: Shape, tokens: float, context: float) -> float:
    """FLOPs of a forward pass over tokens that attend to `context` tokens each, on average."""
    matrices = shape.active - (0 if shape.tied else shape.head)
    attention = 2 * shape.layers * shape.heads * (shape.key_dim + shape.value_dim) * context
    return tokens * (2 * matrices + attention)


def training(shape: Shape, flops: float, device: Device, devices: int) -> float:
    """Seconds of the passes of a training step."""
    return flops / (devices * device.flops * device.training * _reached(shape))


def exchanged(work: Training, micro_batches: float, *, synced: bool) -> float:
    """Bytes that a device sends to others in an update, and receives from them.

    Without sharding the ranks add their gradients once, in a ring: each sends all of them twice, except its own part
    (ZeRO, section 7). With FSDP2 each micro-batch gathers the weights before its forward and its backward pass, and
    adds the gradients. ZeRO-1 and 2 are counted as no sharding.

    Args:
        synced: Whether an engine in the same process gets the weights, which are then gathered once more.
    """
    others = (work.sharding.devices - 1) / work.sharding.devices
    if work.sharding.stage < 3:
        return 2 * work.trained * work.trained_bytes * others
    weights = work.shape.parameters * work.precision.compute
    return ((2 * weights + work.trained_bytes * work.trained) * micro_batches + weights * synced) * others


def exchanging(size: float, device: Device, *, nodes: int) -> float:
    """Seconds in which a device sends `size` bytes to the others; the slowest link counts."""
    link = min(device.link, NETWORK) if nodes > 1 else device.link
    return size / (link * EXCHANGING)


def syncing(size: float) -> float:
    """Seconds in which rank 0 writes `size` bytes of weights to files in memory, and servers read them at once.

    Each is one core that copies and computes checksums (`r1lab.engines.sync`).
    """
    return 2 * size / CORE_BANDWIDTH


def _reached(shape: Shape) -> float:
    return EXPERTS if shape.experts_per_token else 1.0


def decoding(
    shape: Shape,
    device: Device,
    *,
    rows: float,
    prompts: float,
    at_once: int,
    prompt: float,
    longest: int,
    mean: float,
    size: int,
    vllm: bool,
    replies: float = 0.0,
) -> float:
    """Seconds that a device needs to generate `rows` completions, `at_once` of them in parallel.

    A step generates a token of each row. It reads all weights, and the keys and values so far; with many rows the
    FLOPs are the limit. vLLM starts a row when another ends, so that a few long ones are left at the end. `generate`
    computes each batch until its longest row ends.

    Args:
        prompts: The prompts of these rows; the completions of one share its keys and values.
        longest, mean: Tokens of the longest completion and of all on average.
        size: Bytes per number in weights and cache.
        replies: Tokens that an environment puts into a completion, on average. They are read and not generated, but
            `generate` feeds them one by one while other rows generate.
    """
    together = max(1, min(rows, at_once, RUNNING))
    if vllm:
        steps, tokens = max(longest, rows * mean / together + longest - mean), rows * mean
    else:
        steps, tokens = -(-rows // together) * (longest + replies), rows * longest
    context = prompt + (tokens / rows + replies) / 2
    read = steps * shape.parameters * size + tokens * context * kv_bytes(shape, size, latent=vllm)
    flops = forward(shape, tokens, context) + forward(shape, prompts * prompt, prompt / 2)
    flops += forward(shape, rows * replies, context)
    overhead = steps * (device.step if vllm else device.layer_step * shape.layers)
    return overhead + max(
        read / (device.bandwidth * READING), flops / (device.flops * device.generating * _reached(shape))
    )
