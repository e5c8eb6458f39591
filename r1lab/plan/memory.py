"""The memory of a stage from first principles: bytes on one device, at each moment that may be the peak.

The formulas follow the code that runs: transformers' decoders under TRL's trainers and r1lab's GRPO step. Sources:
weights, gradients and optimizer ZeRO (arXiv:1910.02054, section 3.1) and its stages (section 5); activations
Korthikanti et al. (arXiv:2205.05198, section 4), adapted to the tensors that autograd keeps of a gated MLP and of
attention without scores; checkpointing their section 5; QLoRA arXiv:2305.14314, section 3. docs/plan.md derives each
line.
"""

from dataclasses import dataclass, fields, replace

from r1lab.plan.shapes import Shape
from r1lab.plan.training import Training

TRL_TOKENS, TRL_VOCABULARY = 4096, 32_768
"""The tile of logits that TRL's fused head computes at a time (trl/kernels/chunked_logprob.py, trainer/utils.py)."""

TRL_COPIES = 8.25
"""Buffers of a tile's size that exist together in its backward pass without Triton: the tile, y, z, log p, p, the
gradient, the one-hot vector as booleans and as numbers, and a product."""

HEAP_UNUSED = 0.35
"""The unused share of glibc's heap between blocks of many sizes; measured (docs/plan.md)."""

CHUNK_BYTES, CHUNK_COPIES, ONE_CHUNK_COPIES = 2**27, 4, 3
"""r1lab's head on a CPU (`r1lab.grpo.head`): the size of a chunk, and the number of buffers of that size with several
chunks (the buffers of one chunk still exist while the next is computed) and with a single chunk."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one device at one moment.

    `engine` is the generating engine without its key-value cache; `rewards` are the models that rewards load;
    `overhead` is the process itself.
    """

    weights: int = 0
    reference: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    logits: int = 0
    kv_cache: int = 0
    engine: int = 0
    rewards: int = 0
    overhead: int = 0

    @property
    def total(self) -> int:
        """The sum of all components."""
        return sum(getattr(self, field.name) for field in fields(self))


def phases(work: Training) -> dict[str, Memory]:
    """The memory at each moment of a step that may be the peak.

    `loss`: all activations, and the head's buffers. `backward`: all activations, and the gradients that flow through
    the last layer. `update`: all gradients, and that of the embedding before it is added to the head's. `save`: LoRA's
    merged weights in addition to the base.
    """
    shape, sharding = work.shape, work.sharding
    lasting = Memory(weights=weights(work), reference=reference(work), optimizer=optimizer(work))
    gathered = _gathered(work) if sharding.stage == 3 else 0
    whole, one = activations(work)
    grads = gradients(work)
    before = grads if work.accumulates else 0
    head = shape.head * 4 if work.trains_head else 0  # the head's gradient, in float32 before it is cast
    kept = retained(work, whole + logits(work))
    found = {
        "loss": replace(
            lasting,
            gradients=before + head,
            activations=whole + gathered,
            logits=logits(work),
            overhead=kept,
        ),
        "backward": replace(
            lasting,
            gradients=before + head,
            activations=whole + gathered + (one if work.checkpointing else 0) + flowing(work),
            overhead=kept,
        ),
        "update": replace(lasting, gradients=grads + (head if shape.tied else 0), activations=gathered),
    }
    if work.lora and work.lora.merge:
        merged = shape.linear_parameters * work.precision.weights
        if work.lora.quantize:
            merged = shape.parameters * work.precision.compute
        found["save"] = replace(lasting, activations=merged)
    return found


def weights(work: Training) -> int:
    """Bytes of the trained model, with its adapters."""
    return _base(work) + (work.lora.parameters * work.trained_bytes if work.lora else 0)


