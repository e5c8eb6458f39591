"""The kinds of stages, one model each, and pipelines of them; `r1lab.recipe.sections` has what they are made of.

pydantic checks them; `r1lab.recipe.loading` loads them.
"""

# A kind of stage narrows `stage` and `model` of StageRecipe, which a type checker takes for attributes to be assigned.
# pyright: reportIncompatibleVariableOverride=false

from importlib import metadata
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, SerializeAsAny

from r1lab.errors import UserError
from r1lab.recipe.sections import (
    Alarms,
    Curriculum,
    Data,
    Eval,
    EvalData,
    EvalRollout,
    GrpoEval,
    GrpoRollout,
    Keep,
    Launch,
    Model,
    Prompt,
    Reward,
    SampleRollout,
    Schedule,
    Section,
    TrainedModel,
)
from r1lab.recipe.yaml_source import Document, Keys


class StageRecipe(Section):
    """What all stages have. `name` is the file's unless given.

    What a kind of stage is stands on its class and nowhere else.

    Attributes:
        module: The module whose `run(recipe, run_dir)` runs it.
        words: What the kind is called in prose.
        trl: The TRL config that `train` is read as; empty for a kind that trains nothing.
        learns: The columns of a row that it is trained on.
        generates: Whether it writes completions.
        makes: What a later stage may refer to, as in `@STAGE/model`; empty for nothing.
    """

    module: ClassVar[str] = ""
    words: ClassVar[str] = ""
    trl: ClassVar[str] = ""
    learns: ClassVar[tuple[str, ...]] = ()
    generates: ClassVar[bool] = False
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
    launch: Launch = Launch()


class GrpoRecipe(StageRecipe):
    """Reinforcement learning by GRPO."""

    module: ClassVar[str] = "r1lab.stages.grpo"
    words: ClassVar[str] = "reinforcement learning (GRPO)"
    trl: ClassVar[str] = "GRPOConfig"
    generates: ClassVar[bool] = True
    makes: ClassVar[str] = "model"
    stage: Literal["grpo"]
    model: TrainedModel
    data: Data
    prompt: Prompt = Prompt()
    rewards: list[Reward] = Field(min_length=1)
    rollout: GrpoRollout = GrpoRollout()
    curriculum: Curriculum | None = None
    schedule: Schedule = Schedule()
    alarms: Alarms = Alarms()
    train: dict[str, Any] = {}
    eval: GrpoEval | None = None
    launch: Launch = Launch()


class SampleRecipe(StageRecipe):
    """Sampling completions to learn from."""

    module: ClassVar[str] = "r1lab.stages.sample"
    words: ClassVar[str] = "sampling"
    generates: ClassVar[bool] = True
    makes: ClassVar[str] = "samples"
    stage: Literal["sample"]
    data: Data
    prompt: Prompt = Prompt()
    rewards: list[Reward] = []
    rollout: SampleRollout = SampleRollout()
    keep: Keep = Keep(deduplicate=False)


class EvalRecipe(StageRecipe):
    """Evaluation of a model, on `eval.tasks` or else on `data`: it has one of them."""

    module: ClassVar[str] = "r1lab.stages.eval"
    words: ClassVar[str] = "evaluation"
    generates: ClassVar[bool] = True
    stage: Literal["eval"]
    data: EvalData | None = None
    prompt: Prompt = Prompt()
    rewards: list[Reward] = Field(min_length=1)
    rollout: EvalRollout = EvalRollout()
    eval: Eval = Eval()


class DpoRecipe(StageRecipe):
    """Direct preference optimisation (arXiv:2305.18290) on rows with `chosen` and `rejected`."""

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
    launch: Launch = Launch()


class RewardRecipe(StageRecipe):
    """A reward model from rows with `chosen` and `rejected`, for the reward `reward_model`.

    `scope` is what it reads of a turn: what follows the thinking, or all of it.
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
    launch: Launch = Launch()


STAGES: dict[str, type[StageRecipe]] = {
    "sft": SftRecipe,
    "grpo": GrpoRecipe,
    "sample": SampleRecipe,
    "eval": EvalRecipe,
    "dpo": DpoRecipe,
    "reward": RewardRecipe,
}
"""The kinds of stages. A new one is a class here; one from elsewhere is found by `find_kinds`."""


def find_kinds(data: dict) -> None:
    """Adds to `STAGES` the kinds that a recipe names and an installed package has, as its entry point `r1lab.stages`.

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
                raise UserError(f"stage: {point.name}: {point.value} does not load: {why}: correct it") from error


def trains(kind: str) -> bool:
    """Whether stages of a kind train a model."""
    return kind in STAGES and bool(STAGES[kind].trl)


def _of_its_kind(stage: Any) -> Any:
    """A stage that is given as plain data, read as what its kind says."""
    if not isinstance(stage, dict):
        return stage
    if stage.get("stage") not in STAGES:
        raise ValueError(f"a stage of a kind among {', '.join(STAGES)}")
    return STAGES[stage["stage"]].model_validate(stage)


class Pipeline(Section):
    """Stages in their order. `compare` pairs names of eval stages, before and after; by default the first and last."""

    name: str = Field(min_length=1)
    seed: int = Field(default=0, ge=0)
    stages: list[Annotated[SerializeAsAny[StageRecipe], BeforeValidator(_of_its_kind)]] = Field(min_length=1)
    compare: list[list[str]] | None = None
    _document: Document = PrivateAttr(default_factory=lambda: Document({}))


Recipe = StageRecipe | Pipeline
