"""Prompt templates, the think prefill, and what SFT supervises."""

from functools import lru_cache
from pathlib import Path

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

PREFILL = {"logic-rl": "<think>"}
"""What a template begins the assistant's turn with, unless the model's chat template does so itself."""

PLAIN = {"none": "{question}", "r1-zero": R1_ZERO}
"""Templates that are plain text: the model's chat template has no part in them, nor in a text of the recipe's own."""

_SPEAKERS = {"user": "User", "assistant": "Assistant"}
_OPENED = "<think>"


def is_file(template: str) -> bool:
    """Whether a template is a file of the user's own and not a name in `TEMPLATES`."""
    return template.endswith(".jinja")


def is_plain(*, template: str = "none", text: str | None = None, **_) -> bool:
    """Whether a prompt is plain text, in which no chat template has a part."""
    return text is not None or template in PLAIN


def wording(*, template: str = "none", text: str | None = None, **_) -> str:
    """The words of a prompt that the recipe has itself, or else the name of its template."""
    return text if text is not None else read_template(template) if is_file(template) else template


def read_template(path: str) -> str:
    """A chat template of the user's own.

    It is written as those of transformers are, in jinja, and given `messages`, `add_generation_prompt`, the
    tokenizer's special tokens (`bos_token`, ...), and `question`: the text of the last message of the user.

    Raises:
        UserError: There is no such file, it is not jinja, or it says nothing of the question.
    """
    try:
        found = Path(path).stat()
        return _read_template(path, (found.st_mtime_ns, found.st_size))
    except OSError as error:
        raise UserError(f"prompt.template: {path}: {error.strerror}: write it, or name another one") from error


@lru_cache(maxsize=8)
def _read_template(path: str, version: tuple[int, int]) -> str:
    """The template in a file as it is now: it is asked for with each prompt."""
    import jinja2
    from jinja2 import meta

    source = Path(path).read_text(encoding="utf-8")
    try:
        parsed = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(source)  # as transformers does
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"prompt.template: {path}:{error.lineno}: {error.message}: correct the template") from error
    if not meta.find_undeclared_variables(parsed) & {"messages", "question"}:
        what = f"prompt.template: {path}: says nothing of the question"
        raise UserError(f"{what}: write {{{{ question }}}} where it belongs, or go through `messages`")
    return source


def render(
    prompt: str | list[dict],
    tokenizer,
    *,
    template: str = "none",
    system: str | None = None,
    text: str | None = None,
    prefill: str | None = None,
):
    """The text that the model continues, and what of the assistant's turn it already holds.

    Args:
        prompt: The question, or chat messages (whose last message is the user's), each with a text as its `content`.
        template: A name in `TEMPLATES`, or a file of your own (`read_template`).
        system: A system prompt of your own in place of the template's.
        text: A plain text of your own in place of a template, with `{question}` where the question belongs.
        prefill: What the assistant's turn begins with.

    Returns:
        `(text, prefill)`: `text` ends where the model starts to write; `prefill` is the end of `text` that belongs to
        the assistant's turn, to the letter (`"<think>"`, `"<think>\\n"`, or nothing), which rewards see put back.
        Tokenize `text` without special tokens: the chat template has written them already.

    Raises:
        UserError: The template has no place for one of the messages, or the model's chat template refuses them.
    """
    if is_plain(template=template, text=text):
        made = _start(tokenizer) + plain(prompt, template=template, system=system, text=text)
    else:
        if not tokenizer.chat_template and not is_file(template):
            what = f"prompt.template: {template}: the model has no chat template ({type(tokenizer).__name__})"
            raise UserError(f"{what}: set prompt.template: r1-zero")
        made = chat_text(_listed(prompt, template, system), tokenizer, template=template)
        if not opened(made):  # some chat templates (R1-Distill) prefill the tag themselves
            made += PREFILL.get(template, "")
    return with_prefill(made, prefill)


def with_prefill(text: str, prefill: str | None) -> tuple[str, str]:
    """A prompt with what the recipe prefills at its end, and all that the assistant's turn begins with there.

    >>> with_prefill("Assistant: <think>\\n", "<think>"), with_prefill("Assistant: <think>", " Well,")
    (('Assistant: <think>', '<think>'), ('Assistant: <think> Well,', '<think> Well,'))
    """
    begun = opened(text)
    if prefill is None:
        return text, begun
    if prefill.startswith(_OPENED):  # which stands in place of the template's own
        text, begun = text.removesuffix(begun), ""
    return text + prefill, begun + prefill


def chat_text(listed: list[dict], tokenizer, *, template: str = "chat", open_turn: bool = True) -> str:
    """Messages in the model's own chat template, with what begins the assistant's turn unless `open_turn` is false.

    Args:
        template: A file of the user's own stands in place of the model's.

    Raises:
        UserError: The chat template refuses the messages.
    """
    own = {}
    if is_file(template):
        said = [message["content"] for message in listed if message["role"] == "user"]
        own = {"chat_template": read_template(template), "question": said[-1] if said else ""}
    try:
        return tokenizer.apply_chat_template(listed, tokenize=False, add_generation_prompt=open_turn, **own)
    except Exception as error:  # a chat template is a program of its author's, which may raise anything
        why = " ".join(str(error).split())[:160]
        if own:
            what = f"prompt.template: {template}: does not render a prompt: {type(error).__name__}: {why}"
            raise UserError(f"{what}: correct the template") from error
        fix = "set prompt.template: r1-zero, or name another model"
        if "system" in why.lower():
            fix = "set prompt.template: r1-zero, or leave prompt.system out and say it in the question"
        raise UserError(f"prompt.template: the model's chat template refuses a prompt: {why}: {fix}") from error


