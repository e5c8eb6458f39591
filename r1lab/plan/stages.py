"""From a stage's recipe to its plan: its memory, its work, and its disk space."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

from r1lab.plan import cost, disk, generating, gpus, judging, memory, rollouts, shapes
from r1lab.plan.generating import completion_limit
from r1lab.plan.gpus import GIB, Device
from r1lab.plan.lengths import Lengths, mean_written, tasks
from r1lab.plan.memory import Memory
from r1lab.plan.training import Adapters, Layout, Precision, Sharding, Training, packed, padded
from r1lab.recipe import batch, launch, precision
from r1lab.recipe.batch import Batch
from r1lab.recipe.devices import Launch
from r1lab.recipe.schema import DistillRecipe, GrpoRecipe, StageRecipe, Trained, is_trained, setting
from r1lab.recipe.sections import Eval, EvalRollout, Lora, Rollout
from r1lab.recipe.training import GrpoTrain

PROCESS, VLLM = 0.53, 0.17
"""GiB of a stage's process on a CPU before it loads a model, and of vLLM's import, which TRL's GRPO trainer does with
any engine (measured: docs/plan.md)."""

CONTEXT, FRAGMENTS = 1.0, 0.05
"""Assumed for a GPU: GiB of CUDA's context and libraries, and the share that its allocator leaves unused."""

TEXT = 4.5
"""Bytes per token as text in host memory, where all rows of a stage are."""

_STATES = {"adamw_bnb_8bit": 2, "adamw_8bit": 2, "paged_adamw_8bit": 2, "lion_8bit": 1, "adamw_torch_8bit": 2,
           "adamw_torch_4bit": 1, "adafactor": 0, "sgd": 0, "lomo": 0, "adalomo": 0}  # fmt: skip
_DTYPES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class StagePlan:
    """The resources that a stage needs.

    Attributes:
        phases: Memory at each moment that may be the peak, in bytes on a device.
        budget: The memory of a device in bytes.
        tokens, flops, seconds: Of the whole stage on all devices; seconds are an estimate. None if the number of rows
            is unknown.
        disk: The maximum number of bytes on disk.
        short: Why it cannot work regardless of the peak, such as an engine without memory for one sequence.
        host: Bytes of host memory that the texts of its rows need while they are read.
        loading: Bytes of host memory that all ranks of a machine need while they load the model.
        completions, written: The completions that it generates, and their assumed mean length in tokens.
    """

    name: str
    stage: str
    phases: dict[str, Memory]
    budget: int
    steps: int | None
    tokens: float | None
    flops: float | None
    seconds: float | None
    disk: int
    assumed: tuple[str, ...] = ()
    short: str = ""
    host: int = 0
    loading: int = 0
    completions: float | None = None
    written: float = 0.0

    @property
    def moment(self) -> str:
        """The phase of the peak."""
        return max(self.phases, key=lambda phase: self.phases[phase].total)

    @property
    def peak(self) -> Memory:
        """Memory at the peak."""
        return self.phases[self.moment]

    @property
    def fits(self) -> bool:
        return self.peak.total <= self.budget and not self.short


def plan_stage(
    name: str,
    recipe: StageRecipe,
    *,
    device: Device,
    start: str,
    found: Lengths,
    judges: judging.Judges,
    teacher: str = "",
) -> StagePlan:
    """The plan of one stage.

    Args:
        recipe: Its `launch` has the number of training devices.
        start: The model that it starts from, with `@STAGE/model` resolved.
        found: Its rows; those longer than `train.max_length` are left out.
        judges: The models that its rewards load, from `judging.models`.
        teacher: The model that it learns from, with `@STAGE/model` resolved; empty without one.

    Raises:
        UserError: The shape of its model is not available.
    """
    assumed = (found.assumed,) if found.assumed else ()
    if not device.cuda:
        device = gpus.part(device, _launch(recipe).gpus)
    rollout: Rollout | None = getattr(recipe, "rollout", None)
    if is_trained(recipe):
        limit = recipe.train.get("max_length") or found.whole
        found = replace(found, whole=min(found.whole, limit), mean=min(found.mean, limit))
        made = _trains(name, recipe, device, _shape(recipe, start), found, _teacher(recipe, teacher))
    elif rollout and rollout.engine != "server":
        made = _generates(name, recipe, rollout, device, _shape(recipe, start), found)
    else:
        process = {"generate": _with_process(recipe, device, Memory())}
        return StagePlan(name, recipe.stage, process, device.memory, None, None, None, None, 0, assumed)
    if not device.bfloat16:
        assumed += (_without_bfloat16(recipe, device),)
    host = int((found.rows or 0) * found.mean * TEXT)
    models = Memory(rewards=judging.size(judges, device))
    phases = {
        phase: _with_process(recipe, device, memory.plus(parts, models), host) for phase, parts in made.phases.items()
    }
    completions = (made.completions or 0) / _launch(recipe).ranks
    judged = judging.seconds(judges, completions, found.mean + made.written, device)
    seconds = made.seconds and made.seconds + judged + device.start
    assumed += judging.unread(judges)
    if getattr(recipe, "train", {}).get("overlap"):
        assumed += (_overlap(recipe, device),)
    if seconds and generating.uses_vllm(rollout):
        seconds += device.engine_start
    if _launch(recipe).nodes > 1:
        assumed += (f"{gpus.NETWORK / 1e9:.0f} GB/s from each GPU to other machines",)
    if seconds is None:
        assumed += ("the number of rows is unknown: set data.size for steps, tokens and time",)
    return replace(made, phases=phases, seconds=seconds, assumed=assumed, host=host)


