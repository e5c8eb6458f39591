"""Prompt templates, the think prefill, and what SFT supervises."""

from functools import lru_cache

from r1lab.errors import UserError

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


SYSTEM = {"logic-rl": LOGIC_RL, "open-r1": OPEN_R1}
"""The system prompts of templates that have one."""

PLAIN = ("none", "r1-zero")
"""Templates that are plain text: the model's chat template has no part in them."""

_SPEAKERS = {"user": "User", "assistant": "Assistant"}
_OPENED = "<think>"


def render(prompt: str | list[dict], tokenizer, *, template: str = "none", system: str | None = None):
    """The text that the model continues, and what of the assistant's turn it already holds.

    Args:
        prompt: The question, or chat messages (whose last message is the user's), each with a text as its `content`.
        template: A name in `TEMPLATES`.
        system: A system prompt of your own in place of the template's.

    Returns:
        `(text, prefill)`: `text` ends where the model starts to write; `prefill` is the end of `text` that belongs to
        the assistant's turn, to the letter (`"<think>"`, `"<think>\\n"`, or nothing), which rewards see put back.
        Tokenize `text` without special tokens: the chat template has written them already.

    Raises:
        UserError: The template has no place for one of the messages, or the model's chat template refuses them.
    """
    if template in PLAIN:
        text = _start(tokenizer) + plain(prompt, template=template, system=system)
        return text, _prefill(text)
    if not tokenizer.chat_template:
        what = f"prompt.template: {template}: the model has no chat template ({type(tokenizer).__name__})"
        raise UserError(f"{what}: set prompt.template: r1-zero")
    text = chat_text(messages(prompt, template=template, system=system), tokenizer)
    if template == "logic-rl" and not _prefill(text):  # some templates (R1-Distill) prefill the tag themselves
        text += _OPENED
    return text, _prefill(text)


def chat_text(listed: list[dict], tokenizer, *, open_turn: bool = True) -> str:
    """Messages in the model's own chat template, with what begins the assistant's turn unless `open_turn` is false.

    Raises:
        UserError: The chat template refuses the messages.
    """
    try:
        return tokenizer.apply_chat_template(listed, tokenize=False, add_generation_prompt=open_turn)
    except Exception as error:  # a chat template is a program of its author's, which may raise anything
        why = " ".join(str(error).split())[:160]
        fix = "set prompt.template: r1-zero, or name another model"
        if "system" in why.lower():
            fix = "set prompt.template: r1-zero, or leave prompt.system out and say it in the question"
        raise UserError(f"prompt.template: the model's chat template refuses a prompt: {why}: {fix}") from error


def plain(prompt: str | list[dict], *, template: str, system: str | None = None) -> str:
    """A prompt in one of the templates that are plain text.

    Raises:
        UserError: The template has no place for the system prompt or for one of the messages.

    >>> said = (("user", "2+2?"), ("assistant", "4"), ("user", "Sure?"))
    >>> plain([{"role": role, "content": text} for role, text in said], template="r1-zero")[-57:]
    '</answer>. User: 2+2? Assistant: 4 User: Sure? Assistant:'
    """
    if system:
        raise UserError(f"prompt.system: template {template} has no place for a system prompt: set template: chat")
    if template == "none":
        if isinstance(prompt, str):
            return prompt
        raise UserError("prompt.template: none takes a prompt that is text, not messages: set prompt.template: chat")
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if odd := [turn["role"] for turn in turns if turn["role"] not in _SPEAKERS]:
        what = f"prompt.template: r1-zero has no place for a message with the role {odd[0]}"
        raise UserError(f"{what}: set prompt.template: chat, or leave the message out of the data")
    said = " ".join(f"{_SPEAKERS[turn['role']]}: {turn['content']}" for turn in turns)
    return R1_ZERO.replace("User: {question}", said)


def _prefill(text: str) -> str:
    """The end of a prompt that opens the thinking."""
    return text[text.rindex(_OPENED) :] if text.rstrip().endswith(_OPENED) else ""


def joined(prompt: str | list[dict]) -> str:
    """A prompt as one text, for models without a chat template."""
    return prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt)


