"""The schemas of the kinds of stages and of pipelines; those of their sections are in `sections` and `training`.

pydantic validates them; `r1lab.recipe.loading` loads them.
"""

# A kind of stage narrows `stage` and `model` of StageRecipe, which a type checker rejects for assignable attributes.
# pyright: reportIncompatibleVariableOverride=false

from importlib import metadata
from typing import Annotated, Any, ClassVar, Literal, TypeGuard

from pydantic import BeforeValidator, Field, PrivateAttr, SerializeAsAny, model_validator

from r1lab.errors import UserError
from r1lab.recipe import trl_fields
from r1lab.recipe.acting import Environment, ToolSpec
from r1lab.recipe.devices import GrpoLaunch, Launch, TrainLaunch
from r1lab.recipe.sections import (
    Data,
    Distill,
    Eval,
    EvalData,
    EvalRollout,
    GrpoEval,
    GrpoRollout,
    Keep,
    Model,
    Prompt,
    Reward,
    Rollout,
    SampleRollout,
    Section,
    Teacher,
    TrainedModel,
)
from r1lab.recipe.training import Alarms, Curriculum, GrpoTrain, Schedule, Train
from r1lab.recipe.yaml_source import Document, Keys


class StageRecipe(Section):
    """The fields that all stages have. `name` defaults to the name of the file.

    All facts about a kind of stage are attributes of its class.

    Attributes:
        module: The module whose `run(recipe, run_dir)` runs it.
        words: The name of the kind in prose.
        trl: The TRL config that validates `train`; empty for a kind that does not train.
        own: The keys of `train` that are r1lab's own.
        learns: The columns of a row that it trains on.
        generates: Whether it generates completions.
        on_policy: Whether it trains on the completions that it generates, as GRPO does.
        makes: The output that a later stage may refer to, as in `@STAGE/model`; empty for none.
    """

    module: ClassVar[str] = ""
    words: ClassVar[str] = ""
    trl: ClassVar[str] = ""
    own: ClassVar[type[Train]] = Train
    learns: ClassVar[tuple[str, ...]] = ()
    generates: ClassVar[bool] = False
    on_policy: ClassVar[bool] = False
    makes: ClassVar[str] = ""
    name: str = Field(min_length=1)
    stage: str
    seed: int = Field(default=0, ge=0)
    model: Model
    _document: Document = PrivateAttr(default_factory=lambda: Document({}))
    _keys: Keys = PrivateAttr(default=())


class SftRecipe(StageRecipe):
    """Supervised fine-tuning on rows with a `completion`."""

    module: ClassVar[str] = "r1lab.stages.sft"
    words: ClassVar[str] = "supervised fine-tuning"
    trl: ClassVar[str] = "SFTConfig"
    learns: ClassVar[tuple[str, ...]] = ("completion",)
    makes: ClassVar[str] = "model"
    stage: Literal["sft"]
    model: TrainedModel
    data: Data
    prompt: Prompt = Prompt()
    train: dict[str, Any] = {}
    launch: TrainLaunch = TrainLaunch()


class GrpoRecipe(StageRecipe):
    """Reinforcement learning by GRPO."""

    module: ClassVar[str] = "r1lab.stages.grpo"
    words: ClassVar[str] = "reinforcement learning (GRPO)"
    trl: ClassVar[str] = "GRPOConfig"
    own: ClassVar[type[Train]] = GrpoTrain
    generates: ClassVar[bool] = True
    on_policy: ClassVar[bool] = True
    makes: ClassVar[str] = "model"
    stage: Literal["grpo"]
    model: TrainedModel
    data: Data
    prompt: Prompt = Prompt()
    environment: Environment | None = None
    tools: list[ToolSpec] = []
    rewards: list[Reward] = Field(min_length=1)
    rollout: GrpoRollout = GrpoRollout()
    curriculum: Curriculum | None = None
    schedule: Schedule = Schedule()
    alarms: Alarms = Alarms()
    train: dict[str, Any] = {}
    eval: GrpoEval | None = None
    launch: GrpoLaunch = GrpoLaunch()

    @model_validator(mode="after")
    def _whole_gpus_for_servers(self) -> "GrpoRecipe":
        if self.launch.generators and "gpu_memory_utilization" not in self.rollout.model_fields_set:
            default = Rollout.model_fields["gpu_memory_utilization"].default
            self.rollout = self.rollout.model_copy(update={"gpu_memory_utilization": default})
        return self


class DistillRecipe(GrpoRecipe):
    """On-policy distillation: the student generates, and learns from a teacher at each of its own tokens.

    `rewards` are measured, and trained on with `distill.reward_weight`.
    """

    module: ClassVar[str] = "r1lab.stages.distill"
    words: ClassVar[str] = "on-policy distillation"
    stage: Literal["distill"]
    teacher: Teacher
    distill: Distill = Distill()


class SampleRecipe(StageRecipe):
    """Sampling completions for later training."""

    module: ClassVar[str] = "r1lab.stages.sample"
    words: ClassVar[str] = "sampling"
    generates: ClassVar[bool] = True
    makes: ClassVar[str] = "samples"
    stage: Literal["sample"]
    data: Data
    prompt: Prompt = Prompt()
    environment: Environment | None = None
    tools: list[ToolSpec] = []
    rewards: list[Reward] = []
    rollout: SampleRollout = SampleRollout()
    keep: Keep = Keep(deduplicate=False)
    launch: Launch = Launch()


