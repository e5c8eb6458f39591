"""Estimates of work and time: FLOPs of a pass, and seconds of training and generation.

A matrix product costs two FLOPs per token and parameter, and twice that in the backward pass (arXiv:2001.08361,
section 2.1); attention adds its two products (arXiv:2204.02311, appendix B), here over half the context because it is
causal.
"""

from r1lab.plan.gpus import Device
from r1lab.plan.memory import kv_bytes
from r1lab.plan.shapes import Shape

TRAINING, READING = 0.35, 0.5
"""Assumed shares of a device's FLOPs that training reaches (MFU), and of its bandwidth that decoding reaches."""


def forward(shape: Shape, tokens: float, context: float) -> float:
    """FLOPs of a forward pass over tokens that attend to `context` tokens each, on average."""
    matrices = shape.active - (0 if shape.tied else shape.head)
    attention = 2 * shape.layers * shape.heads * (shape.key_dim + shape.value_dim) * context
    return tokens * (2 * matrices + attention)


def decoding(
    shape: Shape, device: Device, *, rows: int, at_once: int, prompt: int, completion: int, size: int
) -> float:
    """Seconds that a device needs to generate `rows` completions, `at_once` of them in parallel.

    Each token reads all weights and the keys and values so far; with many rows in parallel the FLOPs are the limit.

    Args:
        size: Bytes per number in weights and cache.
    """
    context = prompt + completion / 2
    together = max(1, min(rows, at_once))
    read = shape.parameters * size + together * context * kv_bytes(shape, size, latent=True)
    per_token = max(read / (device.bandwidth * READING), forward(shape, together, context) / (device.flops * TRAINING))
    return -(-rows // together) * completion * per_token
