"""The schemas of the sections that decide how a stage trains: train, curriculum, schedule and alarms."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from r1lab.recipe.sections import Section

ADVANTAGES = ("grpo", "dr_grpo", "rloo", "reinforce_pp_baseline")
"""r1lab's own advantages, in addition to TRL's."""
ADVANTAGES_OF_GROUPS = ADVANTAGES[:3]
"""Those that need the rewards of one group only."""


class Train(Section):
    """r1lab's own keys under `train` of a stage that trains, in addition to TRL's fields.

    `global_batch_size` is the number of rows of an update over all devices: of pairs in dpo and reward stages, and of
    packed sequences with `packing`. `gradient_accumulation_steps` follows from it, `per_device_train_batch_size` and
    the number of devices, so that an update is the same on any hardware.

    With `master_weights` the weights that are trained are float32, with their gradients and optimizer states, and
    `model.dtype` is only what is computed in and saved. false keeps all of them in `model.dtype`, which takes half of
    the memory in bfloat16, and loses updates below 1/256 of a weight.
    """

    global_batch_size: int | None = Field(default=None, ge=1)
    master_weights: bool = True


class GrpoTrain(Train):
    """r1lab's own keys under `train` of a grpo stage, in addition to TRL's fields. They decide how a step is computed.

    `global_batch_size` is the number of completions of an update over all devices. `gradient_accumulation_steps`
    follows from it, `per_device_train_batch_size` and the number of devices.

    `advantage` is one of `ADVANTAGES` or your own function, `./mine.py:function` (`r1lab.grpo.advantages`); without
    it, TRL's `scale_rewards` decides. `loss` is your own function in place of TRL's formula (`r1lab.grpo.losses`). The
    other keys change neither the loss nor its gradient; you can switch each off to measure its effect or to rule it
    out. `max_tokens_per_microbatch` counts the prompt of a group once; its default is the number of tokens that
    `per_device_train_batch_size` rows of the longest prompt and completion have.
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
    overlap: bool = False
    skip_text: bool = True


class Curriculum(Section):
    """Selects the prompts of a step by pass rate, the share of a row's last group that was correct.

    A row below `min_pass_rate` or above `max_pass_rate` is set aside for `retry_after` steps. With `learnability`,
    rows are sampled in proportion to p (1 - p); for rows that were never tried, p is the mean of their task.
    """

    min_pass_rate: float = Field(default=0.0, ge=0, le=1)
    max_pass_rate: float = Field(default=1.0, ge=0, le=1)
    retry_after: int = Field(default=100, ge=1)
    learnability: bool = False


class Schedule(Section):
    """Values by the step at which they start, as in `temperature: {0: 1.0, 100: 0.7}`; `rewards`: weights by name."""

    max_completion_length: dict[int, Annotated[int, Field(ge=1)]] = {}
    temperature: dict[int, Annotated[float, Field(gt=0)]] = {}
    rewards: dict[str, dict[int, float]] = {}


class Alarm(Section):
    """What happens when an alarm fires.

    `warn` prints one warning; `stop` ends the run; `rollback` returns to the last good checkpoint with a lower
    learning rate, and ends the run when the same alarm fires again.
    """

    do: Literal["warn", "stop", "rollback"] = "warn"


class MetricAlarm(Alarm):
    """Fires when a metric was at or `below`, or at or `above`, a bound for `steps` steps in a row."""

    below: float | None = None
    above: float | None = None
    steps: int = Field(default=1, ge=1)


class Alarms(Section):
    """Alarms for runs that go wrong. null switches an alarm off; keys that are not set keep their defaults.

    `entropy`, `kl` and `drift` (of the engine from the policy) are in nats per token. The bounds of `length` are
    multiples of the mean of the `first` steps. `truncated` is a share of completions, `no_signal` a share of groups.
    With an environment, `call_errors` is a share of its replies; `no_call` and `env_errors` are shares of episodes.
    `loss` fires immediately if the loss or the gradient is not finite. A rollback multiplies the learning rate by
    `learning_rate_factor`.
    """

    entropy: MetricAlarm | None = MetricAlarm(below=0.02, steps=10)
    length: MetricAlarm | None = MetricAlarm(below=0.25, above=8.0, steps=5)
    truncated: MetricAlarm | None = MetricAlarm(above=0.5, steps=20)
    kl: MetricAlarm | None = MetricAlarm(above=2.0, steps=5)
    no_signal: MetricAlarm | None = MetricAlarm(above=0.95, steps=10)
    drift: MetricAlarm | None = MetricAlarm(above=0.2, steps=3, do="stop")
    call_errors: MetricAlarm | None = MetricAlarm(above=0.5, steps=20)
    no_call: MetricAlarm | None = MetricAlarm(above=0.9, steps=20)
    env_errors: MetricAlarm | None = MetricAlarm(above=0.05, steps=3, do="stop")
    loss: Alarm | None = Alarm(do="stop")
    first: int = Field(default=10, ge=1)
    learning_rate_factor: float = Field(default=0.5, gt=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def _over_defaults(cls, data: Any) -> Any:
        """Merges the given keys of an alarm over the defaults of that alarm."""
        if not isinstance(data, dict):
            return data
        defaults = cls().active() if data else {}
        plain = {name: alarm.model_dump() for name, alarm in defaults.items()}
        return {k: {**plain[k], **v} if k in plain and isinstance(v, dict) else v for k, v in data.items()}

    def active(self) -> dict[str, Alarm]:
        """The alarms that are switched on, by name."""
        return {name: alarm for name, alarm in self if isinstance(alarm, Alarm)}
