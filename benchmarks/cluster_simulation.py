"""Synchronous rollouts and updates on 8, 64 and 1,024 GPUs, simulated: `python -m benchmarks.cluster_simulation`.

Nothing is run: the simulation draws the lengths of completions from a distribution, deals them to the GPUs, generates
with the rates of `r1lab plan` until the last GPU is done, and trains until the GPU with the most tokens is done. It
prints JSON: seconds of a step, and the shares of the time in which generation and training do useful work.
"""

import argparse
import heapq
import json
import math
import random
from dataclasses import asdict, dataclass, replace

from r1lab.plan import cost, gpus, shapes
from r1lab.plan.gpus import GIB, Device
from r1lab.plan.memory import kv_bytes
from r1lab.plan.shapes import Shape

PROMPT, GROUP = 512, 16
CACHE, ENGINE = 0.5, 1.0
"""vLLM's share of a GPU while it generates, and the GiB of it that are neither weights nor cache."""

PASSES = 4
"""Forward passes that training costs, with gradient checkpointing."""

MICRO_BATCH = 32_768
"""Tokens of a micro-batch on a GPU."""

SPREAD = 0.8
"""The standard deviation of the logarithm of lengths."""


@dataclass(frozen=True)
class Setting:
    """A step: how many completions of which lengths, on which machines."""

    model: str
    gpu: str
    gpus: int
    completions: int
    mean: float
    longest: int


SETTINGS = [Setting("Qwen/Qwen2.5-7B", "h100", count, 8192, 0.3 * 16_384, 16_384) for count in (8, 64, 1024)]
SETTINGS += [Setting("Qwen/Qwen2.5-7B", "h100", count, 64 * count, 0.3 * 16_384, 16_384) for count in (8, 64, 1024)]

OTHERS = [
    # the setting, the seconds of a step that were published, and where; batches and lengths are assumed
    (
        Setting("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", "h100", 128, 8192, 8000, 27_648),
        147.6,
        "AReaL v0.3, 16 nodes",
    ),
    (
        Setting("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "h100", 192, 8192, 8000, 27_648),
        207.7,
        "AReaL v0.3, 24 nodes",
    ),
    (Setting("Qwen/Qwen3-30B-A3B", "h100", 32, 2048, 0.75 * 4096, 4096), 192.0, "NeMo-RL v0.6, on-policy"),
]
TRAINERS = [
    # the model, GPUs, tokens of a row, the tokens per second that were published (prime-rl, benchmarks of 2026-02)
    ("Qwen/Qwen3-0.6B", 1, 16_384, 11_900),
    ("Qwen/Qwen3-4B", 8, 16_384, 26_030),
    ("Qwen/Qwen3-4B", 8, 65_536, 28_970),
]


def lengths(setting: Setting, seed: int) -> list[int]:
    """Lengths of completions, log-normal and truncated at the longest, with about the mean that was set."""
    draw, middle = random.Random(seed), math.log(setting.mean) - SPREAD**2 / 2
    return [
        min(setting.longest, max(1, round(draw.lognormvariate(middle, SPREAD)))) for _ in range(setting.completions)
    ]


def step_seconds(shape: Shape, device: Device, rows: int, context: float) -> float:
    """Seconds in which an engine generates a token of each of its rows, as `cost.decoding` counts them."""
    read = shape.parameters * 2 + rows * context * kv_bytes(shape, 2, latent=True)
    flops = cost.forward(shape, rows, context)
    return device.step + max(read / (device.bandwidth * cost.READING), flops / (device.flops * device.generating))


def generating(shape: Shape, device: Device, mine: list[int], places: int) -> float:
    """Seconds of an engine that starts the next row whenever one ends."""
    context = PROMPT + sum(mine) / len(mine) / 2
    waiting, now, seconds = mine[::-1], 0, 0.0
    running: list[int] = []  # the steps at which rows end
    while waiting or running:
        while waiting and len(running) < places:
            heapq.heappush(running, now + waiting.pop())
        end = heapq.heappop(running)
        seconds += (end - now) * step_seconds(shape, device, len(running) + 1, context)
        now = end
    return seconds


def simulated(setting: Setting, seed: int = 0) -> dict:
    """Seconds of a step and of its parts, and the shares of generation and training that are useful."""
    device, shape, count = gpus.find(setting.gpu), shapes.find(setting.model), setting.gpus
    drawn = lengths(setting, seed)
    dealt = [drawn[rank::count] for rank in range(count)]
    mean = sum(drawn) / len(drawn)
    tensor = max(1, 2 ** math.ceil(math.log2(shape.parameters * 2 / (0.3 * device.memory))))  # GPUs of an engine
    cache = (device.memory * CACHE - ENGINE * GIB) * tensor - shape.parameters * 2
    places = min(cost.RUNNING, max(1, int(cache / ((PROMPT + mean) * kv_bytes(shape, 2, latent=True)))))
    engine = replace(device, flops=device.flops * tensor, bandwidth=device.bandwidth * tensor)
    engines = [drawn[first :: count // tensor] for first in range(count // tensor)]
    took = [generating(shape, engine, rows, places) for rows in engines]
    full = places / step_seconds(shape, engine, places, PROMPT + mean / 2)  # tokens per second with no place empty

    def training(rows: list[int]) -> float:
        tokens = sum(rows) + PROMPT * len(rows) / GROUP
        return cost.training(shape, cost.forward(shape, tokens, (PROMPT + mean) / 2) * PASSES, device, 1)

    computing = [training(rows) for rows in dealt]
    micro_batches = max(1.0, max(map(sum, dealt)) / MICRO_BATCH)
    sent = (micro_batches * (2 * 2 + 4) + 2) * shape.parameters * (count - 1) / count
    exchanging = cost.exchanging(sent, device, nodes=-(-count // 8))
    trained = max(max(computing), exchanging)
    return asdict(setting) | {
        "completions_per_gpu": setting.completions / count,
        "step": round(max(took) + trained, 1),
        "generate": round(max(took), 1),
        "train": round(trained, 1),
        "exchange": round(exchanging, 1),
        "generation_used": round(sum(drawn) / (full * len(engines) * max(took)), 3),
        "training_used": round(sum(computing) / count / trained, 3),
        "tokens_per_second_and_gpu": round(sum(drawn) / count / (max(took) + trained)),
    }


def trainer(model: str, count: int, row: int) -> float:
    """Tokens per second of a trainer alone, on H100, with rows of one length."""
    device, shape = gpus.find("h100"), shapes.find(model)
    return row / cost.training(shape, cost.forward(shape, row, row / 2) * PASSES, device, count)


def main() -> None:
    """Prints the simulated steps, and figures of others next to those of the simulation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    others = [simulated(setting, seed) | {"published": seconds, "by": by} for setting, seconds, by in OTHERS]
    trainers = [
        {"model": model, "gpus": count, "row": row, "simulated": round(trainer(model, count, row)), "published": rate}
        for model, count, row, rate in TRAINERS
    ]
    steps = [simulated(setting, seed) for setting in SETTINGS]
    print(json.dumps({"steps": steps, "others": others, "trainers": trainers}, indent=2))


if __name__ == "__main__":
    main()