def _launch(recipe: StageRecipe) -> Launch:
    return getattr(recipe, "launch", None) or Launch()


def _shape(recipe: StageRecipe, start: str) -> shapes.Shape:
    model = recipe.model
    return shapes.find(start, revision=model.revision, trust_remote_code=model.trust_remote_code)


def _teacher(recipe: StageRecipe, path: str) -> shapes.Shape | None:
    if not path or not isinstance(recipe, DistillRecipe) or recipe.teacher.url:
        return None
    given = {"revision": recipe.teacher.revision, "trust_remote_code": recipe.teacher.trust_remote_code}
    return shapes.find(path, **given, key="teacher.path")


def _teacher_size(recipe: Trained, shape: shapes.Shape, lora: Adapters | None, size: int) -> int:
    """Bytes of a teacher: of its adapter alone if it shares the student's base, which is counted with the student."""
    if not (lora and isinstance(recipe, DistillRecipe) and recipe.teacher.share_base):
        return shape.parameters * size
    weights = Path(recipe.teacher.path, "adapter_model.safetensors")  # one yet to be trained is like the student's
    return weights.stat().st_size if weights.is_file() else lora.parameters * 4


def _without_bfloat16(recipe: StageRecipe, device: Device) -> str:
    """The consequence for a stage of a device that does not compute in bfloat16."""
    if recipe.model.dtype == "bfloat16" or getattr(recipe, "train", {}).get("bf16"):
        instead = f"model.dtype: {'float16' if device.cuda else 'auto'}"
        return f"bfloat16 is only emulated on {device.name}, many times slower than planned: set {instead}"
    return f"model.dtype auto is float32, because bfloat16 is only emulated on {device.name}"


def _overlap(recipe: StageRecipe, device: Device) -> str:
    """What `train.overlap` does on a device."""
    if device.cuda or not generating.uses_vllm(getattr(recipe, "rollout", None)):
        return f"train.overlap has no effect {'on a GPU' if device.cuda else 'without vLLM'}, and is not counted"
    return "train.overlap gains half of the overhead of vLLM's steps after the first finished group"


def _with_process(recipe: StageRecipe, device: Device, parts: Memory, host: int = 0) -> Memory:
    """Memory including that of the process itself, on a CPU with the texts of its rows."""
    if device.cuda:
        return replace(parts, overhead=int(CONTEXT * GIB + FRAGMENTS * (parts.activations + parts.logits)))
    process = PROCESS + (VLLM if recipe.on_policy or generating.uses_vllm(getattr(recipe, "rollout", None)) else 0)
    return replace(parts, overhead=parts.overhead + int(process * GIB) + host)


def _dtype(recipe: StageRecipe, device: Device) -> str:
    """`model.dtype`, with what `auto` means on a device."""
    auto = "bfloat16" if device.cuda and device.bfloat16 else "float32"
    return auto if recipe.model.dtype == "auto" else recipe.model.dtype


def _size(recipe: StageRecipe, device: Device) -> int:
    """Bytes per weight of a model that is not trained."""
    return _DTYPES[_dtype(recipe, device)]