def plain(prompt: str | list[dict], *, template: str, system: str | None = None, text: str | None = None) -> str:
    """A prompt in one of the templates that are plain text, or in the recipe's own `text`.

    Raises:
        UserError: The template has no place for the system prompt or for one of the messages.

    >>> said = (("user", "2+2?"), ("assistant", "4"), ("user", "Sure?"))
    >>> plain([{"role": role, "content": text} for role, text in said], template="r1-zero")[-57:]
    '</answer>. User: 2+2? Assistant: 4 User: Sure? Assistant:'
    """
    if system and text is not None:
        raise UserError("prompt.system: prompt.text has no place for a system prompt: write it into the text")
    if system:
        raise UserError(f"prompt.system: template {template} has no place for a system prompt: set template: chat")
    pattern = PLAIN[template] if text is None else text
    if isinstance(prompt, str):
        return pattern.replace("{question}", prompt)
    if text is None and template == "none":
        raise UserError("prompt.template: none takes a prompt that is text, not messages: set prompt.template: chat")
    if text is not None or template != "r1-zero":
        if [turn["role"] for turn in prompt] == ["user"]:
            return pattern.replace("{question}", prompt[0]["content"])
        where = f"template: {template}" if text is None else "text:"
        raise UserError(f"prompt.{where} has place for one question, not messages: set prompt.template: chat")
    if odd := [turn["role"] for turn in prompt if turn["role"] not in _SPEAKERS]:
        what = f"prompt.template: r1-zero has no place for a message with the role {odd[0]}"
        raise UserError(f"{what}: set prompt.template: chat, or leave the message out of the data")
    said = " ".join(f"{_SPEAKERS[turn['role']]}: {turn['content']}" for turn in prompt)
    return R1_ZERO.replace("User: {question}", said)


def opened(text: str) -> str:
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


def messages(
    prompt: str | list[dict], *, template: str = "none", system: str | None = None, text: str | None = None, **_
) -> str | list[dict]:
    """What a server is asked, which applies a chat template itself: messages, or text for templates that are text.

    What a recipe prefills is left to `with_prefill`.
    """
    in_text = is_plain(template=template, text=text)
    if in_text and (isinstance(prompt, str) or text is not None or template != "none"):
        return plain(prompt, template=template, system=system, text=text)
    return _listed(prompt, template, system)


def _listed(prompt: str | list[dict], template: str, system: str | None) -> list[dict]:
    """Chat messages, with the system prompt of the recipe or else that of the template."""
    listed = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if template == "logic-rl" and not listed[-1]["content"].endswith("\n"):
        listed[-1] = listed[-1] | {"content": f"{listed[-1]['content']}\n"}  # as its data has it
    system = system or SYSTEM.get(template)
    if system:
        listed = [{"role": "system", "content": system}] + [m for m in listed if m["role"] != "system"]
    return listed


def written(completion: str | list[dict], prefill: str, template: str, pattern: str | None = None) -> str:
    r"""A completion as the model has to write it after its prompt: what is prefilled is not written twice.

    Args:
        pattern: The recipe's own text. After one that ends in a word or a mark, as r1-zero's does, comes a space.

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
    pattern = PLAIN.get(template, " ") if pattern is None else pattern
    spaced = not (pattern[-1:].isspace() or pattern.endswith("{question}"))
    return " " + text.lstrip() if spaced else text


def text_of(completion: str | list[dict]) -> str:
    """The text of a completion, which may be given as messages."""
    return completion if isinstance(completion, str) else completion[-1]["content"]


def turn_end(tokenizer, template: str = "chat") -> int | None:
    """The token that ends the assistant's turn in the chat template, None where it writes none."""
    return _turn_end(tokenizer, template, str(tokenizer.chat_template))


@lru_cache(maxsize=8)
def _turn_end(tokenizer, template: str, chat_template: str) -> int | None:
    content = "r1lab"
    listed = [{"role": "user", "content": "?"}, {"role": "assistant", "content": content}]
    try:
        text = chat_text(listed, tokenizer, template=template, open_turn=False)
    except UserError:  # `render` reports it
        return None
    if content not in text:
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
    row: dict, tokenizer, *, keys: tuple[str, ...] = ("completion",), template: str = "none", **prompt
) -> dict[str, list[int]]:
    """The tokens of a row: `prompt_ids`, and for each of its completions under `keys` its tokens, `completion_ids`.

    A completion ends with the tokenizer's end token, once.

    Args:
        prompt: The other arguments of `render`.
    """
    text, prefill = render(row["prompt"], tokenizer, template=template, **prompt)
    ids = {"prompt_ids": tokenizer(text, add_special_tokens=False)["input_ids"]}
    for key in keys:
        completion = without_end(written(row[key], prefill, template, prompt.get("text")), tokenizer)
        ids[f"{key}_ids"] = tokenizer(completion, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    return ids
