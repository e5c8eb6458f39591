"""The rollouts of a grpo stage: the memory of its engine, and the time of an update with servers or without."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from r1lab.plan import cost, generating, memory, shapes
from r1lab.plan.generating import completion_limit
from r1lab.plan.gpus import Device
from r1lab.plan.lengths import Lengths, mean_written
from r1lab.plan.memory import Memory
from r1lab.plan.training import Training
from r1lab.recipe.batch import Batch
from r1lab.recipe.schema import GrpoRecipe
from r1lab.recipe.sections import Asynchronous

WAKING = 1.0
"""Assumed seconds in which vLLM frees its memory after a rollout and takes it again, with vllm_enable_sleep_mode."""


@dataclass(frozen=True)
class Tail:
    """The end of a rollout, in which vLLM on a CPU has half of the cores and training the others.

    Attributes:
        steps: Of vLLM.
        step: Seconds of vLLM's overhead in a step, which one core executes.
        reading: Seconds in which all cores read the weights for a step.
    """

    steps: float
    step: float
    reading: float


@dataclass(frozen=True)
class Rollouts:
    """How a stage generates.

    Attributes:
        phases: Memory at each moment, with that of its engine.
        short: What the engine lacks; empty if nothing.
        generate: Seconds in which all engines together generate a number of rollouts.
        each: Rollouts per update.
        sync, reading: Seconds of each rollout: see `seconds`.
        asynchronous: The section `rollout.async`, if servers generate.
        tail: What `train.overlap` uses of each rollout.
    """

    phases: dict[str, Memory]
    short: str
    generate: Callable[[int], float]
    each: float
    sync: float = 0.0
    reading: float = 0.0
    asynchronous: Asynchronous | None = None
    tail: Tail | None = None

    def update_seconds(self, train: float) -> float:
        """Seconds of an update in which training takes `train` seconds, and of its part of a rollout."""
        if self.tail is not None:
            return self.each * overlapped(train / self.each, self.generate(1), self.tail)
        more = {"sync": self.sync, "reading": self.reading, "asynchronous": self.asynchronous}
        return self.each * seconds(train / self.each, self.generate, **more)


def seconds(
    train: float,
    generate: Callable[[int], float],
    *,
    sync: float = 0.0,
    reading: float = 0.0,
    asynchronous: Asynchronous | None = None,
) -> float:
    """Seconds of a rollout and of training on it; benchmarks/cluster_simulation.py compares them with a simulation.

    Of asynchronous training the slowest of three parts counts: the trainer; the servers, which generate
    `staleness` + 1 rollouts together, so that their longest completions overlap; and a rollout from its start to the
    end of its training, of which `staleness` + 1 overlap. Without `in_flight` the servers finish all completions
    before a sync, so that one rollout is generated while another one is trained on, with any staleness.

    Args:
        train: Seconds of training on a rollout.
        generate: Seconds in which the engines generate a number of rollouts together.
        sync: Seconds in which engines get new weights; nobody works meanwhile.
        reading: Seconds in which servers read again, after a sync, what their completions have so far.
        asynchronous: The section `rollout.async`; None for synchronous training.
    """
    if asynchronous is None or asynchronous.staleness == 0:
        return sync + generate(1) + train
    if not asynchronous.in_flight:
        return sync + max(train, generate(1))
    ahead = asynchronous.staleness + 1
    return sync + max(train, generate(ahead) / ahead + reading, (generate(1) + train) / ahead + reading)


def overlapped(train: float, generate: float, tail: Tail) -> float:
    """Seconds of a rollout and of training on it with `train.overlap`.

    Half of the cores read the weights in twice the time, and train at half the rate; the overhead of vLLM's steps is
    the same. So what there is to gain is half of the overhead.

    Args:
        train, generate: Seconds of each without the other.

    >>> overlapped(60, 40, Tail(steps=1000, step=0.005, reading=0.005))
    97.5
    """
    lasts = tail.steps * (tail.step + 2 * tail.reading)
    return generate + tail.steps * tail.reading + max(0.0, train - lasts / 2)


def tail(longest: int, mean: float, n: int, device: Device, weights: int) -> Tail:
    """The end of a rollout, from the first group of `n` completions that is finished.

    A group takes as long as its longest completion: H(n) = 1 + 1/2 + ... + 1/n times the mean, as if lengths were
    distributed exponentially.

    Args:
        longest, mean: Tokens of the longest completion and of all on average.
        weights: Their bytes.
    """
    first = mean * sum(1 / k for k in range(1, n + 1))
    return Tail(max(0.0, longest - first), device.step, weights / (device.bandwidth * cost.READING))


def plan(
    recipe: GrpoRecipe,
    device: Device,
    shape: shapes.Shape,
    work: Training,
    phases: dict[str, Memory],
    found: Lengths,
    update: Batch,
    size: int,
) -> Rollouts:
    """How a stage generates.

    Args:
        phases: Memory at each moment of training, without an engine.
        size: Bytes per number in `model.dtype`, which vLLM's copy of the weights has.
    """
    vllm = generating.uses_vllm(recipe.rollout)
    size = size if vllm else work.precision.weights
    length, count = found.prompt + found.replies + completion_limit(recipe), servers(recipe)
    made, n = update.rollout // (count or update.ranks), recipe.rollout.num_generations
    idle = replace(phases["update"], gradients=0, activations=0)
    of = {"n": n, "written": completion_limit(recipe), "size": size}
    each = update.rows / update.rollout
    if not vllm:
        adds = {"generate": memory.generating(shape, rows=made, length=length, size=size)}
        if recipe.eval and recipe.eval.every:
            limit, samples, _ = generating.sample_sizes(recipe.rollout, recipe.eval)
            adds["evaluate"], _ = generating.transformers(
                shape, size, prompt=found.prompt + found.replies, written=limit, n=samples
            )
        phases = phases | {phase: memory.plus(idle, parts) for phase, parts in adds.items()}
        one = generating.seconds(shape, device, recipe.rollout, found, rows=made, together=made, **of)
        return Rollouts(phases, "", lambda rollouts: rollouts * one, each)
    split = recipe.rollout.tensor_parallel if count else recipe.train.get("vllm_tensor_parallel_size") or 1
    share, short = generating.vllm(recipe.rollout, device, shape, size, length, split)
    asleep = bool(recipe.train.get("vllm_enable_sleep_mode")) and device.cuda
    phases = {phase: parts if asleep or count else memory.plus(parts, share) for phase, parts in phases.items()}
    phases["generate"] = share if count else memory.plus(idle, share)
    engine, cache = device, share.kv_cache
    if count:  # a server is one device to whom the rows of all ranks go
        engine = replace(device, flops=device.flops * split, bandwidth=device.bandwidth * split)
        cache *= split

    def generate(rollouts: int) -> float:
        return generating.seconds(shape, engine, recipe.rollout, found, rows=made * rollouts, cache=cache, **of)

    mean = mean_written(completion_limit(recipe))
    if not count:
        overlaps = recipe.train.get("overlap") and not device.cuda
        end = tail(completion_limit(recipe), mean, n, device, shape.parameters * size) if overlaps else None
        return Rollouts(phases, short, generate, each, sync=WAKING * asleep, tail=end)
    asynchronous = recipe.rollout.asynchronous
    places = min(cost.RUNNING, generating.at_once(cache, shape, size, int(found.mean + mean)))
    tokens = (found.mean / n + mean) * running(made, places, asynchronous, mean / completion_limit(recipe))
    reading = cost.forward(shape, tokens, found.mean + mean / 2) / (engine.flops * engine.generating)
    sync = cost.syncing(shape.parameters * size)
    return Rollouts(phases, short, generate, each, sync, reading, asynchronous)


def running(rows: float, places: int, asynchronous: Asynchronous | None, mean: float) -> float:
    """The completions that a server interrupts for a sync: as many as it runs at a time on average.

    Args:
        rows: Of a rollout.
        places: Completions that it can run at the same time.
        mean: Their mean length as a share of the longest, and so of the time of a rollout.
    """
    return min(places, rows * (asynchronous.staleness + 1) * mean) if asynchronous and asynchronous.staleness else 0.0


def servers(recipe: GrpoRecipe) -> int:
    """The servers that generate the rollouts; 0 if each rank generates its own."""
    if recipe.launch.generators:
        return recipe.launch.generators // recipe.rollout.tensor_parallel
    url = recipe.rollout.url
    return len([url] if isinstance(url, str) else url or [])
