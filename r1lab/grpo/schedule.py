"""Settings that change with the step: completion length, temperature, weights of rewards."""

from collections.abc import Mapping

from transformers import TrainerCallback

from r1lab.errors import UserError
from r1lab.recipe.training import Schedule


def value_at(steps: Mapping[int, float], step: int) -> float | None:
    """Returns the value at a step, counted from 0: that of the last entry that has begun.

    >>> value_at({0: 256, 100: 512}, 99), value_at({0: 256, 100: 512}, 100), value_at({10: 1.0}, 3)
    (256, 512, None)
    """
    begun = [start for start in steps if start <= step]
    return steps[max(begun)] if begun else None


class Scheduled(TrainerCallback):
    """Sets the values of a schedule for the step of each rollout, also in a resumed run."""

    def __init__(self, trainer, schedule: Schedule, names: list[str]):
        self.trainer, self.schedule, self.names = trainer, schedule, names
        if schedule.temperature and not trainer.packs:  # TRL's head cannot change its temperature
            raise UserError("schedule.temperature: needs train.pack: true and a model that supports it: remove it")

    def on_step_begin(self, args, state, control, **kwargs):
        trainer, engine = self.trainer, getattr(self.trainer, "vllm_generation", None)
        # A rollout keeps its temperature for all of its updates; otherwise their importance ratios would be wrong.
        step = trainer.rollout_step()
        length = value_at(self.schedule.max_completion_length, step)
        temperature = value_at(self.schedule.temperature, step)
        for name, value in (("max_completion_length", length), ("temperature", temperature)):
            if value is None:
                continue
            setattr(trainer, name, value)
            if engine is not None:
                setattr(engine, name, value)
            else:
                field = "max_new_tokens" if name == "max_completion_length" else name
                trainer.generation_kwargs[field] = value
                setattr(trainer.generation_config, field, value)
        for name, steps in self.schedule.rewards.items():
            weight = value_at(steps, step)
            if weight is not None:
                trainer.reward_weights[self.names.index(name)] = weight
