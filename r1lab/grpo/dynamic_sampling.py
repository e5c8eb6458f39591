"""Rollouts with a choice of prompts: dynamic sampling (DAPO, arXiv:2503.14476, section 3.2) and the curriculum."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from accelerate.utils import gather_object
from datasets import IterableDataset

from r1lab.errors import UserError
from r1lab.grpo.curriculum import Chooser
from r1lab.grpo.episodes import figures
from r1lab.recipe.training import Curriculum

if TYPE_CHECKING:
    from r1lab.grpo.trainer import GRPOTrainer


@dataclass
class Group:
    """The completions of a prompt, as lists for exchange between ranks.

    Attributes:
        inputs: The dataset's row for the trainer.
        prompt_ids: Token ids of the prompt.
        completion_ids, completions, logprobs: Token ids, text and the engine's log-probabilities of each completion.
        rewards: For each completion the value of each reward, NaN if it does not apply.
        right: Which completions are correct; None if the grader is not known.
        versions: The version of the weights that sampled each token, None for a token that was put in; None if they
            are the present ones.
        masks: 1 for each token that the model sampled, and 0 for the others; None if there are no others.
        figures: What is logged of each episode (`r1lab.grpo.episodes.figures`), if they are episodes.
        of_rewards: What each reward says of each completion besides its value; None if the grader is not known.
    """

    inputs: dict
    prompt_ids: list[int]
    completion_ids: list[list[int]]
    completions: list[str]
    logprobs: list[list[float]] | None
    rewards: list[list[float]]
    right: list[bool] | None
    versions: list[list[int | None]] | None = None
    masks: list[list[int]] | None = None
    figures: list[dict] = field(default_factory=list)
    of_rewards: dict[str, list[dict[str, float]]] | None = None


def has_signal(group: Group, metric: str, weights: list[float]) -> bool:
    """Whether the completions of a group differ in correctness (`right`), or in the weighted `reward`."""
    if metric == "right" and group.right is not None:
        return len(set(group.right)) > 1
    totals = [sum(w * v for w, v in zip(weights, values) if v == v) for values in group.rewards]
    return max(totals) - min(totals) > 1e-8


def chooser_for(trainer: GRPOTrainer, tasks: list[str | None] | None, curriculum: Curriculum | None) -> Chooser:
    """Returns the chooser of a trainer's prompts.

    Raises:
        UserError: The trainer's rows cannot be chosen.
    """
    rows = trainer.train_dataset
    if trainer.tools or trainer._is_vlm or trainer.rollout_func or isinstance(rows, IterableDataset):
        raise UserError(
            "dynamic_sampling, curriculum: they need a data set with a length and a model that generates only text: "
            "remove tools, images, rollout_func and iterable data sets"
        )
    return Chooser(tasks or [None] * len(rows), seed=trainer.args.seed, curriculum=curriculum)


def choose(trainer: GRPOTrainer, inputs: list[dict]) -> list[Group]:
    """Returns the groups that this rank trains on instead of `inputs`, generated and graded.

    Prompts come from the curriculum if there is one. With dynamic sampling, groups without signal are replaced by
    groups of fresh prompts, until there are enough or the recipe's limit of rounds is reached. All ranks gather all
    groups and take their share in the order of generation, so that the set of groups does not depend on the number of
    ranks.
    """
    size, ranks, rank = trainer.num_generations, trainer.accelerator.num_processes, trainer.accelerator.process_index
    step, dynamic, chosen = trainer.state.global_step, trainer.dynamic_sampling, trainer.chooser
    assert chosen is not None  # the trainer calls this only with a chooser
    share = len(inputs) // size
    wanted = share * ranks
    weights = trainer.reward_weights.tolist()
    kept: list[Group] = []
    spare: list[Group] = []
    used: set[int] = set()
    rounds, count = 0, wanted
    while True:
        if rounds or chosen.curriculum is not None:
            numbers = chosen.draw(step, rounds, count, but=used)
            mine = numbers[rank * count // ranks : (rank + 1) * count // ranks]
            inputs = [trainer.train_dataset[number] for number in mine for _ in range(size)]
        groups = [group for groups in gather_object([generate(trainer, inputs)]) for group in groups]
        used |= {group.inputs["row"] for group in groups}
        if groups[0].right is not None:
            chosen.see([(g.inputs["row"], sum(g.right) / len(g.right)) for g in groups], step)
        for group in groups:
            good = dynamic is None or has_signal(group, dynamic.metric, weights)
            (kept if good else spare).append(group)
        if len(kept) >= wanted or dynamic is None or rounds == dynamic.max_rounds:
            break
        rounds += 1
        # As many as needed at the rate of signal so far, and the same number on every rank.
        rate = max(len(kept), 1) / (len(kept) + len(spare))
        count = min(wanted, int((wanted - len(kept)) / rate) + 1)
        count = -(-count // ranks) * ranks
    metrics = trainer._metrics["train"]
    metrics["sampled/rounds"].append(rounds)
    metrics["sampled/groups"].append(len(kept) + len(spare))
    metrics["sampled/signal"].append(len(kept) / (len(kept) + len(spare)))
    everything = [values for group in kept + spare for values in group.rewards]
    totals = [sum(w * v for w, v in zip(weights, values) if v == v) for values in everything]
    metrics["sampled/reward"].append(sum(totals) / len(totals))
    return (kept + spare)[:wanted][rank * share : (rank + 1) * share]


def generate(trainer: GRPOTrainer, inputs: list[dict]) -> list[Group]:
    """Generates and grades completions of this rank's prompts, which are repeated for their groups."""
    prompts = [row["prompt"] for row in inputs]
    prompt_ids, completion_ids, masks, completions, logprobs, *_ = trainer.rollout(inputs, prompts)
    return graded(trainer, inputs, prompt_ids, completion_ids, completions, logprobs, masks)