def _trains(
    name: str,
    recipe: Trained,
    device: Device,
    shape: shapes.Shape,
    found: Lengths,
    teacher: shapes.Shape | None = None,
) -> StagePlan:
    """The plan of a stage that trains, and in GRPO also generates."""
    lora, update = _lora(recipe, shape), batch.of(recipe)
    sharding, mixed = _sharding(recipe, update.ranks, gpu=device.cuda)
    dtype, size = _dtype(recipe, device), _size(recipe, device)
    held, computed = _DTYPES[precision.weights(recipe, dtype)], precision.computed(recipe, dtype)
    # FSDP2 and DeepSpeed compute with a copy of the weights in half precision, autocast with a cast of each.
    whole = size if mixed or sharding.fsdp else held
    numbers = Precision(whole, _DTYPES[computed] if computed else whole)
    checkpointing = recipe.train.get("gradient_checkpointing", device.cuda)
    layout, split = _layout(recipe, device, numbers, found, update)
    work = Training(
        shape=shape,
        precision=numbers,
        layout=layout,
        lora=lora,
        sharding=sharding,
        states=_STATES.get(str(setting(recipe, "optim"))),
        reference=recipe.stage == "dpo" or (recipe.on_policy and setting(recipe, "beta") > 0),
        teacher=_teacher_size(recipe, teacher, lora, size) if teacher else 0,
        checkpointing=checkpointing,
        accumulates=update.accumulation > 1 or split,
        mixed=mixed,
        dtype=size,
        fused=device.cuda,
        heap=not device.cuda,
        chunked=bool(recipe.train.get("chunk_logps", True)),
    )
    phases = memory.phases(work)
    steps = _steps(recipe, found, update.rows)
    passes = (4 if checkpointing else 3) + (1 if work.reference else 0)
    short, made, mean, completions = "", None, 0.0, None
    if isinstance(recipe, GrpoRecipe):
        mean, completions = mean_written(completion_limit(recipe)), steps and steps * update.rows
        read = mean + found.mean_replies
        each = found.mean / recipe.rollout.num_generations + read
        flops = cost.forward(shape, update.rows * each, (found.mean + read) / 2) * passes
        if teacher:
            flops += cost.forward(teacher, update.rows * each, (found.mean + read) / 2)
        size = _size(recipe, device)
        made = rollouts.plan(recipe, device, shape, work, phases, found, update, size)
        phases, short = made.phases, made.short
        generated = cost.forward(shape, update.rows * read, found.mean + read / 2)
    else:
        each, generated = found.mean * (2 if "rejected" in recipe.learns else 1), 0.0
        if setting(recipe, "packing"):
            each = found.whole
        flops = cost.forward(shape, update.rows * each, found.mean / 2) * passes
    micro_batches = max(1.0, update.rows / update.ranks * each / layout.tokens)
    exchanged = cost.exchanged(work, micro_batches, synced=recipe.on_policy)
    moving = cost.exchanging(exchanged, device, nodes=recipe.launch.nodes)
    seconds = max(moving, cost.training(shape, flops, device, update.ranks))
    if made:
        seconds = made.update_seconds(seconds)
    return StagePlan(
        name,
        recipe.stage,
        phases,
        device.memory,
        steps,
        steps and steps * update.rows * each,
        steps and steps * (flops + generated),
        steps and steps * seconds,
        disk.checkpoints(recipe, shape, work, steps) + disk.tokens(recipe, found),
        short=short,
        loading=memory.loading(work, recipe.launch.gpus, held),
        completions=completions,
        written=mean,
    )


def _layout(
    recipe: Trained, device: Device, precision: Precision, found: Lengths, update: Batch
) -> tuple[Layout, bool]:
    """The largest micro-batch, and whether the rows of an update need more than one."""
    if isinstance(recipe, GrpoRecipe):
        return _grpo_layout(recipe, device, precision, found, update)
    if "rejected" in recipe.learns:
        layout = padded(2 * update.size, found.whole, masked=True)
        return (replace(layout, scored=0) if recipe.stage == "reward" else layout), False
    whole = setting(recipe, "max_length") or found.whole if recipe.train.get("packing") else found.whole
    return padded(update.size, whole, masked=not found.equal), False