@lru_cache(maxsize=8)
def _start(tokenizer) -> str:
    """The beginning-of-text token, for tokenizers that put one before plain text."""
    ids = tokenizer("a")["input_ids"]
    bos = tokenizer.bos_token_id
    return tokenizer.bos_token if bos is not None and ids and ids[0] == bos else ""


def messages(prompt: str | list[dict], *, template: str = "none", system: str | None = None) -> str | list[dict]:
    """What a server is asked, which applies a chat template itself: messages, or text for templates that are text."""
    if template == "r1-zero" or (template == "none" and isinstance(prompt, str)):
        return plain(prompt, template=template, system=system)
    listed = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if template == "logic-rl" and not listed[-1]["content"].endswith("\n"):
        listed[-1] = listed[-1] | {"content": f"{listed[-1]['content']}\n"}  # as its data has it
    system = system or SYSTEM.get(template)
    if system:
        listed = [{"role": "system", "content": system}] + [m for m in listed if m["role"] != "system"]
    return listed


def written(completion: str | list[dict], prefill: str, template: str) -> str:
    r"""A completion as the model has to write it after its prompt: what is prefilled is not written twice.

    >>> written("<think>\nTwo and two.\n</think>\n\n4", "<think>\n", "chat")
    'Two and two.\n</think>\n\n4'
    """
    text = text_of(completion)
    if prefill:
        if text.startswith(prefill):
            return text[len(prefill) :]
        if text.lstrip().startswith(_OPENED):  # with other white space than the prompt's, which stands there already
            rest = text.lstrip().removeprefix(_OPENED)
            return rest.lstrip() if prefill != _OPENED else rest
        return text
    return " " + text.lstrip() if template == "r1-zero" else text


def text_of(completion: str | list[dict]) -> str:
    """The text of a completion, which may be given as messages."""
    return completion if isinstance(completion, str) else completion[-1]["content"]


def turn_end(tokenizer) -> int | None:
    """The token that ends the assistant's turn in the chat template, None where it writes none."""
    return _turn_end(tokenizer, str(tokenizer.chat_template))


@lru_cache(maxsize=8)
def _turn_end(tokenizer, chat_template: str) -> int | None:
    content = "r1lab"
    listed = [{"role": "user", "content": "?"}, {"role": "assistant", "content": content}]
    try:
        text = chat_text(listed, tokenizer, open_turn=False)
    except UserError:  # `render` reports it
        return None
    ids = tokenizer(text[text.rfind(content) + len(content) :], add_special_tokens=False)["input_ids"]
    special = special_ids(tokenizer)
    return next((token for token in ids if token in special), None)


def special_ids(tokenizer) -> set[int]:
    """Tokens that decoding skips: those with a part to play, and those added as special."""
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)


def without_end(text: str, tokenizer) -> str:
    """A completion less the end tokens that it holds already: `example` adds the one that is trained on.

    >>> from r1lab.models.loading import load_tokenizer
    >>> without_end("4<|im_end|>\\n<|endoftext|>", load_tokenizer("embedded:tiny-qwen2"))
    '4'
    """
    ids = (tokenizer.eos_token_id, tokenizer.pad_token_id, turn_end(tokenizer))
    ends = [tokenizer.convert_ids_to_tokens(token) for token in ids if token is not None]
    while end := next((end for end in ends if text.rstrip().endswith(end)), None):
        text = text.rstrip().removesuffix(end)
    return text


def example(
    row: dict, tokenizer, *, template: str = "none", system: str | None = None, keys: tuple[str, ...] = ("completion",)
) -> dict[str, list[int]]:
    """The tokens of a row: `prompt_ids`, and for each of its completions under `keys` its tokens, `completion_ids`.

    A completion ends with the tokenizer's end token, once.
    """
    text, prefill = render(row["prompt"], tokenizer, template=template, system=system)
    ids = {"prompt_ids": tokenizer(text, add_special_tokens=False)["input_ids"]}
    for key in keys:
        completion = without_end(written(row[key], prefill, template), tokenizer)
        ids[f"{key}_ids"] = tokenizer(completion, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    return ids
