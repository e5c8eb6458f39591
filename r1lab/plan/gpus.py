"""The devices of a plan: GPUs from the vendors' data sheets, or this machine."""

import re
from dataclasses import dataclass, replace

from r1lab import hardware
from r1lab.doctor import rates
from r1lab.errors import UserError
from r1lab.models.loading import cpu_emulates_bfloat16, cpu_features
from r1lab.plan import shapes
from r1lab.text import did_you_mean

GIB = 2**30
FLOPS_PER_CYCLE = {True: 64, False: 32}
"""FLOPs per cycle of an x86 core in float32: two fused multiply-adds of 16 lanes with AVX512, of 8 with AVX2."""

CLOCK, CORE_BANDWIDTH = 2.5e9, 10e9
"""Assumed cycles per second of a core, and bytes per second that it reads: a virtual machine rarely knows them."""

NETWORK = 50e9
"""Assumed bytes per second of each GPU to other machines: InfiniBand with 400 Gbit/s per GPU, as in a DGX H100."""

PCIE = 32e9
"""Bytes per second of PCIe 4.0 with 16 lanes, over which GPUs without NVLink exchange data."""


@dataclass(frozen=True)
class Device:
    """One device.

    Attributes:
        memory: Bytes.
        flops: Dense peak FLOPs per second in bfloat16 (float16 if it has no bfloat16, float32 on a CPU).
        bandwidth: Memory bandwidth in bytes per second.
        bfloat16: Whether it computes in bfloat16 rather than only emulating it.
        link: Bytes per second to the other devices of a machine, in each direction.
        step: Seconds of a decoding step of vLLM apart from reading and computing: scheduling, sampling, launches.
        layer_step: The same of transformers' `generate` for each layer, which Python runs one after another.
        start: Seconds until a process has imported torch, transformers and TRL.
        engine_start: Seconds until vLLM generates.
        training, generating: The shares of `flops` that training and generation reach.
        source: Where the rates are from.
    """

    name: str
    memory: int
    flops: float
    bandwidth: float
    cuda: bool = True
    bfloat16: bool = True
    link: float = PCIE
    step: float = 2e-3
    layer_step: float = 1e-3
    start: float = 20
    engine_start: float = 60
    training: float = 0.35
    generating: float = 0.35
    source: str = "are those of the vendor's data sheet"


def _gpu(
    name: str, gib: float, teraflops: float, gigabytes: float, *, bfloat16: bool = True, link: float = PCIE / 1e9
) -> Device:
    return Device(name, int(gib * GIB), teraflops * 1e12, gigabytes * 1e9, bfloat16=bfloat16, link=link * 1e9)


# From the vendors' data sheets: memory, dense tensor peak with float32 accumulation, bandwidth in GB/s, and that of
# NVLink in one direction. GDDR6 with error correction, as on data center cards, has a sixteenth less memory than the
# data sheet says: 22.5 of 24.
GPUS = {
    "t4": _gpu("T4", 15, 65, 320, bfloat16=False),
    "v100": _gpu("V100 32 GB", 32, 125, 900, bfloat16=False, link=150),
    "l4": _gpu("L4", 22.5, 121, 300),
    "a10": _gpu("A10", 22.5, 125, 600),
    "rtx3090": _gpu("RTX 3090", 24, 71, 936),
    "rtx4090": _gpu("RTX 4090", 24, 165.2, 1008),
    "rtx5090": _gpu("RTX 5090", 32, 209.5, 1792),
    "a6000": _gpu("RTX A6000", 48, 154.8, 768),
    "a40": _gpu("A40", 45, 149.7, 696),
    "l40s": _gpu("L40S", 45, 362, 864),
    "a100-40": _gpu("A100 40 GB", 40, 312, 1555, link=300),
    "a100": _gpu("A100 80 GB", 80, 312, 2039, link=300),
    "h100": _gpu("H100 SXM", 80, 989, 3350, link=450),
    "h200": _gpu("H200", 141, 989, 4800, link=450),
    "b200": _gpu("B200", 180, 2250, 8000, link=900),
}