def _grpo_layout(
    recipe: GrpoRecipe, device: Device, precision: Precision, found: Lengths, update: Batch
) -> tuple[Layout, bool]:
    """The same for a GRPO stage, which packs rows up to a budget of tokens."""
    own = GrpoTrain(**{key: value for key, value in recipe.train.items() if key in GrpoTrain.model_fields})
    group, most_written = recipe.rollout.num_generations, completion_limit(recipe)
    written = most_written + found.replies
    longest = found.prompt + written
    budget = own.max_tokens_per_microbatch or update.size * longest
    most = update.size * math.gcd(update.generation, update.accumulation)
    if not own.pack:
        rows = min(most, max(1, budget // longest))
        return padded(rows, longest, masked=True), rows < most
    rows = 1
    while rows < most and -(-(rows + 1) // group) * found.prompt + (rows + 1) * written <= budget:
        rows += 1
    masked = not (device.cuda and precision.compute == 2)
    shared = {"shared": own.share_prompts, "masked": masked, "replies": found.replies}
    return packed(rows, group, found.prompt, most_written, **shared), rows < most


def _lora(recipe: Trained, shape: shapes.Shape) -> Adapters | None:
    lora: Lora | None = getattr(recipe.model, "lora", None)
    if lora is None:
        return None
    wanted = [lora.target_modules] if isinstance(lora.target_modules, str) else lora.target_modules
    chosen = [layer for layer in shape.linears if wanted == ["all-linear"] or layer[0] in wanted]
    parameters = lora.r * sum(inputs + outputs for _, inputs, outputs in chosen)
    return Adapters(parameters, lora.r, len(chosen), lora.quantize, lora.merge)


def _sharding(recipe: Trained, devices: int, *, gpu: bool) -> tuple[Sharding, bool]:
    """How training is sharded, and whether DeepSpeed or FSDP2 computes with a copy of float32 weights."""
    deepspeed = recipe.train.get("deepspeed")
    if recipe.train.get("fsdp") or launch.of(recipe, gpu=gpu) == "fsdp2":
        return Sharding(devices, 3, fsdp=True), precision.has_masters(recipe)
    if isinstance(deepspeed, dict):
        return Sharding(devices, deepspeed.get("zero_optimization", {}).get("stage", 0)), True
    if isinstance(deepspeed, str):  # a file name such as zero2.json
        return Sharding(devices, 2 if "2" in deepspeed else 3), True
    return Sharding(devices), False


def _steps(recipe: Trained, found: Lengths, completions: int) -> int | None:
    limit = setting(recipe, "max_steps")
    if limit > 0:
        return limit
    if not found.rows:
        return None
    rows = found.rows * (recipe.rollout.num_generations if isinstance(recipe, GrpoRecipe) else 1)
    if recipe.train.get("packing"):
        rows = rows * found.mean / found.whole
    return max(1, math.ceil(setting(recipe, "num_train_epochs") * rows / completions))


def _generates(
    name: str, recipe: StageRecipe, rollout: Rollout, device: Device, shape: shapes.Shape, found: Lengths
) -> StagePlan:
    """The plan of a stage that generates and trains nothing."""
    size, questions = _size(recipe, device), found.rows
    evaluation: Eval | None = getattr(recipe, "eval", None)
    limit, n, greedy = generating.sample_sizes(rollout, evaluation)
    length, rows = found.prompt + found.replies + limit, (questions or 1) * (n + greedy)
    if evaluation:
        rows = sum(asked * (sampled + greedy) for asked, sampled in tasks(evaluation))
    of_device = rows / _launch(recipe).ranks
    short, together = "", 0
    if generating.uses_vllm(rollout):
        split = rollout.tensor_parallel if isinstance(rollout, EvalRollout) else 1
        share, short = generating.vllm(rollout, device, shape, size, length, split)
    else:
        several = {"prompt": found.prompt + found.replies, "written": limit, "n": n, "rows": questions or 1}
        share, together = generating.transformers(shape, size, **several)
        share = memory.plus(share, Memory(weights=shape.parameters * size))
    each = {"rows": of_device, "n": n + greedy, "written": limit, "size": size}
    seconds = generating.seconds(shape, device, rollout, found, cache=share.kv_cache, together=together, **each)
    mean = mean_written(limit)
    read = mean + found.mean_replies
    flops = cost.forward(shape, rows * read, found.mean + read / 2)
    flops += cost.forward(shape, (questions or 1) * found.mean, found.mean / 2)
    return StagePlan(
        name,
        recipe.stage,
        {"generate": share},
        device.memory,
        None,
        questions and rows * mean,
        questions and flops,
        questions and seconds,
        0,
        short=short,
        completions=questions and rows,
        written=mean,
    )