def graded(
    trainer: GRPOTrainer,
    inputs: list[dict],
    prompt_ids: list[list[int]],
    completion_ids: list[list[int]],
    completions: list[str],
    logprobs: list[list[float]] | None,
    masks: list[list[int]] | None = None,
) -> list[Group]:
    """Grades completions of this rank's prompts; the lists have an item for each completion, group after group."""
    size, first = trainer.num_generations, trainer.accelerator.process_index * len(inputs)
    prompts = [row["prompt"] for row in inputs]
    rewards = trainer.graded(inputs, prompts, completions, completion_ids)[first : first + len(inputs)]
    newest = trainer.rewards.newest if trainer.rewards is not None else None
    right = newest.right if newest is not None else None
    return [
        Group(
            inputs={key: value for key, value in inputs[start].items() if key != "episode"},
            prompt_ids=prompt_ids[start],
            completion_ids=completion_ids[start : start + size],
            completions=completions[start : start + size],
            logprobs=None if logprobs is None else logprobs[start : start + size],
            rewards=rewards[start : start + size].tolist(),
            right=None if right is None else right[start : start + size],
            masks=None if masks is None else masks[start : start + size],
            figures=[figures(row["episode"]) for row in inputs[start : start + size] if "episode" in row],
            of_rewards=None if newest is None else {k: of[start : start + size] for k, of in newest.figures.items()},
        )
        for start in range(0, len(inputs), size)
    ]


def as_generated(groups: list[Group], accelerator) -> tuple[list[dict], tuple, torch.Tensor]:
    """Returns groups in TRL's form: the inputs, the result of `_generate`, and the rewards of all ranks."""
    size = len(groups[0].completion_ids)
    inputs = [group.inputs for group in groups for _ in range(size)]
    logprobs = None
    if groups[0].logprobs is not None:
        logprobs = [x for group in groups for x in group.logprobs or ()]
    masks = None
    if groups[0].masks is not None:
        masks = [mask for group in groups for mask in group.masks or ()]
    generated = (
        [group.prompt_ids for group in groups for _ in range(size)],
        [ids for group in groups for ids in group.completion_ids],
        masks,
        [text for group in groups for text in group.completions],
        logprobs,
        {},
        None,
        [],
    )
    rewards = torch.tensor([values for group in groups for values in group.rewards], device=accelerator.device)
    return inputs, generated, accelerator.gather(rewards)
