"""Whether an answer reads like text that a language model expects."""

import math
from functools import cache
from typing import Literal

from r1lab.errors import UserError
from r1lab.grading.parts import final_text
from r1lab.models import loading
from r1lab.rewards.facts import reward
from r1lab.rewards.prose import words
from r1lab.rewards.reward_model import without_special
from r1lab.rewards.score import Score


@reward(looks_for="manner", asks="model", needs=("model",))
def fluency_reward(
    completions,
    *,
    prompts,
    model: str = "",
    floor: float = -2.5,
    bottom: float = -4.5,
    min_words: int = 1,
    batch_size: int = 16,
    max_length: int = 2048,
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto",
    device: str = "auto",
    **columns,
) -> list[float]:
    """The mean log-probability per token of an answer under a fixed language model, between two bounds.

    Rules for a text, such as those of the reward `instruction`, are met as well by words that mean nothing, and a
    policy that is rewarded for the rules alone unlearns its language. Set `model` to the model that training starts
    from. All answers at or above `floor` score 1: the reward keeps the language and does not make it more predictable,
    as a mean log-probability without a bound would. It does not recognize repetition, which is likely text: add the
    reward `repetition`.

    The model reads the prompt in its own chat template, or as text if it has none. It is loaded once per process and
    stays on its device; the special tokens are removed from the answer.

    Args:
        completions: Responses, with a prefilled `<think>` restored; what follows the last `</think>` is judged.
        prompts: For each row the prompt, a string or chat messages.
        model: A Hub id, a folder or `embedded:NAME`.
        floor: The mean log-probability per token, in nats, from which on an answer scores 1.
        bottom: The mean at or below which it scores 0; between the two the score is linear.
        min_words: An answer of fewer words scores 0.
        batch_size: The number of completions per batch, sorted by length. It changes no score beyond rounding.
        max_length: Maximum tokens of prompt and answer together; the beginning of a longer prompt and the end of a
            longer answer are left out. The tokenizer's own limit also applies.
        dtype: `"auto"`: bfloat16 on a GPU, float32 on a CPU.
        device: `"auto"`: the GPU if there is one.

    Returns:
        `Score`s from 0 to 1, with the reasons `fluent: MEAN`, `unlikely: MEAN`, short, and no_answer (the thinking
            never ended).

    Raises:
        UserError: A setting makes no sense, or the model does not load.

    >>> fluency_reward(["No."], prompts=["Is tea cold?"], model="embedded:tiny-qwen2", min_words=2)
    [0.0]
    """
    if not model:
        raise UserError("rewards: fluency: model: missing: name the model that training starts from")
    if not bottom < floor <= 0:
        raise UserError(f"rewards: fluency: floor: {floor} is not above bottom ({bottom}) and at most 0")
    limits = (("batch_size", batch_size, 1), ("min_words", min_words, 1), ("max_length", max_length, 2))
    for name, value, least in limits:
        if value < least:
            raise UserError(f"rewards: fluency: {name}: {value} is below {least}")
    texts = [final_text(turn) for turn in completions]
    scores = {
        i: Score(0.0, "no_answer" if text is None else "short")
        for i, text in enumerate(texts)
        if text is None or len(words(text)) < min_words
    }
    judged = [i for i in range(len(texts)) if i not in scores]
    if not judged:
        return list(scores.values())
    network, tokenizer = _load(model, dtype, device)
    limit = min(max_length, tokenizer.model_max_length)
    pairs = [_encode(tokenizer, prompts[i], (texts[i] or "").strip(), limit) for i in judged]
    by_length = sorted(range(len(judged)), key=lambda k: len(pairs[k][0]) + len(pairs[k][1]))
    for start in range(0, len(judged), batch_size):
        batch = by_length[start : start + batch_size]
        for k, mean in zip(batch, _means(network, [pairs[k] for k in batch]), strict=True):
            share = min(1.0, max(0.0, (mean - bottom) / (floor - bottom))) if math.isfinite(mean) else 0.0
            scores[judged[k]] = Score(share, f"{'fluent' if share == 1 else 'unlikely'}: {mean:.1f}")
    return [scores[i] for i in range(len(texts))]


@cache
def _load(model: str, dtype: str, device: str):
    """A language model on its device, and its tokenizer."""
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        network = loading.load_model(model, dtype=dtype).eval().to(device)  # pyright: ignore[reportArgumentType]
        return network, loading.load_tokenizer(model)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        why = str(error).partition("\n")[0]
        raise UserError(f"rewards: fluency: model: {model} does not load: {why}") from error


def _encode(tokenizer, prompt: str | list[dict], text: str, limit: int) -> tuple[list[int], list[int]]:
    """The tokens of a prompt and of an answer, at least one of each and at most `limit` together."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    messages = [message | {"content": without_special(tokenizer, message["content"])} for message in messages]
    if tokenizer.chat_template:
        before = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    else:
        before = "\n".join(message["content"] for message in messages) + "\n"
    answer = tokenizer(without_special(tokenizer, text), add_special_tokens=False)["input_ids"][: limit - 1]
    answer = answer or [tokenizer.eos_token_id]  # nothing but special tokens
    asked = tokenizer(before, add_special_tokens=False)["input_ids"] or [tokenizer.eos_token_id]
    return asked[-(limit - len(answer)) :], answer


def _means(network, pairs: list[tuple[list[int], list[int]]]) -> list[float]:
    """The mean log-probability of each answer's tokens, in nats."""
    import torch

    longest = max(len(asked) + len(answer) for asked, answer in pairs)
    ids = torch.zeros(len(pairs), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, (asked, answer) in enumerate(pairs):  # padded on the left, so that all answers end at the same place
        ids[row, longest - len(asked) - len(answer) :] = torch.tensor([*asked, *answer])
        mask[row, longest - len(asked) - len(answer) :] = 1
    ids, mask = ids.to(network.device), mask.to(network.device)
    kept = max(len(answer) for _, answer in pairs)
    with torch.inference_mode():
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        logits = network(input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=kept + 1).logits
        logps = logits[:, :-1].float().log_softmax(-1).gather(-1, ids[:, -kept:, None]).squeeze(-1)
    return [logps[row, kept - len(answer) :].mean().item() for row, (_, answer) in enumerate(pairs)]
