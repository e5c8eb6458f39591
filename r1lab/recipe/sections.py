"""The schemas of the sections of a recipe: model, data, prompt, rewards, rollout, ..."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, create_model, model_validator


class Section(BaseModel):
    """A part of a recipe. Unknown keys are errors, and values are not converted: `"8"` is not a number."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Call(Section):
    """A section that names a function; all other keys are parameters of that function."""

    model_config = ConfigDict(extra="allow", strict=True)

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of the function, by name."""
        return self.model_extra or {}


class Lora(Section):
    """peft's LoRA: rank, `lora_alpha`, dropout, and the layers that get adapters.

    `quantize` keeps the base model in 4 or 8 bits (QLoRA). The adapter is saved in `adapter/`. With `merge`, `model/`
    is the model with the adapter merged; otherwise it is the adapter alone.
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


class Teacher(Model):
    """The model that a distill stage learns from, whose tokens are those of the student.

    With `url` it is behind vLLM servers of that address, or of several, which know it as `path`; here it is only
    tokenized with. With `share_base` it is an adapter of the base that the student trains an adapter of: `path` is its
    folder or, in a pipeline, `@STAGE/adapter`, and the base is in memory once.
    """

    url: str | list[str] | None = None
    share_base: bool = False


class TrainedModel(Model):
    """A model that a stage trains: all weights, or LoRA adapters."""

    lora: Lora | None = None


class Decontaminate(Section):
    """Removes rows whose prompt shares `n` consecutive words with a prompt of an evaluation set.

    `against` lists the evaluation sets, as builders with their parameters; their test splits are used.
    """

    against: list["TaskOrName"] = Field(min_length=1)
    n: int = Field(default=8, ge=1)


class PassRate(Section):
    """Keeps rows for which a share between `lowest` and `highest` of the samples was correct.

    `path` is the folder of the samples: `@STAGE/samples` of a sample stage with `keep: all`.
    """

    path: str
    lowest: float = Field(default=0.0, ge=0, le=1)
    highest: float = Field(default=1.0, ge=0, le=1)


class StatedBudget(Section):
    """A budget of tokens in the prompt of each row, and in its column `budget` (L1, arXiv:2503.04697).

    It is drawn from `lowest` to `highest` (default: `lowest`) by the seed and the prompt. `text` is appended to the
    question, by default L1's "Think for {budget} tokens." or, for `at_most`, "Think for maximum {budget} tokens."
    """

    lowest: int = Field(ge=1)
    highest: int | None = Field(default=None, ge=1)
    mode: Literal["exact", "at_most"] = "exact"
    text: str | None = None


class Data(Call):
    """A dataset builder with its parameters. `size` is the number of rows; `seed` defaults to the recipe's.

    The other keys process the rows of the builder, in this order: `deduplicate` (true: the same words; a number: the
    share of 5-word sequences in common), `decontaminate`, `max_tokens` (of prompt and completion together),
    `pass_rate`, `budget` (in each prompt, for the reward `budget`), and `order`, easy rows first, as a curriculum for
    a grpo stage with `shuffle_dataset: false`.
    """

    builder: str = "rows"
    split: Literal["train", "test"] = "train"
    size: int | None = Field(default=None, ge=1)
    seed: int | None = None
    deduplicate: bool | float = False
    decontaminate: Decontaminate | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    pass_rate: PassRate | None = None
    budget: StatedBudget | None = None
    order: Literal["people", "level", "pass_rate", "length"] | None = None


class EvalData(Data):
    """Rows that a model is evaluated on: the test split, unless `split` names another one."""

    split: Literal["train", "test"] = "test"


class Prompt(Section):
    """How a question is presented to the model.

    `template` is a name in `r1lab.models.prompts.TEMPLATES`, or your own chat template, `./mine.jinja`. `text` is your
    own plain text instead, with `{question}` in the place of the question. `system` is a system prompt in place of the
    template's. `prefill` is the beginning of the assistant's turn.
    """

    template: str = "none"
    system: str | None = None
    text: str | None = None
    prefill: str | None = None


