"""Steps on 8, 64 and 1,024 GPUs, simulated: `python -m benchmarks.cluster_simulation`, which takes minutes.

Nothing is run: the simulation draws the lengths of completions from a distribution, generates with the rates of
`r1lab plan`, and trains until the GPU with the most tokens is done. Synchronous steps generate on all GPUs and then
train on all of them; asynchronous ones divide the GPUs into servers and a trainer (`benchmarks.simulated_cluster`).
It prints the tables of docs/results/cluster-simulation.md.
"""

import argparse
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from benchmarks.simulated_cluster import Cluster, Engine, Updates, asynchronous
from r1lab.plan import cost, gpus, rollouts, shapes
from r1lab.plan.gpus import GIB, Device
from r1lab.plan.memory import kv_bytes
from r1lab.plan.shapes import Shape
from r1lab.recipe.sections import Asynchronous

PROMPT, GROUP = 512, 16
COLOCATED, ALONE, ENGINE = 0.5, 0.9, 1.0
"""vLLM's share of a GPU that also trains, and of one that only generates; the GiB of it that are neither weights nor
cache."""

PASSES = 4
"""Forward passes that training costs, with gradient checkpointing."""

MICRO_BATCH = 32_768
"""Tokens of a micro-batch on a GPU."""

SPREAD = 0.8
"""The standard deviation of the logarithm of lengths."""

GRADE = 0.005
"""Seconds in which the trainer grades a group."""

STALENESS = (0, 1, 2, 4, 8)
SHARES = 16
"""The parts into which the GPUs are divided to find the best number that generate."""

OTHER_GPUS = {
    "h20": replace(gpus.find("h200"), name="H20", memory=96 * GIB, flops=148e12, bandwidth=4000e9, link=450e9)
}
"""GPUs of published figures that `r1lab plan` does not know."""


@dataclass(frozen=True)
class Setting:
    """A step: how many completions of which lengths, on which machines."""

    model: str
    gpu: str
    gpus: int
    completions: int
    mean: float
    longest: int

    @property
    def device(self) -> Device:
        """One of its GPUs."""
        return OTHER_GPUS.get(self.gpu) or gpus.find(self.gpu)


SETTINGS = [Setting("Qwen/Qwen2.5-7B", "h100", count, 8192, 0.3 * 16_384, 16_384) for count in (8, 64, 1024)]
SETTINGS += [Setting("Qwen/Qwen2.5-7B", "h100", count, 64 * count, 0.3 * 16_384, 16_384) for count in (8, 64, 1024)]

