"""What determines the memory of a training stage: precision, adapters, sharding, and the rows of a micro-batch."""

from dataclasses import dataclass

from r1lab.plan.shapes import Shape


@dataclass(frozen=True)
class Precision:
    """Bytes per number of the weights in memory, and of computed values. Autocast keeps cast weights."""

    weights: int
    compute: int

    @property
    def norm(self) -> tuple[int, int, int]:
        """Bytes per number of a norm's input, which is kept in float32, its normalized input, and its output."""
        return 4, self.weights, self.compute


@dataclass(frozen=True)
class Adapters:
    """Adapters: their parameters, their rank, the number of layers that have them, and the bits of the base."""

    parameters: int
    rank: int
    layers: int
    quantize: str | None = None
    merge: bool = True


@dataclass(frozen=True)
class Sharding:
    """The number of training devices, and ZeRO's stage, which says what is sharded (0: nothing; FSDP2 is stage 3)."""

    devices: int = 1
    stage: int = 0
    fsdp: bool = False

    def of(self, size: float, stage: int) -> int:
        """Bytes per device of something that is sharded from `stage` on."""
        return int(size / self.devices if self.stage >= stage else size)


@dataclass(frozen=True)
class Layout:
    """A micro-batch as the model sees it.

    Attributes:
        rows, tokens: Sequences, and positions in all layers except attention.
        keys: Positions of keys and values in attention; more than `tokens` if completions share a prompt's.
        scores: Products of queries and keys of one head.
        scored: Positions whose logits are computed.
        masked: Whether attention gets a mask, because rows are padded, or packed without a variable-length kernel.
        packed: Whether these are r1lab's packed rows rather than TRL's padded ones.
    """

    rows: int
    tokens: int
    keys: int
    scores: int
    scored: int
    masked: bool
    packed: bool = False


def padded(rows: int, length: int, *, masked: bool) -> Layout:
    """Rows that are padded to `length` tokens."""
    return Layout(rows, rows * length, rows * length, rows * length**2, rows * length, masked)


def packed(
    rows: int, group: int, prompt: int, completion: int, *, shared: bool, masked: bool, replies: int = 0
) -> Layout:
    """Groups of completions after their prompts in one row (arXiv:2506.05433); the last token predicts nothing.

    Args:
        replies: Tokens in a completion that an environment puts in, whose logits are not computed.
    """
    prompts = -(-rows // group) if shared else rows
    written = completion + replies - 1
    return Layout(
        rows,
        tokens=prompts * prompt + rows * written,
        keys=prompts * prompt + rows * (prompt + written),
        scores=prompts * prompt**2 + rows * written * (prompt + written),
        scored=rows * completion,
        masked=masked,
        packed=True,
    )


@dataclass(frozen=True)
class Training:
    """The properties of a training stage that determine its memory.

    Attributes:
        states: Bytes of optimizer state per trained parameter; None means Adam's two in the weights' precision.
        reference: Whether there is a second, frozen model.
        teacher: Bytes of a teacher, which is frozen and has a shape of its own; 0 without one.
        accumulates: Whether gradients of an earlier backward pass exist during a pass.
        mixed: Whether DeepSpeed or FSDP2 keeps float32 weights, and computes with a copy in half precision.
        dtype: Bytes per weight of frozen and saved models; None if they have the precision of the trained weights.
        fused: Whether Triton computes TRL's head, as on a GPU.
        chunked: Whether r1lab's head computes its logits in chunks.
        heap: Whether glibc manages the memory, which keeps freed blocks of less than 32 MiB.
    """

    shape: Shape
    precision: Precision
    layout: Layout
    lora: Adapters | None = None
    sharding: Sharding = Sharding()
    states: float | None = None
    reference: bool = False
    teacher: int = 0
    checkpointing: bool = False
    accumulates: bool = False
    mixed: bool = False
    dtype: int | None = None
    fused: bool = False
    chunked: bool = True
    heap: bool = False

    @property
    def trained(self) -> int:
        """The number of trained parameters."""
        return self.lora.parameters if self.lora else self.shape.parameters

    @property
    def trained_bytes(self) -> int:
        """Bytes per trained parameter: peft keeps adapters in float32, TRL those of a quantized base in bfloat16."""
        if self.lora:
            return 2 if self.lora.quantize else 4
        if self.mixed:
            return 4 if self.sharding.fsdp else self.precision.compute
        return self.precision.weights

    @property
    def frozen_bytes(self) -> int:
        """Bytes per parameter of a model that is not trained."""
        return self.dtype or self.precision.weights

    @property
    def trains_head(self) -> bool:
        return self.lora is None
