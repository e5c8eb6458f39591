"""The sections of recipes, one model each: what a stage may say of its model, data, prompt, rewards, rollout, ..."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator


class Section(BaseModel):
    """A part of a recipe. Unknown keys are errors, and no value is converted: `"8"` is not a number."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Call(Section):
    """A section that names a function; keys that are not its own are parameters of that function."""

    model_config = ConfigDict(extra="allow", strict=True)

    @property
    def parameters(self) -> dict[str, Any]:
        """What the function is given, by the names of its parameters."""
        return self.model_extra or {}


class Lora(Section):
    """peft's LoRA: rank, `lora_alpha`, dropout, and the layers that get adapters.

    `quantize` holds the base in 4 or 8 bits (QLoRA). The adapter is saved in `adapter/`; `merge` says whether `model/`
    is the model with the adapter merged, or the adapter alone.
    """

    r: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: str | list[str] = "all-linear"
    quantize: Literal["4bit", "8bit"] | None = None
    merge: bool = True


class Model(Section):
    """A Hub id, a folder, `embedded:NAME`, `scratch:NAME` (sft only) or, in a pipeline, `@STAGE/model`."""

    path: str = Field(min_length=1)
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    attn_implementation: str | None = None
    trust_remote_code: bool = False


class TrainedModel(Model):
    """A model of which a stage may train LoRA adapters in place of all weights."""

    lora: Lora | None = None


class Decontaminate(Section):
    """Leaves out rows whose prompt shares a run of `n` words with a prompt of an evaluation set.

    `against` are the evaluation sets, as builders with their parameters, asked for their test split.
    """

    against: list["TaskOrName"] = Field(min_length=1)
    n: int = Field(default=8, ge=1)


class PassRate(Section):
    """Keeps rows of which between `lowest` and `highest` of the samples were right.

    `path` is where the samples lie: `@STAGE/samples` of a sample stage with `keep: all`.
    """

    path: str
    lowest: float = Field(default=0.0, ge=0, le=1)
    highest: float = Field(default=1.0, ge=0, le=1)


class Data(Call):
    """A dataset builder with its parameters. `size` counts rows; `seed` is the recipe's unless given.

    The rest is done to the rows that the builder gives, in this order: `deduplicate` (true: the same words; a number:
    that share of 5-word runs in common), `decontaminate`, `max_tokens` (of prompt and completion together),
    `pass_rate`, and `order`, easy first: the curriculum of a grpo stage with `shuffle_dataset: false`.
    """

    builder: str = "rows"
    split: Literal["train", "test"] = "train"
    size: int | None = Field(default=None, ge=1)
    seed: int | None = None
    deduplicate: bool | float = False
    decontaminate: Decontaminate | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    pass_rate: PassRate | None = None
    order: Literal["people", "level", "pass_rate", "length"] | None = None


class EvalData(Data):
    """Rows that a model is evaluated on: the test split, unless another one is named."""

    split: Literal["train", "test"] = "test"


class Prompt(Section):
    """How a question is put to the model.

    `template` is a name in `r1lab.models.prompts.TEMPLATES`, or a chat template of your own, `./mine.jinja`; `text` a
    plain text of your own in its place, with `{question}` where the question belongs. `system` is a system prompt in
    place of the template's, `prefill` what the assistant's turn begins with.
    """

    template: str = "none"
    system: str | None = None
    text: str | None = None
    prefill: str | None = None


class Reward(Call):
    """A reward function with its weight and its parameters.

    `tasks` are the tasks of rows that it applies to (default: all). `on_error` says what a completion means that it
    raises on: the end of the run, or a score of 0 that is counted.
    """

    name: str
    weight: float = 1.0
    tasks: list[str] | None = Field(default=None, min_length=1)
    on_error: Literal["fail", "zero"] = "fail"


class DynamicSampling(Section):
    """DAPO's (arXiv:2503.14476, section 3.2): groups without signal are replaced by fresh prompts.

    `metric` is what must differ within a group: `right`, or the `reward`, which a format reward may make differ
    where all answers are wrong. After `max_rounds` extra rounds a batch is filled with groups without signal.
    """

    metric: Literal["right", "reward"] = "right"
    max_rounds: int = Field(default=3, ge=1)


