"""Trains on the groups that are finished and graded while vLLM still generates the others, exactly on-policy.

The weights do not change before the optimizer's step, so an update's gradient is the same sum over its completions,
in another order. A second thread computes it; what it has not begun when the last completion ends is computed
afterwards, as without overlap.

There is something to gain because while the last few completions of a rollout run, most of a step of vLLM is Python,
which one core executes. Training is mostly kernels, which do not hold Python's lock. From the first group that is
trained on, each side has half of the cores until the rollout ends. The number of vLLM's threads does not follow the
work more closely, because oneDNN computes a matrix product with as many threads as it was planned for, and vLLM keeps
its plans for each number of completions: they would use cores that are now the other side's.
"""

from __future__ import annotations

import math
import queue
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.modules.dropout import _DropoutNd
from trl.generation.vllm_generation import extract_logprobs
from trl.trainer.utils import nanstd, pad

from r1lab.grpo import batches, metrics
from r1lab.grpo.advantages import advantages
from r1lab.recipe.training import ADVANTAGES_OF_GROUPS

if TYPE_CHECKING:
    from vllm import RequestOutput

    from r1lab.grpo.rewards import BatchRewards
    from r1lab.grpo.trainer import GRPOTrainer


def obstacle(trainer: GRPOTrainer) -> str | None:
    """Returns why a trainer cannot train during its rollouts, or None if it can."""
    args, rewards = trainer.args, trainer.rewards
    served = trainer.use_vllm and hasattr(trainer.vllm_generation, "fleet")
    if not trainer.use_vllm or served or trainer.vllm_generation.mode != "colocate" or args.vllm_enable_sleep_mode:
        return "completions do not come one by one from a vLLM in this process that stays awake"
    if trainer.accelerator.device.type != "cpu" or trainer.accelerator.num_processes > 1 or trainer.sharded:
        return "it is for one process on a CPU"  # several would gather metrics during the rollout
    if not trainer.on_policy or trainer.generation_steps != args.gradient_accumulation_steps:
        return "a rollout is not one update, or another pass computes the old log-probabilities"
    if not trainer.by_rows or trainer.beta or trainer.own_loss is not None:
        return "the loss is not a sum over rows of the policy's log-probabilities alone"
    if trainer.own.advantage is None:
        grouped = trainer.scale_rewards in ("group", "none")
        grouped = grouped and trainer.multi_objective_aggregation == "sum_then_normalize"
    else:
        grouped = trainer.own.advantage in ADVANTAGES_OF_GROUPS
    if not grouped:
        return "advantages may need the rewards of the whole batch"
    if not trainer.own.grade_early or rewards is None or not rewards.any_thread:
        return "groups are graded together, after the rollout"
    if trainer.reward_func_names != list(rewards.grader.names):
        return "rewards are not the grader's alone"
    own = trainer.tools or trainer.rollout_func or trainer.environment_factories
    if trainer.chooser is not None or own or trainer.setting is not None:
        return "the batch is not what vLLM generates for its prompts"
    if args.gradient_checkpointing or _draws(trainer.model):  # checkpoints restore the state of the generator
        return "the training pass draws from the random generator that vLLM samples with"
    return None


def fits(trainer: GRPOTrainer) -> bool:
    """Whether a trainer can train during its rollouts; if not, it prints the reason."""
    why = obstacle(trainer)
    if why and trainer.accelerator.is_main_process:
        print(f"overlap has no effect, and groups are trained on after the rollout: {why}", flush=True)
    return why is None


def _draws(model: torch.nn.Module) -> bool:
    """Whether a model's forward pass has dropout."""
    layers = any(isinstance(module, _DropoutNd) and module.p > 0 for module in model.modules())
    config = vars(model.config)
    return layers or any("drop" in name and isinstance(p, float) and p > 0 for name, p in config.items())


