"""GRPO as one readable loop: what r1lab's trainer computes, without packing, engines or multiple processes.

Run `python examples/grpo_loop.py`: a tiny model learns Knights and Knaves puzzles with two people, in a few minutes on
two cores. The equations are those of DeepSeekMath (arXiv:2402.03300). DeepSeek-R1 (arXiv:2501.12948) has the same
equations as 1 to 3, with the ratio of the whole completion.
"""

import argparse
import copy
import time

import torch

from r1lab.data import knights_knaves
from r1lab.models import loading, prompts
from r1lab.rewards import knights_knaves_reward


@torch.no_grad()
def sample(model, tokenizer, texts: list[str], *, group: int, max_tokens: int, temperature: float) -> dict:
    """Samples `group` completions o_i of each prompt q from the current policy.

    Returns:
        `prompt_ids`, `prompt_mask` (B, P), padded on the left, and `completion_ids`, `completion_mask` (B, C), padded
        on the right. Completions of the same group are adjacent.
    """
    prompt = tokenizer(texts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt")
    whole = model.generate(
        **prompt,
        do_sample=True,
        temperature=temperature,
        top_k=0,  # the whole distribution; otherwise the samples are not from the policy
        top_p=1.0,
        num_return_sequences=group,
        max_new_tokens=max_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    completion_ids = whole[:, prompt["input_ids"].size(1) :]
    ended = (completion_ids == tokenizer.eos_token_id).long().cumsum(dim=1)
    # The end token belongs to the completion; everything after it is padding.
    completion_mask = ((ended == 0) | ((ended == 1) & (completion_ids == tokenizer.eos_token_id))).long()
    return {
        "prompt_ids": prompt["input_ids"].repeat_interleave(group, dim=0),
        "prompt_mask": prompt["attention_mask"].repeat_interleave(group, dim=0),
        "completion_ids": completion_ids,
        "completion_mask": completion_mask,
    }


def token_logps(model, batch: dict, *, temperature: float = 1.0) -> torch.Tensor:
    """Returns (B, C), log pi(o_t | q, o_<t) of every completion token."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    logits = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
    before = logits[:, -batch["completion_ids"].size(1) - 1 : -1]  # the logits at t - 1 predict token t
    logps = (before.float() / temperature).log_softmax(dim=-1)
    return logps.gather(-1, batch["completion_ids"][..., None]).squeeze(-1)


def advantages(rewards: torch.Tensor, group: int) -> torch.Tensor:
    """Returns (B,), each reward relative to its group: A_i = (r_i - mean(r)) / std(r), section 4.1.2.

    A group whose rewards are all equal has advantage 0 and contributes no gradient.
    """
    groups = rewards.view(-1, group)
    centered = groups - groups.mean(dim=1, keepdim=True)
    return (centered / (groups.std(dim=1, keepdim=True) + 1e-4)).flatten()


def grpo_loss(
    logps: torch.Tensor,
    old: torch.Tensor,
    advantage: torch.Tensor,
    mask: torch.Tensor,
    *,
    reference: torch.Tensor | None = None,
    epsilon: float = 0.2,
    beta: float = 0.0,
) -> torch.Tensor:
    """Returns the negative of the objective, equation 3.

    Args:
        logps, old, reference: (B, C), log-probabilities under the current policy, the policy that generated the
            completions, and the reference policy, which the KL term keeps the current policy close to.
        advantage: (B,), the same for each token of a completion.
        mask: (B, C), 1 for the tokens of the completions.
        epsilon: How far a token's ratio may move from 1 before it is clipped.
        beta: The weight of the KL term.
    """
    ratio = (logps - old).exp()
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon)
    gain = torch.min(ratio * advantage[:, None], clipped * advantage[:, None])
    if reference is not None:
        # Equation 4: an unbiased, never negative estimate of KL(pi || pi_ref) from one token.
        gain = gain - beta * ((reference - logps).exp() - (reference - logps) - 1)
    # The mean over the tokens of each completion, then over the completions.
    return -((gain * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)).mean()


def main(args: argparse.Namespace) -> list[float]:
    """Trains the model and returns the mean reward of each step."""
    torch.manual_seed(args.seed)
    tokenizer = loading.load_tokenizer(args.model)
    policy = loading.load_model(args.model, dtype="float32").train()
    reference = copy.deepcopy(policy).eval() if args.beta else None
    rows = knights_knaves(people=2, names=16, sayings=1, copies=20, size=args.steps * args.prompts, seed=args.seed)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=args.learning_rate, weight_decay=0.0)
    means = []
    for step in range(args.steps):
        started = time.time()
        # 1. Sample a group of completions for each prompt.
        some = rows[step * args.prompts : (step + 1) * args.prompts]
        rendered = [prompts.render(row["prompt"], tokenizer, template="r1-zero") for row in some]
        texts = [text for text, _ in rendered]
        drawn = {"group": args.group, "max_tokens": args.max_tokens, "temperature": args.temperature}
        batch = sample(policy, tokenizer, texts, **drawn)
        # 2. A rule scores each completion: 1 for a correct answer in the required format, otherwise 0.
        written = tokenizer.batch_decode(batch["completion_ids"], skip_special_tokens=True)
        prefills = [prefill for _, prefill in rendered for _ in range(args.group)]
        answers = [row["answer"] for row in some for _ in range(args.group)]
        turns = [prefill + text for prefill, text in zip(prefills, written)]
        rewards = torch.tensor(knights_knaves_reward(turns, answer=answers), dtype=torch.float32)
        batch["advantage"] = advantages(rewards, args.group)
        # 3. The log-probabilities of the old policy and of the reference stay fixed while the policy is updated. With
        #    one update, the current policy is still the old one: every ratio is 1, and nothing is clipped.
        parts = torch.arange(len(rewards)).split(args.rows)  # micro-batches of as many rows as memory allows
        fixed = {"old": policy if args.updates > 1 else None, "reference": reference}
        with torch.no_grad():
            for name, model in fixed.items():
                if model is not None:
                    pieces = [{key: value[part] for key, value in batch.items()} for part in parts]
                    found = [token_logps(model, piece, temperature=args.temperature) for piece in pieces]
                    batch[name] = torch.cat(found)
        # 4. Update the policy once or several times on these completions.
        for _ in range(args.updates):
            for part in parts:
                piece = {key: value[part] for key, value in batch.items()}
                logps = token_logps(policy, piece, temperature=args.temperature)
                old = piece.get("old", logps.detach())
                settings = {"reference": piece.get("reference"), "epsilon": args.epsilon, "beta": args.beta}
                loss = grpo_loss(logps, old, piece["advantage"], piece["completion_mask"], **settings)
                (loss * len(part) / len(rewards)).backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        means.append(rewards.mean().item())
        length = batch["completion_mask"].sum(dim=1).float().mean()
        taken = time.time() - started
        print(f"step {step + 1}: reward {means[-1]:.2f}, {length:.0f} tokens, {taken:.1f} s", flush=True)
    return means


def parser() -> argparse.ArgumentParser:
    """The command-line settings and their defaults."""
    made = argparse.ArgumentParser(description="Trains a tiny model with GRPO in one readable loop.")
    made.add_argument("--model", default="embedded:tiny-qwen2", help="a folder, a Hub id or embedded:NAME")
    for name, default in {
        "steps": 40, "prompts": 8, "group": 8, "rows": 16, "updates": 1, "max-tokens": 192, "temperature": 1.0,
        "learning-rate": 2.5e-4, "epsilon": 0.2, "beta": 0.0, "seed": 0,
    }.items():  # fmt: skip
        made.add_argument(f"--{name}", type=type(default), default=default, help=f"default {default}")
    return made


if __name__ == "__main__":
    main(parser().parse_args())