class Reward(Call):
    """A reward function with its weight and its parameters.

    `tasks` are the tasks of rows that it applies to (default: all). `on_error` decides what happens if the function
    raises an exception: `fail` ends the run; `zero` scores the completion 0 and counts the error.
    """

    name: str
    weight: float = 1.0
    tasks: list[str] | None = Field(default=None, min_length=1)
    on_error: Literal["fail", "zero"] = "fail"


class DynamicSampling(Section):
    """DAPO's dynamic sampling (arXiv:2503.14476, section 3.2): groups without signal are replaced by new prompts.

    `metric` must differ within a group: `right`, or the `reward`, which a format reward may make different even if all
    answers are wrong. After `max_rounds` extra rounds, the batch is filled with groups without signal.
    """

    metric: Literal["right", "reward"] = "right"
    max_rounds: int = Field(default=3, ge=1)


class Rollout(Section):
    """How completions are generated, in every stage that generates. Lengths are in tokens.

    `options` override the engine's own arguments: vLLM's EngineArgs, those of transformers' `generate`, or the body of
    each request to a server.
    """

    engine: Literal["auto", "vllm", "transformers", "server"] = "auto"
    max_completion_length: int = Field(default=256, ge=1)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    max_model_length: int | None = Field(default=None, ge=1)
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    options: dict[str, Any] = {}


class EvalRollout(Rollout):
    """How an evaluation generates; temperature and number of answers are in `eval`.

    The engine `server` sends requests for the model `model.path` to an OpenAI-compatible server at `url`; of several
    servers, each request goes to the one with the fewest requests in progress. `max_concurrent` and
    `requests_per_minute` apply to each server.

    With other engines, several workers share the prompts, and each has `tensor_parallel` of the `launch.gpus`, over
    which vLLM splits the model.
    """

    url: str | list[str] | None = None
    max_concurrent: int = Field(default=32, ge=1)
    requests_per_minute: int | None = Field(default=None, ge=1)
    tensor_parallel: int = Field(default=1, ge=1)


class SampleRollout(EvalRollout):
    """How a sample stage generates `num_generations` completions per prompt."""

    num_generations: int = Field(default=8, ge=1)
    temperature: float = Field(default=1.0, ge=0)


class Asynchronous(Section):
    """Asynchronous GRPO: groups are generated up to `staleness` updates before they are trained on.

    With the engine in process, an update trains on groups from weights exactly `staleness` updates old, reproducibly,
    except at the start; 0 is synchronous training. `objective` decides how that is corrected: `decoupled` is AReaL's
    (arXiv:2505.24298), `truncated` is truncated importance sampling, and `ppo` clips around the policy that sampled
    (`r1lab.grpo.objectives`). With `in_flight`, rollout servers get new weights in the middle of a completion; the
    engine in process finishes all completions before an update.
    """

    staleness: int = Field(default=2, ge=0)
    objective: Literal["decoupled", "truncated", "ppo"] = "ppo"
    in_flight: bool = True


if TYPE_CHECKING:
    _AsynchronousRollout = Rollout
else:  # `async` is a keyword of Python, so a class body cannot have a field of this name
    _AsynchronousRollout = create_model("Rollout", __base__=Rollout, **{"async": (Asynchronous | None, None)})


class GrpoRollout(_AsynchronousRollout):
    """How a grpo stage generates groups of `num_generations` completions.

    It generates on the GPUs of the trainer unless `launch.rollout` or `url` says otherwise. `url` has the addresses of
    vLLM servers that run already, started as docs/scale.md says; `tensor_parallel` is the number of GPUs over which
    each server that r1lab starts splits the model. Servers read new weights from files in `sync_folder`, which is
    /dev/shm unless they run on other machines. `gpu_memory_utilization` is 0.3 where the trainer needs the rest, and
    0.9 on devices that only generate.

    `biased_sampling` allows settings that bias the gradient: `top_p`, `top_k`, `min_p`.
    """

    url: str | list[str] | None = None
    sync_folder: str | None = None
    tensor_parallel: int = Field(default=1, ge=1)
    gpu_memory_utilization: float = Field(default=0.3, gt=0, le=1)
    num_generations: int = Field(default=8, ge=1)
    temperature: float = Field(default=1.0, ge=0)
    dynamic_sampling: DynamicSampling | None = None
    biased_sampling: bool = False

    @property
    def asynchronous(self) -> Asynchronous | None:
        """The section `async`."""
        return getattr(self, "async")