AREAL_SMALL = Setting("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", "h100", 128, 8192, 8000, 27_648)
AREAL = Setting("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "h100", 192, 8192, 8000, 27_648)
NEMO = Setting("Qwen/Qwen3-30B-A3B", "h100", 32, 2048, 0.75 * 4096, 4096)
VERL = Setting("Qwen/Qwen2.5-Math-7B", "h20", 128, 8192, 1800, 28_672)
VERL_ONE = Setting("Qwen/Qwen2.5-Math-7B", "h20", 16, 8192, 0.3 * 8192, 8192)
OTHERS = [
    # the setting, the seconds of a step that were published, and where; batches and lengths are assumed
    (AREAL_SMALL, 147.6, "AReaL v0.3, 16 nodes"),
    (AREAL, 207.7, "AReaL v0.3, 24 nodes"),
    (NEMO, 192.0, "NeMo-RL v0.6, on-policy"),
]
GAINS = [
    # the setting, staleness, whether completions are interrupted, the share that generates (None: the best), what was
    # published as the ratio of the synchronous time to the asynchronous one, and by whom
    (VERL, 4, True, 1 / 2, "2.35 to 2.67", "verl fully async, 64 + 64 H20"),
    (AREAL_SMALL, 4, True, None, "2.77 (41.0 to 14.8 h)", "AReaL v0.3, 16 nodes"),
    (AREAL, 4, True, None, "2.27 (57.7 to 25.4 h)", "AReaL v0.3, 24 nodes"),
    (VERL_ONE, 1, False, 1 / 4, "1.23 to 1.40", "verl one-step-off, 4 + 12 H20"),
    (NEMO, 1, False, None, "1.26 (192 to 152 s)", "NeMo-RL v0.6, 1-step off-policy, 32 H100"),
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


def engine(setting: Setting, share: float, mean: float) -> tuple[int, Device, list[float]]:
    """The GPUs of an engine, which it is as one device, and the seconds of a step with each number of completions.

    Args:
        share: vLLM's share of a GPU.
        mean: The mean length of completions in tokens.
    """
    device, shape = setting.device, shapes.find(setting.model)
    tensor = max(1, 2 ** math.ceil(math.log2(shape.parameters * 2 / (0.3 * device.memory))))
    cache = (device.memory * share - ENGINE * GIB) * tensor - shape.parameters * 2
    places = min(cost.RUNNING, max(1, int(cache / ((PROMPT + mean) * kv_bytes(shape, 2, latent=True)))))
    whole = replace(device, flops=device.flops * tensor, bandwidth=device.bandwidth * tensor)
    return tensor, whole, [step_seconds(shape, whole, rows, PROMPT + mean / 2) for rows in range(places + 1)]


def generating(steps: Sequence[float], mine: Iterable[int]) -> float:
    """Seconds of an engine that starts the next row whenever one ends."""
    one = Engine(steps)
    for tokens in mine:
        one.submit(tokens, 0)
    while one.running:
        one.finish()
    return one.now


def training(setting: Setting, ranks: int, dealt: Sequence[Sequence[int]], mean: float) -> tuple[list[float], float]:
    """Seconds in which each rank computes on its completions, and of the exchange between ranks."""
    device, shape = setting.device, shapes.find(setting.model)

    def one(rows: Sequence[int]) -> float:
        tokens = sum(rows) + PROMPT * len(rows) / GROUP
        return cost.training(shape, cost.forward(shape, tokens, (PROMPT + mean) / 2) * PASSES, device, 1)

    micro_batches = max(1.0, max(map(sum, dealt)) / MICRO_BATCH)
    sent = (micro_batches * (2 * 2 + 4) + 2) * shape.parameters * (ranks - 1) / ranks
    return [one(rows) for rows in dealt], cost.exchanging(sent, device, nodes=-(-ranks // 8))


def simulated(setting: Setting, seed: int = 0) -> dict:
    """Seconds of a synchronous step on all GPUs and of its parts, and the shares of both that are useful."""
    count, drawn = setting.gpus, lengths(setting, seed)
    mean = sum(drawn) / len(drawn)
    tensor, _, steps = engine(setting, COLOCATED, mean)
    engines = [drawn[first :: count // tensor] for first in range(count // tensor)]
    took = [generating(steps, rows) for rows in engines]
    full = (len(steps) - 1) / steps[-1]  # tokens per second with no place empty
    computing, exchanging = training(setting, count, [drawn[rank::count] for rank in range(count)], mean)
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


def cluster(setting: Setting, generators: int, mean: float) -> Cluster:
    """The setting with `generators` of its GPUs in servers, and the others in a trainer."""
    tensor, whole, steps = engine(setting, ALONE, mean)
    shape, ranks = shapes.find(setting.model), setting.gpus - generators

    def train(groups: Sequence[Sequence[int]]) -> float:
        rows = [tokens for group in groups for tokens in group]
        computing, exchanging = training(setting, ranks, [rows[rank::ranks] for rank in range(ranks)], mean)
        return max(max(computing), exchanging)

    reading = cost.forward(shape, 1, PROMPT + mean / 2) / (whole.flops * whole.generating)
    return Cluster(
        generators // tensor, steps, train, sync=cost.syncing(shape.parameters * 2), reading=reading, grade=GRADE
    )


def expected(setting: Setting, generators: int, staleness: int, *, in_flight: bool, seed: int = 0) -> float:
    """Seconds of an update by the formula of `r1lab plan` (`r1lab.plan.rollouts`)."""
    drawn = lengths(setting, seed)
    mean, simulates = sum(drawn) / len(drawn), Asynchronous(staleness=staleness, in_flight=in_flight)
    _, whole, steps = engine(setting, ALONE, mean)
    divided, places = cluster(setting, generators, mean), len(steps) - 1
    rows = setting.completions / divided.servers
    sizes = {"at_once": places, "prompt": PROMPT, "longest": setting.longest, "mean": mean, "size": 2}

    def generate(together: int) -> float:
        count = rows * together
        return cost.decoding(shapes.find(setting.model), whole, rows=count, prompts=count / GROUP, vllm=True, **sizes)

    tokens = (PROMPT / GROUP + mean) * rollouts.running(rows, places, simulates, mean / setting.longest)
    reading = tokens * divided.reading
    train = divided.train([drawn])
    return rollouts.seconds(train, generate, sync=divided.sync, reading=reading, asynchronous=simulates)


def layout(setting: Setting, generators: int, staleness: int, *, in_flight: bool = True, seed: int = 0) -> Updates:
    """An asynchronous training with `generators` of the GPUs in servers."""
    updates = (staleness + 1) * -(-3 // (staleness + 1))  # at least three; they come in turns of `staleness` + 1
    drawn = lengths(replace(setting, completions=setting.completions * (updates + 2 * staleness + 3)), seed)
    return asynchronous(
        cluster(setting, generators, sum(drawn) / len(drawn)),
        lambda number: drawn[number * GROUP : (number + 1) * GROUP],
        setting.completions // GROUP,
        staleness=staleness,
        in_flight=in_flight,
        updates=updates,
    )


def best(setting: Setting, staleness: int, *, in_flight: bool, seed: int = 0) -> int:
    """The number of GPUs that generate with which an update takes the least time, by the formula."""
    tensor, *_ = engine(setting, ALONE, setting.mean)
    counts = {max(1, round(setting.gpus * part / SHARES / tensor)) * tensor for part in range(1, SHARES)}
    options = {"in_flight": in_flight, "seed": seed}
    return min(sorted(n for n in counts if n < setting.gpus), key=lambda n: expected(setting, n, staleness, **options))


def trainer(model: str, count: int, row: int) -> float:
    """Tokens per second of a trainer alone, on H100, with rows of one length."""
    device, shape = gpus.find("h100"), shapes.find(model)
    return row / cost.training(shape, cost.forward(shape, row, row / 2) * PASSES, device, count)


def table(title: str, names: str, rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """A Markdown table, with its title above."""
    columns = names.split(" | ")
    yield from (f"\n{title}\n", f"| {names} |", "|---" * len(columns) + "|")
    for row in rows:
        yield f"| {' | '.join(map(str, row))} |"


def _step(setting: Setting, seed: int) -> list[str]:
    found = simulated(setting, seed)
    counts = [f"{setting.gpus:,}", f"{setting.completions:,}", f"{found['completions_per_gpu']:,.0f}"]
    times = [f"{found[key]:,.0f}" for key in ("step", "generate", "train", "exchange")]
    return counts + times + [f"{found[key]:.0%}" for key in ("generation_used", "training_used")]


def _layouts(setting: Setting, seed: int) -> Iterator[list[str]]:
    """Rows of the table of layouts: the synchronous step on all GPUs, then each staleness."""
    before = simulated(setting, seed)
    step = before["step"]
    shares = [f"{before[key] / step:.0%}" for key in ("train", "generate")]
    used = f"{before['generation_used'] * before['generate'] / step:.0%}"
    yield [f"{setting.gpus:,}", "all GPUs in turn", "", f"{step:,.0f}", "", "1.00", *shares, used, "", ""]
    for staleness in STALENESS:
        row: list[str] = []
        for in_flight in (True, False):
            chosen = best(setting, staleness, in_flight=in_flight, seed=seed)
            found = layout(setting, chosen, staleness, in_flight=in_flight, seed=seed)
            divided = f"{chosen:,} + {setting.gpus - chosen:,}"
            if in_flight:
                shares = [f"{value:.0%}" for value in (found.trains, found.generates, found.used)]
                planned = expected(setting, chosen, staleness, in_flight=True, seed=seed)
                times = [f"{found.seconds:,.0f}", f"{planned:,.0f}", f"{step / found.seconds:.2f}"]
                row = [f"{setting.gpus:,}", divided, str(staleness), *times, *shares]
            elif staleness:
                row += [divided, f"{step / found.seconds:.2f}"]
        yield [*row, "", ""][:11]


def _gain(
    setting: Setting, staleness: int, in_flight: bool, share: float | None, said: str, by: str, *, seed: int
) -> list[object]:
    step = simulated(setting, seed)["step"]
    chosen = round(setting.gpus * share) if share else best(setting, staleness, in_flight=in_flight, seed=seed)
    found = layout(setting, chosen, staleness, in_flight=in_flight, seed=seed)
    name, times = setting.model.partition("/")[2], (f"{step:,.0f}", f"{found.seconds:,.0f}")
    return [name, f"{chosen} + {setting.gpus - chosen}", staleness, *times, f"{step / found.seconds:.2f}", said, by]


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    names = "GPUs | completions | per GPU | s per step | generate | train | exchange | generation used | training used"
    lines = list(table("Synchronous steps", names, (_step(setting, seed) for setting in SETTINGS)))
    names = "GPUs | generate + train | staleness | s per update | by plan | times as fast | trains | generates | used"
    names += " | not in flight | times as fast"
    rows = (row for setting in SETTINGS[:3] for row in _layouts(setting, seed))
    lines += table("Asynchronous training", names, rows)
    names = "model | generate + train | staleness | s synchronous | s asynchronous | gain | published gain | by"
    lines += table("Gains of others", names, (_gain(*given, seed=seed) for given in GAINS))
    compared = [(setting, simulated(setting, seed)["step"], seconds, by) for setting, seconds, by in OTHERS]
    rows = (
        (s.model.partition("/")[2], s.gpus, f"{ours:.0f} s", f"{theirs:.0f} s", f"{ours / theirs:.2f}", by)
        for s, ours, theirs, by in compared
    )
    lines += table("Steps of others", "model | GPUs | simulated | published | ratio | source", rows)
    rates = [(model, count, row, trainer(model, count, row), theirs) for model, count, row, theirs in TRAINERS]
    rows = (
        (m.partition("/")[2], count, f"{row:,}", f"{ours:,.0f}", f"{theirs:,}", f"{ours / theirs:.2f}")
        for m, count, row, ours, theirs in rates
    )
    lines += table("Trainers of others", "model | GPUs | tokens of a row | simulated | published | ratio", rows)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
