"""Prompt templates, the think prefill, and what SFT supervises."""

from functools import lru_cache

R1_ZERO = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant "
    "first thinks about the reasoning process in the mind and then provides the user with the answer. The reasoning "
    "process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, i.e., <think> "
    "reasoning process here </think> <answer> answer here </answer>. User: {question} Assistant:"
)
"""DeepSeek-R1 (arXiv:2501.12948), Table 1."""

LOGIC_RL = (
    "You are a helpful assistant. The assistant first thinks about the reasoning process in the mind and then "
    "provides the user with the answer. The reasoning process and answer are enclosed within <think> </think> "
    "and<answer> </answer> tags, respectively, i.e., <think> reasoning process here </think><answer> answer here "
    "</answer>.  Now the user asks you to solve a logical reasoning problem. After thinking, when you finally "
    "reach a conclusion, clearly state the identity of each character within <answer> </answer> tags. i.e., "
    "<answer> (1) Zoey is a knight\n(2) ... </answer>.\n"
)
"""Logic-RL (arXiv:2502.14768), the system prompt in its data, letter for letter."""

OPEN_R1 = (
    "You are a helpful AI Assistant that provides well-reasoned and detailed responses. You first think about the "
    "reasoning process as an internal monologue and then provide the user with the answer. Respond in the following "
    "format: <think>\n...\n</think>\n<answer>\n...\n</answer>"
)
"""Open-R1, the system prompt of its GRPO recipes."""

TEMPLATES = {
    "none": "the question alone, as it stands",
    "chat": "the model's own chat template",
    "r1-zero": "DeepSeek-R1-Zero's User/Assistant text, for base models",
    "logic-rl": "Logic-RL's system prompt in the chat template, <think> prefilled",
    "open-r1": "Open-R1's system prompt in the chat template",
}


def render(prompt: str | list[dict], tokenizer, *, template: str = "none", system: str | None = None):
    """The text that the model continues, and what of the assistant's turn it already holds.

    Args:
        prompt: The question, or chat messages (whose last message is the user's).
        template: A name in `TEMPLATES`.
        system: A system prompt of your own in place of the template's.

    Returns:
        `(text, prefill)`: `text` ends where the model starts to write; `prefill` is the end of `text` that belongs to
        the assistant's turn (`"<think>"`, or nothing), which rewards see put back. Tokenize `text` without special
        tokens: the chat template has written them already.
    """
    if template == "none":
        if not isinstance(prompt, str):
            raise ValueError("template none takes a string prompt; use template chat for messages")
        return _start(tokenizer) + prompt, ""
    if template == "r1-zero":
        question = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        return _start(tokenizer) + R1_ZERO.replace("{question}", question), ""
    listed = messages(prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}],
                      template=template, system=system)  # fmt: skip
    text = tokenizer.apply_chat_template(listed, tokenize=False, add_generation_prompt=True)
    opened = "<think>" if template == "logic-rl" else ""
    if opened and not text.rstrip().endswith(opened):  # some templates (R1-Distill) prefill the tag themselves
        text += opened
    return text, "<think>" if text.rstrip().endswith("<think>") else ""


@lru_cache(maxsize=8)
def _start(tokenizer) -> str:
    """The beginning-of-text token, for tokenizers that put one before plain text."""
    ids = tokenizer("a")["input_ids"]
    bos = tokenizer.bos_token_id
    return tokenizer.bos_token if bos is not None and ids and ids[0] == bos else ""


def messages(prompt: str | list[dict], *, template: str = "none", system: str | None = None) -> str | list[dict]:
    """What a server is asked, which applies a chat template itself: messages, or text for templates that are text."""
    if template in ("none", "r1-zero") and isinstance(prompt, str):
        return prompt if template == "none" else R1_ZERO.replace("{question}", prompt)
    listed = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if template == "logic-rl" and not listed[-1]["content"].endswith("\n"):
        listed[-1] = listed[-1] | {"content": f"{listed[-1]['content']}\n"}  # as its data has it
    system = system or {"logic-rl": LOGIC_RL, "open-r1": OPEN_R1}.get(template)
    if system:
        listed = [{"role": "system", "content": system}] + [m for m in listed if m["role"] != "system"]
    return listed


def written(completion: str | list[dict], prefill: str, template: str) -> str:
    """A completion as the model has to write it after its prompt: a tag that is prefilled is not written twice."""
    text = completion if isinstance(completion, str) else completion[-1]["content"]
    if prefill and text.lstrip().startswith(prefill):
        return text.lstrip()[len(prefill) :]
    return " " + text.lstrip() if template == "r1-zero" else text


def example(
    row: dict, tokenizer, *, template: str = "none", system: str | None = None, keys: tuple[str, ...] = ("completion",)
) -> dict[str, list[int]]:
    """The tokens of a row: `prompt_ids`, and for each of its completions under `keys` its tokens, `completion_ids`.

    A completion ends with the end-of-turn token.
    """
    text, prefill = render(row["prompt"], tokenizer, template=template, system=system)
    ids = {"prompt_ids": tokenizer(text, add_special_tokens=False)["input_ids"]}
    for key in keys:
        completion = written(row[key], prefill, template)
        ids[f"{key}_ids"] = tokenizer(completion, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    return ids
