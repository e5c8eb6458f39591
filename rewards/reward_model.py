"""The score that a reward model, a classifier with a scalar output, gives a completion."""

import re
from functools import cache
from typing import Literal

from r1lab.errors import UserError
from r1lab.grading.parts import final_text
from r1lab.models import loading
from r1lab.rewards.facts import reward
from r1lab.rewards.score import Score


@reward(looks_for="work", asks="model", needs=("model",))
def reward_model_reward(
    completions,
    *,
    prompts,
    model: str = "",
    scope: Literal["summary", "whole"] = "summary",
    head: int = 0,
    batch_size: int = 8,
    max_length: int = 2048,
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto",
    device: str = "auto",
    empty_score: float = 0.0,
    **columns,
) -> list[float]:
    """The logit that a Hugging Face sequence-classification model gives a completion, such as for helpfulness.

    These are the model-based rewards of R1's second RL stage (DeepSeek-R1, arXiv:2501.12948, section 2.3.4):
    helpfulness is judged on the final summary alone, which leaves the thinking free, harmlessness on the whole
    response. R1 used them only in the last 400 of 1,700 steps (version 2, section 3.2.2), because over more steps a
    policy exploits the errors of the reward model.

    The model reads the prompt and the response in its own chat template, or as a text pair if it has none. Its special
    tokens are removed from both texts: a completion cannot close its turn and add another. Text that is too long is
    truncated at its beginning, because a decoder's score is read from the last token. The model is loaded once per
    process and stays on its device.

    Args:
        completions: Responses, with a prefilled `<think>` restored.
        prompts: For each row the prompt, a string or chat messages.
        model: A Hub id or a folder.
        scope: `"summary"`: the text after the last `</think>`. `"whole"`: the response, without what the chat template
            drops: the templates of reasoning models may drop the thinking.
        head: Which of the model's logits, counted from 0, if it has several.
        batch_size: The number of completions per batch, sorted by length. It changes no score beyond rounding.
        max_length: Maximum tokens of prompt and response together; the tokenizer's own limit also applies.
        dtype: `"auto"`: bfloat16 on a GPU, float32 on a CPU.
        device: `"auto"`: the GPU if there is one.
        empty_score: The score of a response without text, or without a summary. Logits are often negative: set it
            below those that the model gives, or empty responses pay.

    Returns:
        `Score`s, any finite number, with the reasons judged, truncated (judged without its beginning), empty and
            no_summary (the thinking never ended, or nothing follows it).

    >>> reward_model_reward([" "], prompts=["Hello!"], model="my/reward-model", empty_score=-5)
    [-5.0]
    """
    if not model:
        raise UserError("rewards: reward_model: model: missing: name a reward model, a Hub id or a folder")
    if scope not in ("summary", "whole"):
        raise UserError(f"rewards: reward_model: scope: {scope!r} is not summary or whole")
    if dtype not in ("auto", "bfloat16", "float16", "float32"):
        raise UserError(f"rewards: reward_model: dtype: {dtype!r} is not auto, bfloat16, float16 or float32")
    for name, value in (("batch_size", batch_size), ("max_length", max_length)):
        if value < 1:
            raise UserError(f"rewards: reward_model: {name}: {value} is below 1")
    texts = [judged_text(turn, scope) for turn in completions]
    scores = {
        i: Score(empty_score, "no_summary" if completions[i].strip() else "empty")
        for i, text in enumerate(texts)
        if not text
    }
    places = [i for i, text in enumerate(texts) if text]
    if not places:
        return list(scores.values())
    network, tokenizer = _load(model, dtype, device)
    if not 0 <= head < network.config.num_labels:
        raise UserError(
            f"rewards: reward_model: head: {head}: {model} has {network.config.num_labels}, counted from 0"
        )
    limit = min(max_length, tokenizer.model_max_length)
    encoded = [encode(tokenizer, prompts[i], texts[i], limit) for i in places]
    by_length = sorted(range(len(places)), key=lambda k: len(encoded[k][0]["input_ids"]))
    for start in range(0, len(places), batch_size):
        batch = by_length[start : start + batch_size]
        logits = _forward(network, tokenizer, [encoded[k][0] for k in batch])
        for k, values in zip(batch, logits):
            scores[places[k]] = Score(values[head], "truncated" if encoded[k][1] else "judged")
    return [scores[i] for i in range(len(texts))]


def judged_text(turn: str, scope: str) -> str:
    """The part of a response that is judged, stripped; empty if there is none.

    >>> judged_text("<think> 3 + 4 </think> It is 7.", "summary"), judged_text("<think> 3 + 4", "summary")
    ('It is 7.', '')
    """
    return (turn if scope == "whole" else final_text(turn) or "").strip()


@cache
def _load(model: str, dtype: str, device: str):
    """A reward model on its device and its tokenizer, which pads on the right and truncates on the left."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = loading.resolve(model)
    try:
        network, info = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=loading.torch_dtype(dtype), output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="right", truncation_side="left")
        network = network.eval().to(device)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        why = str(error).partition("\n")[0]
        raise UserError(f"rewards: reward_model: model: {model} does not load: {why}") from error
    if info["missing_keys"]:  # transformers fills them with random numbers: a meaningless head
        missing = ", ".join(sorted(info["missing_keys"]))
        raise UserError(f"rewards: reward_model: model: {model} is not a reward model: no weights for {missing}")
    # A decoder's score is read from the last token that is not its padding token, so both must use the same one.
    config = network.config.get_text_config()
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(config.pad_token_id)
    return network, tokenizer


def encode(tokenizer, prompt: str | list[dict], text: str, limit: int) -> tuple[dict, bool]:
    """The model's inputs for a prompt and a response, at most `limit` tokens, and whether they were truncated."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    messages = [*messages, {"role": "assistant", "content": text}]
    messages = [message | {"content": without_special(tokenizer, message["content"])} for message in messages]
    if tokenizer.chat_template:
        pair = (tokenizer.apply_chat_template(messages, tokenize=False),)
    else:
        pair = ("\n".join(message["content"] for message in messages[:-1]), messages[-1]["content"])
    special = not tokenizer.chat_template  # which has added them already
    whole = tokenizer(*pair, add_special_tokens=special)
    if len(whole["input_ids"]) <= limit:
        return whole, False
    return tokenizer(*pair, add_special_tokens=special, truncation=True, max_length=limit), True


def without_special(tokenizer, text: str) -> str:
    """A text without the tokenizer's special tokens, with which it could close its turn and add another."""
    text = text.encode(errors="replace").decode()  # tokenizers do not accept a lone surrogate
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    special = {*added, *tokenizer.all_special_tokens}
    return re.sub("|".join(re.escape(token) for token in special), " ", text) if special else text


def _forward(network, tokenizer, inputs: list[dict]) -> list[list[float]]:
    import torch

    batch = tokenizer.pad(inputs, return_tensors="pt").to(network.device)
    with torch.inference_mode():
        return network(**batch).logits.float().tolist()