def find(name: str) -> Device:
    """The GPU with a name.

    Raises:
        UserError: The table has no such GPU.

    >>> find("RTX 4090").memory // GIB
    24
    """
    key = re.sub(r"^(nvidia|geforce)+|[\s_]|gb$", "", name.lower())
    for known in (key, key.replace("-", ""), f"rtx{key}", key.removeprefix("rtx"), key.removesuffix("-80")):
        if known in GPUS:
            return GPUS[known]
    available = f"; available: {', '.join(GPUS)}; or name the most similar one and set your card's --memory"
    raise UserError(f"--gpu {name}: no such GPU in the table{did_you_mean(key, list(GPUS))}{available}")


def here() -> Device:
    """This machine's CUDA device, or its cores and memory."""
    import torch

    if torch.cuda.is_available():
        seen = torch.cuda.get_device_properties(0)
        words = seen.name.lower().replace("nvidia", "").replace("geforce", "").split()
        joined = "".join(words)
        known = [gpu for key, gpu in GPUS.items() if key.partition("-")[0] in joined]
        like = min(known, key=lambda gpu: abs(gpu.memory - seen.total_memory), default=GPUS["a100"])
        return replace(like, name=seen.name, memory=seen.total_memory)
    return cpu()


def cpu() -> Device:
    """This machine's cores and memory, within the limits of its control group; its measured rates if there are any."""
    device = cores(hardware.usable_cores(), hardware.memory().allowed, avx512="avx512f" in cpu_features())
    device = replace(device, bfloat16=not cpu_emulates_bfloat16())
    measured = rates.read()
    return with_rates(device, measured) if measured else device


def cores(count: int, memory: int, *, avx512: bool) -> Device:
    """Some x86 cores at assumed rates."""
    return Device(
        f"this machine's {count} CPU core{'s' * (count > 1)}",
        memory,
        flops=count * FLOPS_PER_CYCLE[avx512] * CLOCK,
        bandwidth=count * CORE_BANDWIDTH,
        cuda=False,
        link=count * CORE_BANDWIDTH,
        step=5e-3,
        layer_step=4e-3,
        start=8,
        engine_start=12,
        source="are assumed for x86 cores: `r1lab doctor --measure` measures them",
    )


def part(device: Device, processes: int) -> Device:
    """The share that each of several processes has of a machine's cores and memory."""
    return replace(
        device,
        memory=device.memory // processes,
        flops=device.flops / processes,
        bandwidth=device.bandwidth / processes,
        link=device.link / processes,
    )


def with_rates(device: Device, measured: rates.Rates) -> Device:
    """A CPU with its measured rates.

    The shares of its FLOPs that training and generation reach are those of the small model that was measured; larger
    models reach more.
    """
    shape = shapes.find(rates.MODEL)
    one = 2 * shape.active  # FLOPs of a token's matrix products in a forward pass
    computing = 1 / measured.generating - measured.step / rates.ROWS
    found = replace(
        device,
        flops=measured.float32,
        bandwidth=measured.copy,
        start=measured.importing,
        training=_share(3 * one * measured.training / measured.float32),
        generating=_share(one / (computing * measured.float32)) if computing > 0 else device.generating,
        source=f"were measured on {measured.time} by `r1lab doctor --measure`",
    )
    if measured.engine == "vllm":
        return replace(found, step=measured.step, engine_start=measured.start)
    return replace(found, layer_step=measured.step / shape.layers)


def _share(value: float) -> float:
    return min(0.9, max(0.05, value))


def parse_memory(text: str) -> int:
    """The bytes of a size such as `24GiB`; GB is read as GiB, as GPU vendors mean it.

    Raises:
        UserError: It is not a size.

    >>> parse_memory("24GiB") == parse_memory("24 gb") == 24 * GIB
    True
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt])i?b?", text.strip(), re.IGNORECASE)
    if not match or float(match[1]) == 0:
        raise UserError(f"--memory {text}: not a size: write it like 24GiB or 512MiB")
    return int(float(match[1]) * 2 ** (10 * (1 + "kmgt".index(match[2].lower()))))


def gib(size: float) -> str:
    """Bytes in GiB, rounded for reading.

    >>> gib(200 * 2**30), gib(1.5 * 2**30), gib(2**29), gib(2**22)
    ('200', '1.5', '0.50', '0.004')
    """
    value = size / GIB
    digits = 0 if value >= 100 else 1 if value >= 1 else 2 if value >= 0.01 else 3
    return f"{value:.{digits}f}"