def _base(work: Training) -> int:
    shape, lora = work.shape, work.lora
    total = shape.parameters * (work.frozen_bytes if lora else work.trained_bytes)
    if lora and lora.quantize:
        # NF4 with double quantization: 4 bits and 0.127 of constants (arXiv:2305.14314, section 3). peft casts the
        # rest (embedding, head and norms) to float32.
        each = (4.127 if lora.quantize == "4bit" else 8.0) / 8
        total = shape.linear_parameters * each + (shape.parameters - shape.linear_parameters) * 4
    return work.sharding.of(total, 3)


def reference(work: Training) -> int:
    """Bytes of frozen models: the reference, which with LoRA is the base without its adapters, and a teacher."""
    own = work.shape.parameters * work.frozen_bytes if work.reference and not work.lora else 0
    return work.sharding.of(own + work.teacher, 3)


def gradients(work: Training) -> int:
    """Bytes of all gradients; distributed data parallel without sharding has a second copy in its buckets."""
    buckets = 2 if work.sharding.devices > 1 and not work.sharding.stage else 1
    return work.sharding.of(work.trained * work.trained_bytes * buckets, 2)


def optimizer(work: Training) -> int:
    """Bytes of the optimizer state; with DeepSpeed also the float32 master weights: 12 bytes for Adam."""
    each = 2 * work.trained_bytes if work.states is None else work.states
    if work.mixed and not work.sharding.fsdp:
        each = (8 if work.states is None else work.states) + 4
    return work.sharding.of(work.trained * each, 1)


def _gathered(work: Training) -> int:
    """Bytes of gathered weights in a sharded pass: the current and the next layer, and the larger of the two ends."""
    layer = (work.shape.parameters - work.shape.head * (1 if work.shape.tied else 2)) // work.shape.layers
    return (2 * layer + work.shape.head) * work.precision.compute


def loading(work: Training, ranks: int, size: int) -> int:
    """Bytes of host memory in which the ranks of a machine load the model; with FSDP2 only the first of them does.

    Args:
        size: Bytes per weight of the model that is trained, as it is loaded.
    """
    copies = 1 if work.sharding.fsdp else ranks
    frozen = work.frozen_bytes if work.reference and not work.lora else 0
    return copies * (work.shape.parameters * (size + frozen) + work.teacher)


def activations(work: Training) -> tuple[int, int]:
    """The bytes that autograd keeps of the whole forward pass, and of one layer.

    With checkpointing each layer keeps only its input (arXiv:2205.05198, section 5), and one layer at a time is
    recomputed.
    """
    shape, layout, compute = work.shape, work.layout, work.precision.compute
    one = layer(work)
    last = layout.tokens * shape.hidden * sum(work.precision.norm)
    casts = 2 * _matrices(shape) if work.precision.compute < work.precision.weights else 0
    once = int(last + casts)
    if layout.packed and layout.masked:
        once += layout.scores * (8 + compute)  # distances, 8 bytes each, and the mask that all layers share
    if work.checkpointing:
        return shape.layers * layout.tokens * shape.hidden * compute + once, one
    dense = shape.dense_layers * one
    return dense + (shape.layers - shape.dense_layers) * layer(work, experts=True) + once, one