class Rollout(Section):
    """How completions are generated, in every stage that generates. Lengths in tokens.

    `options` are laid over the engine's own arguments: vLLM's EngineArgs, those of transformers' `generate`, or the
    body of each request to a server.
    """

    engine: Literal["auto", "vllm", "transformers", "server"] = "auto"
    max_completion_length: int = Field(default=256, ge=1)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    max_model_length: int | None = Field(default=None, ge=1)
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    options: dict[str, Any] = {}


class EvalRollout(Rollout):
    """How an evaluation generates; temperature and number of answers are those of `eval`.

    The engine `server` asks an OpenAI-compatible server at `url` for `model.path`.
    """

    url: str | None = None
    max_concurrent: int = Field(default=32, ge=1)
    requests_per_minute: int | None = Field(default=None, ge=1)


class SampleRollout(EvalRollout):
    """How a sample stage generates `num_generations` completions of each prompt."""

    num_generations: int = Field(default=8, ge=1)
    temperature: float = Field(default=1.0, ge=0)


class GrpoRollout(Rollout):
    """How a grpo stage generates groups of `num_generations` completions, beside the trainer on the same GPU.

    `biased_sampling` allows what biases the gradient: `top_p`, `top_k`, `min_p`.
    """

    gpu_memory_utilization: float = Field(default=0.3, gt=0, le=1)
    num_generations: int = Field(default=8, ge=1)
    temperature: float = Field(default=1.0, ge=0)
    dynamic_sampling: DynamicSampling | None = None
    biased_sampling: bool = False


ADVANTAGES = ("grpo", "dr_grpo", "rloo", "reinforce_pp_baseline")
"""The kinds of advantages that r1lab has, beside TRL's."""


class GrpoTrain(Section):
    """What is r1lab's own under `train` of a grpo stage, beside TRL's fields: how a step is computed.

    `advantage` is one of `ADVANTAGES` or a function of your own, `./mine.py:function` (`r1lab.grpo.advantages`);
    without it, TRL's `scale_rewards` decides. `loss` is a function of your own in place of TRL's formula
    (`r1lab.grpo.losses`). The rest changes neither the loss nor its gradient: each switch is there to be measured, and
    to be ruled out.
    `max_tokens_per_microbatch` counts a group's prompt once; by default it is what `per_device_train_batch_size`
    rows of the longest prompt and completion would have.
    """

    advantage: str | None = None
    loss: str | None = None
    max_tokens_per_microbatch: int | None = Field(default=None, ge=1)
    pack: bool = True
    share_prompts: bool = True
    skip_no_signal: bool = True
    reuse_logps: bool = True
    sort_by_length: bool = True
    chunk_logps: bool = True
    grade_early: bool = True
    skip_text: bool = True


class Curriculum(Section):
    """Which prompts a step takes, by the share of a row's last group that was right.

    A row below `min_pass_rate` or above `max_pass_rate` is set aside for `retry_after` steps. With `learnability`
    rows are drawn by p (1 - p), those never tried by the mean of their task.
    """

    min_pass_rate: float = Field(default=0.0, ge=0, le=1)
    max_pass_rate: float = Field(default=1.0, ge=0, le=1)
    retry_after: int = Field(default=100, ge=1)
    learnability: bool = False


class Schedule(Section):
    """Values by the step from which they hold, as in `temperature: {0: 1.0, 100: 0.7}`; rewards: weights by name."""

    max_completion_length: dict[int, Annotated[int, Field(ge=1)]] = {}
    temperature: dict[int, Annotated[float, Field(gt=0)]] = {}
    rewards: dict[str, dict[int, float]] = {}


class Alarm(Section):
    """What is done when an alarm fires.

    `warn` tells it once; `stop` ends the run; `rollback` goes back to the last good checkpoint with a lower learning
    rate, and stops when the same alarm fires again.
    """

    do: Literal["warn", "stop", "rollback"] = "warn"