class Task(Call):
    """A task of an evaluation: a builder with its parameters; its test split is used.

    `num_samples` is the number of answers per question, by default that of `eval`. `instruction` is added below each
    question if the template does not specify the format of the answer (`none`, `chat`). `budget` is that of `data`.
    """

    name: str | None = None
    builder: str
    size: int | None = Field(default=None, ge=1)
    seed: int | None = None
    num_samples: int | None = Field(default=None, ge=1)
    instruction: str | None = None
    budget: StatedBudget | None = None


TASKS_OWN = frozenset(Task.model_fields) - frozenset(Data.model_fields)
"""Keys of a task that a `data` section does not have."""


def _kind_of_task(value: object) -> str:
    return "task" if isinstance(value, (dict, Task)) else "name"


TaskOrName = Annotated[Annotated[str, Tag("name")] | Annotated[Task, Tag("task")], Discriminator(_kind_of_task)]


class Forcing(Section):
    """How `eval.budgets` are enforced: s1's budget forcing (arXiv:2501.19393).

    `close` is the text that ends the thinking and begins the answer; by default that of the prompt's template.
    `extend` is how often thinking that ends below a budget is continued, with `wait` in place of its end.
    `answer_length` is the maximum number of tokens after a forced end, by default that of a completion.
    """

    close: str | None = Field(default=None, min_length=1)
    extend: int = Field(default=0, ge=0)
    wait: str = Field(default="Wait", min_length=1)
    answer_length: int | None = Field(default=None, ge=1)


class Eval(Section):
    """The evaluation: `size` questions per task, each with `num_samples` sampled answers and a greedy one.

    `budgets` are maximum numbers of thinking tokens: the accuracy of the sampled answers is also measured with their
    thinking stopped at each of them.
    """

    tasks: list[TaskOrName] = []
    size: int = Field(default=200, ge=1)
    num_samples: int = Field(default=4, ge=1)
    temperature: float = Field(default=1.0, ge=0)
    greedy: bool = True
    max_completion_length: int | None = Field(default=None, ge=1)
    budgets: list[Annotated[int, Field(ge=0)]] = []
    forcing: Forcing = Forcing()


class GrpoEval(Eval):
    """An evaluation of the policy, repeated after `every` steps."""

    every: int | None = Field(default=None, ge=1)


class Distill(Section):
    """What a distill stage learns from its teacher, at each token of the student's own completions.

    `exact` compares the two distributions over the whole vocabulary, by TRL's divergence: `beta` 1 is the reverse KL,
    0 the forward KL, and values between are a mixture, which is bounded (`r1lab.grpo.divergence`). Without it, the
    difference of the log-probabilities of the sampled token is an advantage, which estimates the reverse KL.
    `reward_weight` is the weight of the advantages of the rewards, 0 if they are only measured.
    """

    exact: bool = True
    beta: float = Field(default=1.0, ge=0, le=1)
    reward_weight: float = Field(default=0.0, ge=0)


class Keep(Section):
    """Which samples are kept.

    `which` is `all`; `right`, the correct ones (the first reward that applies is at least 1); `best`, the best correct
    one per prompt; or `pairs` for preference training, the best and the worst sample per prompt if their rewards
    differ. `at_least` sets minimum values of rewards by name. Of the remaining samples, at most `per_prompt` random
    ones are kept, and identical completions only once.
    """

    which: Literal["all", "right", "best", "pairs"] = "all"
    at_least: dict[str, float] = {}
    per_prompt: int | None = Field(default=None, ge=1)
    deduplicate: bool = True

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, data: Any) -> Any:
        """`keep: right` is `keep: {which: right}`; `keep: all` keeps all samples, even identical ones."""
        if isinstance(data, str):
            return {"which": data, "deduplicate": data != "all"}
        return data