def layer(work: Training, *, experts: bool = False) -> int:
    """The bytes that autograd keeps of one layer.

    Two norms (input in float32, normalized input, output); queries, keys, values and output of the attention with its
    softmax sums; and of a gated MLP the gate, its activation, the other branch and their product. Attention scores are
    not kept, except if queries and values differ in size on a CPU, which has no kernel for that.
    """
    shape, layout, compute = work.shape, work.layout, work.precision.compute
    before, normed, after = work.precision.norm
    if work.lora:
        normed = 0  # needed for the gradient of the norm's weight alone
    norms = 2 * shape.hidden * (before + normed + after)
    queries = shape.heads * (shape.key_dim + shape.value_dim * (2 if layout.packed and layout.masked else 1)) * compute
    sums = shape.heads * 4
    heads = shape.heads if layout.masked else shape.kv_heads  # with a mask, sdpa gets a copy for each query head
    keys = heads * (shape.key_dim + shape.value_dim) * compute
    if shape.qk_norm:
        queries += (shape.heads + shape.kv_heads) * shape.key_dim * (before + normed)
    if shape.latent:
        queries += 3 * shape.latent * compute
    mlp = 4 * shape.intermediate * compute
    if experts:
        chosen = shape.experts_per_token
        mlp = 4 * shape.expert_intermediate * (chosen + shape.shared_experts) + 2 * shape.hidden * chosen
        mlp *= compute
    adapters = work.lora.rank * work.lora.layers * compute // shape.layers if work.lora else 0
    kept = layout.tokens * (norms + queries + sums + mlp + adapters) + layout.keys * keys
    if layout.masked and not layout.packed:
        kept += layout.scores * compute  # the mask, created again in each layer
    if shape.key_dim != shape.value_dim and not work.fused:
        kept += shape.heads * layout.scores * compute
    return int(kept)


def flowing(work: Training) -> int:
    """Gradients of a layer's activations while its backward pass runs: the gated MLP's three, and the residual's."""
    shape = work.shape
    wide = max(shape.intermediate, shape.expert_intermediate * shape.experts_per_token)
    return int(work.layout.tokens * (3 * wide + 2 * shape.hidden) * work.precision.compute)


def logits(work: Training) -> int:
    """The head's buffers at the start of the backward pass; logits of all tokens never exist at once."""
    shape, scored = work.shape, work.layout.scored
    if work.layout.packed and (work.teacher or not work.fused):
        rows = CHUNK_BYTES // (4 * shape.vocabulary)
        product = (
            shape.head * 4 if work.trains_head else 0
        )  # a chunk's share of the head's gradient, before it is added
        models = 2 if work.teacher else 1
        if not work.chunked:
            return 5 * 4 * scored * shape.vocabulary * models + product
        one = CHUNK_COPIES * CHUNK_BYTES if scored > rows else ONE_CHUNK_COPIES * 4 * scored * shape.vocabulary
        return one * models + product
    tile = min(scored, TRL_TOKENS) * min(shape.vocabulary, TRL_VOCABULARY)
    return int(tile * (work.precision.compute if work.fused else TRL_COPIES * 4))


def retained(work: Training, reused: int) -> int:
    """Bytes of the last step's gradients that remain in memory on a CPU after they are freed, and of unused space.

    No freed memory returns to the system (`r1lab.stages.allocation`). Activations and logits come next and reuse
    `reused` bytes. A share of the heap stays unused between blocks of many sizes.
    """
    if not work.heap:
        return 0
    grads = 0 if work.accumulates else gradients(work)
    return int(max(0, grads - reused) + HEAP_UNUSED * max(grads, reused))


def kv_bytes(shape: Shape, size: int, *, latent: bool = False) -> int:
    """Bytes of a token's keys and values in all layers. For latent attention, vLLM caches the latents alone."""
    if latent and shape.latent:
        return shape.layers * shape.latent * size
    return shape.layers * shape.kv_heads * (shape.key_dim + shape.value_dim) * size


def generating(shape: Shape, *, rows: int, length: int, size: int) -> Memory:
    """The memory that transformers' `generate` adds: keys and values of all rows (twice for the layer that is being
    extended), and the float32 logits of the last token (raw, scaled, as probabilities, and as sampled from).
    """
    cache = rows * length * kv_bytes(shape, size)
    return Memory(kv_cache=cache + cache // shape.layers, logits=rows * shape.vocabulary * 4 * 4)


def _matrices(shape: Shape) -> int:
    """Parameters that multiply: all but the embedding, unless the head is the same matrix."""
    return shape.parameters - (0 if shape.tied else shape.head)


def plus(one: Memory, other: Memory) -> Memory:
    """The sum of two records."""
    return Memory(*(getattr(one, f.name) + getattr(other, f.name) for f in fields(Memory)))