@contextmanager
def during(trainer: GRPOTrainer, rewards: BatchRewards) -> Iterator[Callable[..., object]]:
    """A context for a rollout; yields the function that takes each finished completion, to grade and train on.

    Its arguments are the number of the completion, its token ids, and vLLM's output, which servers do not have.
    Afterwards `trainer.overlapped` is what was trained on, if the trainer can.
    """
    # The last update of an epoch may have fewer micro-steps than a rollout has.
    whole = trainer.current_gradient_accumulation_steps == trainer.args.gradient_accumulation_steps
    if not (trainer.overlaps and whole):
        yield lambda i, token_ids, output=None: rewards.finished(i, token_ids)
        return
    overlap = Overlap(trainer, rewards)
    with overlap.training():
        yield overlap.finished
    trainer.overlapped = overlap


def set_threads(count: int) -> None:
    """Sets how many cores torch uses in the calling thread; vLLM replaces `torch.set_num_threads` by a warning."""
    torch._C.set_num_threads(count)


class Overlap:
    """The part of an update that is computed during its rollout.

    Attributes:
        rows: The completions that are done, as they were used, by their number in the batch.
        loss: The sum of their losses.
        parts: The number of micro-batches they were in.
    """

    def __init__(self, trainer: GRPOTrainer, rewards: BatchRewards):
        self.trainer, self.rewards = trainer, rewards
        self.rows: dict[int, dict] = {}
        self.loss = torch.zeros(())
        self.parts = 0
        # Stands for a divisor that is only known when the last completion ends: no batch has more tokens.
        size = trainer.args.per_device_train_batch_size * trainer.generation_steps
        self.divisor = float(size * trainer.max_completion_length)
        self.threads = torch.get_num_threads()
        self._outputs: dict[int, RequestOutput] = {}
        self._graded: queue.SimpleQueue = queue.SimpleQueue()
        self._begun = self._over = False

    @contextmanager
    def training(self) -> Iterator[None]:
        """A context in which a thread trains on what is finished; its errors are raised at the end."""
        try:
            with ThreadPoolExecutor(1, thread_name_prefix="overlap") as pool:
                work = pool.submit(self._work)
                try:
                    yield
                finally:
                    self._over = True
                    self._graded.put(None)
            work.result()
        finally:
            set_threads(self.threads)

    def finished(self, i: int, token_ids: list[int], output: RequestOutput) -> None:
        """Takes a completion in vLLM's thread."""
        self._outputs[i] = output
        grading = self.rewards.finished(i, token_ids)
        if grading is not None:
            first = i - i % self.trainer.num_generations
            grading.add_done_callback(lambda graded: self._graded.put((first, graded)))
        if self._begun:
            set_threads(self.threads - self.threads // 2)

    def _work(self) -> None:
        """Trains on graded groups until the rollout is over."""
        set_threads(max(1, self.threads // 2))
        while not self._over:
            groups = [self._graded.get()]
            while not self._graded.empty():
                groups.append(self._graded.get())
            if not self._over:
                self._train_on(groups)

    def _train_on(self, groups: list[tuple[int, Future]]) -> None:
        """Trains on groups, each with its first row and its verdicts, as far as the rollout lasts."""
        for part in self._parts([row for group in groups for row in self._scored(*group)]):
            if self._over:
                return
            self._train(part)

    def _scored(self, first: int, grading: Future) -> list[dict]:
        """Returns the completions of a group that contribute to the gradient, without padding."""
        trainer, graded = self.trainer, grading.result()
        names = list(graded.values)
        table = [[torch.nan if v is None else v for v in graded.values[name]] for name in names]
        found = _advantages(trainer, torch.tensor(table, dtype=torch.float32).T).tolist()
        rows = []
        for i, advantage in enumerate(found, start=first):
            output = self._outputs.pop(i)
            ids = list(output.outputs[0].token_ids)
            ended = ids[-1] in (*trainer.eos_token_ids, trainer._tokenizer.pad_token_id)
            scored = ended or not trainer.mask_truncated_completions
            if trainer.skips_no_signal and not (advantage and scored):
                continue
            logprobs, _ = extract_logprobs([output])
            rows.append({
                "row": i, "prompt": list(output.prompt_token_ids or ()), "ids": ids, "advantage": advantage,
                "mask": int(scored),
                "logprobs": logprobs and [torch.nan if x[0] is None else x[0] for x in logprobs[0]],
            })  # fmt: skip
        return rows

    def _parts(self, rows: list[dict]) -> list[list[dict]]:
        """Returns micro-batches of the size that they have without overlap."""
        if not rows:
            return []
        trainer, by_row = self.trainer, {row["row"]: row for row in rows}
        lengths, prompts = ({i: len(row[key]) for i, row in by_row.items()} for key in ("ids", "prompt"))
        budget = trainer.args.per_device_train_batch_size * (max(prompts.values()) + max(lengths.values()))
        budget = trainer.own.max_tokens_per_microbatch or budget
        parts = batches.by_tokens(list(by_row), lengths, prompts, trainer.num_generations, budget)
        return [[by_row[i] for i in part] for part in parts]

    def _train(self, rows: list[dict]) -> None:
        """Adds the loss and gradient of some completions."""
        self._begun, trainer = True, self.trainer
        filler = trainer._tokenizer.pad_token_id

        def padded(lists, value, side):
            return pad([torch.tensor(x) for x in lists], padding_value=value, padding_side=side)

        part: dict[str, Any] = {
            "prompt_ids": padded([row["prompt"] for row in rows], filler, "left"),
            "prompt_mask": padded([[1] * len(row["prompt"]) for row in rows], 0, "left"),
            "completion_ids": padded([row["ids"] for row in rows], filler, "right"),
            "completion_mask": padded([[row["mask"]] * len(row["ids"]) for row in rows], 0, "right"),
            "advantages": torch.tensor([row["advantage"] for row in rows]),
            "num_items_in_batch": torch.tensor(self.divisor),
        }
        if rows[0]["logprobs"] is not None:
            part["sampling_per_token_logps"] = padded([row["logprobs"] for row in rows], 0.0, "right")
        scored = [len(row["ids"]) * row["mask"] for row in rows]
        part["share"] = batches.share(trainer, list(range(len(rows))), scored, self.divisor, trainer.generation_steps)
        with trainer.compute_loss_context_manager():
            loss = trainer._part_loss(trainer.model_wrapped, part)
        trainer.accelerator.backward(loss)
        self.loss = self.loss + loss.detach()
        self.parts += 1
        self.rows |= {row["row"]: row for row in rows}

    def settle(self, batch: dict) -> list[int]:
        """Gives the gradient so far the divisor of the whole batch, and returns the rows that it covers.

        If the batch, the result of `_generate_and_score_completions`, has other completions or advantages than those
        that were used, the gradient is dropped, and all is computed as without overlap.
        """
        trainer = self.trainer
        if not all(_same(row, batch) for row in self.rows.values()):
            self.rows, self.loss = {}, torch.zeros(())
            metrics.forget(trainer, self.parts)
            trainer.model.zero_grad()
        factor = 1.0
        if trainer.loss_type in ("dapo", "cispo", "vespo"):
            factor = self.divisor / max(1.0, float(batch["num_items_in_batch"]))
        elif trainer.loss_type == "bnpo":
            factor = self.divisor / max(1, int(batches.loss_mask(batch).sum()))
        self.loss = self.loss * factor
        for p in trainer.model.parameters():
            if p.grad is not None and factor != 1:
                p.grad.mul_(factor)
        return list(self.rows)


def _same(row: dict, batch: dict) -> bool:
    """Whether a completion was used with the tokens, the mask and the advantage that it has in the whole batch."""
    i, ids = row["row"], row["ids"]
    tokens = batch["completion_ids"][i, : len(ids)].tolist() == ids
    mask = int(batch["completion_mask"][i].sum()) == len(ids) * row["mask"]
    return tokens and mask and math.isclose(batch["advantages"][i], row["advantage"], rel_tol=1e-5, abs_tol=1e-7)


def _advantages(trainer: GRPOTrainer, rewards: torch.Tensor) -> torch.Tensor:
    """Returns the advantages of a group, as the trainer and TRL compute them in a batch.

    Args:
        rewards: (completions of the group, number of rewards), NaN where a reward does not apply.
    """
    total = (rewards * trainer.reward_weights).nansum(dim=1)
    total[rewards.isnan().all(dim=1)] = torch.nan
    if trainer.own.advantage is not None:
        return advantages(total, len(total), trainer.own.advantage)
    found = total - total.nanmean()
    if trainer.scale_rewards == "group":
        found = found / (nanstd(total[None], dim=1) + 1e-4)
    return found.nan_to_num(nan=0.0)