class FigureAlarm(Alarm):
    """Fires when a figure was at or `below`, or at or `above`, a bound for `steps` steps in a row."""

    below: float | None = None
    above: float | None = None
    steps: int = Field(default=1, ge=1)


class Alarms(Section):
    """What tells that a run has gone wrong; null switches an alarm off, and a key given leaves the others as they are.

    `entropy`, `kl` and `drift` (engine from policy) are in nats a token. The bounds of `length` are multiples of the
    mean of the `first` steps. `truncated` and `no_signal` are shares of completions and of groups. `loss` fires at
    once where the loss or the gradient is not finite. A rollback multiplies the learning rate by
    `learning_rate_factor`.
    """

    entropy: FigureAlarm | None = FigureAlarm(below=0.02, steps=10)
    length: FigureAlarm | None = FigureAlarm(below=0.25, above=8.0, steps=5)
    truncated: FigureAlarm | None = FigureAlarm(above=0.5, steps=20)
    kl: FigureAlarm | None = FigureAlarm(above=2.0, steps=5)
    no_signal: FigureAlarm | None = FigureAlarm(above=0.95, steps=10)
    drift: FigureAlarm | None = FigureAlarm(above=0.2, steps=3, do="stop")
    loss: Alarm | None = Alarm(do="stop")
    first: int = Field(default=10, ge=1)
    learning_rate_factor: float = Field(default=0.5, gt=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def _over_defaults(cls, data: Any) -> Any:
        """Lays what is given of an alarm over the defaults of that alarm."""
        if not isinstance(data, dict):
            return data
        defaults = cls().active() if data else {}
        plain = {name: alarm.model_dump() for name, alarm in defaults.items()}
        return {k: {**plain[k], **v} if k in plain and isinstance(v, dict) else v for k, v in data.items()}

    def active(self) -> dict[str, Alarm]:
        """The alarms that are on, by name."""
        return {name: alarm for name, alarm in self if isinstance(alarm, Alarm)}


class Task(Call):
    """A task of an evaluation: a builder with its parameters, asked for its test split.

    `num_samples` answers a question, those of `eval` unless given. `instruction` is added below each question, under
    templates that say nothing of an answer's form (`none`, `chat`).
    """

    name: str | None = None
    builder: str
    size: int | None = Field(default=None, ge=1)
    seed: int | None = None
    num_samples: int | None = Field(default=None, ge=1)
    instruction: str | None = None


TASKS_OWN = frozenset(Task.model_fields) - frozenset(Data.model_fields)
"""What a task has that no `data` section has."""


def _kind_of_task(value: object) -> str:
    return "task" if isinstance(value, (dict, Task)) else "name"


TaskOrName = Annotated[Annotated[str, Tag("name")] | Annotated[Task, Tag("task")], Discriminator(_kind_of_task)]


class Eval(Section):
    """What is evaluated: `size` questions per task, each with `num_samples` answers and a greedy one."""

    tasks: list[TaskOrName] = []
    size: int = Field(default=200, ge=1)
    num_samples: int = Field(default=4, ge=1)
    temperature: float = Field(default=1.0, ge=0)
    greedy: bool = True
    max_completion_length: int | None = Field(default=None, ge=1)


class GrpoEval(Eval):
    """An evaluation of the policy `every` so many steps."""

    every: int | None = Field(default=None, ge=1)


class Launch(Section):
    """On what a training runs."""

    gpus: int = Field(default=1, ge=1)


class Keep(Section):
    """Which samples are kept.

    `which`: all; those that are right (the first reward that applies gave at least 1); the best right one of each
    prompt; or pairs for preference training, the best and the worst of each prompt where their rewards differ.
    `at_least` sets the lowest value of rewards by name. Of the rest at most `per_prompt`, drawn by the seed, are kept,
    the same completion once.
    """

    which: Literal["all", "right", "best", "pairs"] = "all"
    at_least: dict[str, float] = {}
    per_prompt: int | None = Field(default=None, ge=1)
    deduplicate: bool = True

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, data: Any) -> Any:
        """`keep: right` is `keep: {which: right}`; all samples of `keep: all` stay, the same ones too."""
        if isinstance(data, str):
            return {"which": data, "deduplicate": data != "all"}
        return data
