"""Rollouts of chosen prompts: dynamic sampling (DAPO, arXiv:2503.14476, section 3.2) and the curriculum."""

from dataclasses import dataclass

import torch
from accelerate.utils import gather_object
from datasets import IterableDataset

from r1lab.errors import UserError
from r1lab.grpo.curriculum import Chooser
from r1lab.recipe.sections import Curriculum


@dataclass
class Group:
    """The completions of a prompt, as lists that can be sent to other ranks.

    Attributes:
        inputs: The dataset's row for the trainer.
        prompt_ids: Token ids of the prompt.
        completion_ids, completions, logprobs: Token ids, text and the engine's log-probabilities of each completion.
        rewards: For each completion the value of each reward, NaN where it does not apply.
        right: Which completions are right; None where the grader is not known.
    """

    inputs: dict
    prompt_ids: list[int]
    completion_ids: list[list[int]]
    completions: list[str]
    logprobs: list[list[float]] | None
    rewards: list[list[float]]
    right: list[bool] | None


def has_signal(group: Group, metric: str, weights: list[float]) -> bool:
    """Whether the completions of a group differ in what they earn: `right`, or the weighted `reward`."""
    if metric == "right" and group.right is not None:
        return len(set(group.right)) > 1
    totals = [sum(w * v for w, v in zip(weights, values) if v == v) for values in group.rewards]
    return max(totals) - min(totals) > 1e-8


def chooser_for(trainer, tasks: list[str | None] | None, curriculum: Curriculum | None) -> Chooser:
    """What decides which prompts a step of a trainer takes.

    Raises:
        UserError: The trainer's rows cannot be chosen.
    """
    rows = trainer.train_dataset
    if trainer.tools or trainer._is_vlm or trainer.rollout_func or isinstance(rows, IterableDataset):
        raise UserError(
            "dynamic_sampling, curriculum: they choose rows of a data set with a length, for a model that writes "
            "text: leave out tools, images, rollout_func and iterable data sets"
        )
    return Chooser(tasks or [None] * len(rows), seed=trainer.args.seed, curriculum=curriculum)


def choose(trainer, inputs: list[dict]) -> list[Group]:
    """The groups that this rank trains on in place of `inputs`, generated and graded.

    Prompts come from the curriculum if there is one. With dynamic sampling, groups without signal make room for fresh
    prompts, in as many rounds as it takes or the recipe allows. All ranks hold all groups for a moment and take their
    share in the order of generation, so that the set of groups does not depend on the number of ranks.
    """
    size, ranks, rank = trainer.num_generations, trainer.accelerator.num_processes, trainer.accelerator.process_index
    step, dynamic, chosen = trainer.state.global_step, trainer.dynamic_sampling, trainer.chooser
    share = len(inputs) // size
    wanted = share * ranks
    weights = trainer.reward_weights.tolist()
    kept: list[Group] = []
    spare: list[Group] = []
    used: set[int] = set()
    rounds, asked = 0, wanted
    while True:
        if rounds or chosen.curriculum is not None:
            numbers = chosen.draw(step, rounds, asked, but=used)
            mine = numbers[rank * asked // ranks : (rank + 1) * asked // ranks]
            inputs = [trainer.train_dataset[number] for number in mine for _ in range(size)]
        groups = [group for groups in gather_object([_generate(trainer, inputs)]) for group in groups]
        used |= {group.inputs["row"] for group in groups}
        if groups[0].right is not None:
            chosen.see([(g.inputs["row"], sum(g.right) / len(g.right)) for g in groups], step)
        for group in groups:
            good = dynamic is None or has_signal(group, dynamic.metric, weights)
            (kept if good else spare).append(group)
        if len(kept) >= wanted or dynamic is None or rounds == dynamic.max_rounds:
            break
        rounds += 1
        # As many as the share with signal so far would need, and every rank the same number.
        rate = max(len(kept), 1) / (len(kept) + len(spare))
        asked = min(wanted, int((wanted - len(kept)) / rate) + 1)
        asked = -(-asked // ranks) * ranks
    metrics = trainer._metrics["train"]
    metrics["sampled/rounds"].append(rounds)
    metrics["sampled/groups"].append(len(kept) + len(spare))
    metrics["sampled/signal"].append(len(kept) / (len(kept) + len(spare)))
    everything = [values for group in kept + spare for values in group.rewards]
    totals = [sum(w * v for w, v in zip(weights, values) if v == v) for values in everything]
    metrics["sampled/reward"].append(sum(totals) / len(totals))
    return (kept + spare)[:wanted][rank * share : (rank + 1) * share]


def _generate(trainer, inputs: list[dict]) -> list[Group]:
    """Completions of this rank's prompts, each repeated for its group, with their rewards."""
    size, first = trainer.num_generations, trainer.accelerator.process_index * len(inputs)
    prompts = [row["prompt"] for row in inputs]
    prompt_ids, completion_ids, _, completions, logprobs, *_ = trainer.rollout(inputs, prompts)
    rewards = trainer.graded(inputs, prompts, completions, completion_ids)[first : first + len(inputs)]
    right = trainer.rewards.newest.right if trainer.rewards is not None else None
    return [
        Group(
            inputs=inputs[start],
            prompt_ids=prompt_ids[start],
            completion_ids=completion_ids[start : start + size],
            completions=completions[start : start + size],
            logprobs=None if logprobs is None else logprobs[start : start + size],
            rewards=rewards[start : start + size].tolist(),
            right=None if right is None else right[start : start + size],
        )
        for start in range(0, len(inputs), size)
    ]


def as_generated(groups: list[Group], accelerator) -> tuple[list[dict], tuple, torch.Tensor]:
    """Groups as TRL's trainer has them: inputs, what `_generate` returns, and the rewards of all ranks."""
    size = len(groups[0].completion_ids)
    inputs = [group.inputs for group in groups for _ in range(size)]
    logprobs = None
    if groups[0].logprobs is not None:
        logprobs = [x for group in groups for x in group.logprobs or ()]
    generated = (
        [group.prompt_ids for group in groups for _ in range(size)],
        [ids for group in groups for ids in group.completion_ids],
        None,
        [text for group in groups for text in group.completions],
        logprobs,
        {},
        None,
        [],
    )
    rewards = torch.tensor([values for group in groups for values in group.rewards], device=accelerator.device)
    return inputs, generated, accelerator.gather(rewards)