class EvalRecipe(StageRecipe):
    """Evaluation of a model on `eval.tasks`, or on `data`; one of them is required."""

    module: ClassVar[str] = "r1lab.stages.eval"
    words: ClassVar[str] = "evaluation"
    generates: ClassVar[bool] = True
    stage: Literal["eval"]
    data: EvalData | None = None
    prompt: Prompt = Prompt()
    environment: Environment | None = None
    tools: list[ToolSpec] = []
    rewards: list[Reward] = Field(min_length=1)
    rollout: EvalRollout = EvalRollout()
    eval: Eval = Eval()
    launch: Launch = Launch()


class DpoRecipe(StageRecipe):
    """Direct preference optimization (arXiv:2305.18290) on rows with `chosen` and `rejected`."""

    module: ClassVar[str] = "r1lab.stages.dpo"
    words: ClassVar[str] = "direct preference optimization"
    trl: ClassVar[str] = "DPOConfig"
    learns: ClassVar[tuple[str, ...]] = ("chosen", "rejected")
    makes: ClassVar[str] = "model"
    stage: Literal["dpo"]
    model: TrainedModel
    data: Data
    prompt: Prompt = Prompt()
    train: dict[str, Any] = {}
    launch: TrainLaunch = TrainLaunch()


class RewardRecipe(StageRecipe):
    """Training of a reward model on rows with `chosen` and `rejected`, for the reward `reward_model`.

    `scope` is the part of a response that it scores: `summary`, what follows the thinking, or the whole response.
    """

    module: ClassVar[str] = "r1lab.stages.reward"
    words: ClassVar[str] = "training as a reward model"
    trl: ClassVar[str] = "RewardConfig"
    learns: ClassVar[tuple[str, ...]] = ("chosen", "rejected")
    makes: ClassVar[str] = "model"
    stage: Literal["reward"]
    data: Data
    scope: Literal["summary", "whole"] = "summary"
    train: dict[str, Any] = {}
    launch: TrainLaunch = TrainLaunch()


Trained = SftRecipe | GrpoRecipe | DpoRecipe | RewardRecipe
"""A stage that trains. A kind of another package that trains has the same sections."""

STAGES: dict[str, type[StageRecipe]] = {
    "sft": SftRecipe,
    "grpo": GrpoRecipe,
    "distill": DistillRecipe,
    "sample": SampleRecipe,
    "eval": EvalRecipe,
    "dpo": DpoRecipe,
    "reward": RewardRecipe,
}
"""The kinds of stages. Those of other packages are added by `find_kinds`."""


def find_kinds(data: dict) -> None:
    """Adds to `STAGES` the kinds that a recipe names and an installed package has as an entry point `r1lab.stages`.

    Raises:
        UserError: The package does not load.
    """
    stages = data.get("stages")
    parts = [data, *(stages if isinstance(stages, list) else [])]
    named = {part["stage"] for part in parts if isinstance(part, dict) and isinstance(part.get("stage"), str)}
    for point in metadata.entry_points(group="r1lab.stages") if named - STAGES.keys() else ():
        if point.name in named:
            try:
                STAGES[point.name] = point.load()
            except Exception as error:  # a package may raise anything
                why = " ".join(f"{type(error).__name__}: {error}".split())
                raise UserError(f"stage: {point.name}: {point.value} fails to load: {why}: fix it") from error


def trains(kind: str) -> bool:
    """Whether stages of a kind train a model."""
    return kind in STAGES and bool(STAGES[kind].trl)


def on_policy(kind: str) -> bool:
    """Whether stages of a kind train on the completions that they generate."""
    return kind in STAGES and STAGES[kind].on_policy


def is_trained(recipe: StageRecipe) -> TypeGuard[Trained]:
    """Whether a stage trains a model."""
    return bool(recipe.trl)


def setting(recipe: Trained, key: str) -> Any:
    """Returns a value of a stage's `train` section, or TRL's default."""
    given = recipe.train.get(key)
    return trl_fields.FIELDS[recipe.trl].get(key, (None, None))[1] if given is None else given


def _of_its_kind(stage: Any) -> Any:
    """A stage that is given as plain data, validated by the schema of its kind."""
    if not isinstance(stage, dict):
        return stage
    if stage.get("stage") not in STAGES:
        raise ValueError(f"should be a stage of a kind in {', '.join(STAGES)}")
    return STAGES[stage["stage"]].model_validate(stage)


class Pipeline(Section):
    """Stages in order. `compare` has pairs of eval stages, before and after; by default the first and the last."""

    name: str = Field(min_length=1)
    seed: int = Field(default=0, ge=0)
    stages: list[Annotated[SerializeAsAny[StageRecipe], BeforeValidator(_of_its_kind)]] = Field(min_length=1)
    compare: list[list[str]] | None = None
    _document: Document = PrivateAttr(default_factory=lambda: Document({}))


Recipe = StageRecipe | Pipeline
