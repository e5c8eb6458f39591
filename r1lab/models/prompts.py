"""Prompt templates, the think prefill, and the tokens that SFT trains on."""

from functools import lru_cache
from pathlib import Path

from r1lab.errors import UserError
from r1lab.models import tools as tools_of
from r1lab.text import did_you_mean_path

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
"""Logic-RL (arXiv:2502.14768), the system prompt in its data, verbatim."""

OPEN_R1 = (
    "You are a helpful AI Assistant that provides well-reasoned and detailed responses. You first think about the "
    "reasoning process as an internal monologue and then provide the user with the answer. Respond in the following "
    "format: <think>\n...\n</think>\n<answer>\n...\n</answer>"
)
"""Open-R1, the system prompt of its GRPO recipes."""

TEMPLATES = {
    "none": "the question alone, unchanged",
    "chat": "the model's own chat template",
    "r1-zero": "DeepSeek-R1-Zero's User/Assistant text, for base models",
    "logic-rl": "Logic-RL's system prompt in the chat template, <think> prefilled",
    "open-r1": "Open-R1's system prompt in the chat template",
}


SYSTEM = {"logic-rl": LOGIC_RL, "open-r1": OPEN_R1}
"""The system prompts of templates that have one."""

PREFILL = {"logic-rl": "<think>"}
"""The beginning of the assistant's turn in a template, unless the model's chat template adds it itself."""

CLOSE = {
    "r1-zero": " </think> <answer>",
    "logic-rl": "</think><answer>",
    "open-r1": "\n</think>\n<answer>\n",
}
"""The text that ends the thinking and begins the answer, in the templates that require tags."""

PLAIN = {"none": "{question}", "r1-zero": R1_ZERO}
"""Templates that are plain text: they do not use the model's chat template, and neither does a recipe's own text."""

_SPEAKERS = {"user": "User", "assistant": "Assistant"}
_OPENED = "<think>"


def is_file(template: str) -> bool:
    """Whether a template is a user's file instead of a name in `TEMPLATES`."""
    return template.endswith(".jinja")


def is_plain(*, template: str = "none", text: str | None = None, **_) -> bool:
    """Whether a prompt is plain text without a chat template."""
    return text is not None or template in PLAIN


def wording(*, template: str = "none", text: str | None = None, **_) -> str:
    """Returns the text of a prompt if the recipe has its own, or else the name of its template."""
    return text if text is not None else read_template(template) if is_file(template) else template


def closing(template: str) -> str:
    """Returns the text that ends the thinking and begins the answer.

    Args:
        template: The wording of a prompt (`wording`).

    >>> closing("r1-zero"), closing("chat")
    (' </think> <answer>', '\\n</think>\\n\\n')
    """
    tagged = "<think>" in template and "<answer>" in template
    return CLOSE.get(template, CLOSE["r1-zero"] if tagged else "\n</think>\n\n")


def read_template(path: str) -> str:
    """Reads a user's chat template.

    It is a jinja template as in transformers, and gets `messages`, `tools`, `add_generation_prompt`, the tokenizer's
    special tokens (`bos_token`, ...), and `question`: the text of the last user message.

    Raises:
        UserError: There is no such file, it is not valid jinja, or it does not use the question.
    """
    try:
        found = Path(path).stat()
        return _read_template(path, (found.st_mtime_ns, found.st_size))
    except OSError as error:
        hint = did_you_mean_path(path, lambda file: is_file(file.name))
        raise UserError(f"prompt.template: {path}: {error.strerror}{hint}: create it, or set another one") from error


@lru_cache(maxsize=8)
def _read_template(path: str, version: tuple[int, int]) -> str:
    """Reads the template of a file, once per version of the file, because every prompt needs it."""
    import jinja2
    from jinja2 import meta

    source = Path(path).read_text(encoding="utf-8")
    try:
        parsed = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(source)  # as transformers does
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"prompt.template: {path}:{error.lineno}: {error.message}: correct the template") from error
    if not meta.find_undeclared_variables(parsed) & {"messages", "question"}:
        what = f"prompt.template: {path}: does not use the question"
        raise UserError(f"{what}: add {{{{ question }}}}, or loop over `messages`")
    return source


def render(
    prompt: str | list[dict],
    tokenizer,
    *,
    template: str = "none",
    system: str | None = None,
    text: str | None = None,
    prefill: str | None = None,
    tools: str | list[dict] | None = None,
):
    """Returns the text that the model continues, and the beginning of the assistant's turn that is part of it.

    Args:
        prompt: The question, or chat messages (the last one from the user), each with a text as its `content`.
        template: A name in `TEMPLATES`, or your own file (`read_template`).
        system: Your own system prompt, which replaces the template's.
        text: Your own plain text, which replaces the template, with `{question}` as the placeholder of the question.
        prefill: The beginning of the assistant's turn.
        tools: The tools that the model may call (`r1lab.models.tools.schemas`). The chat template shows them; if it
            has no place for them, or the template is plain text, they are in front of the question as text.

    Returns:
        `(text, prefill)`: `text` ends where generation starts; `prefill` is the end of `text` that belongs to the
        assistant's turn, verbatim (`"<think>"`, `"<think>\\n"`, or nothing). Rewards see it put back in front of the
        completion. Tokenize `text` without special tokens, because the chat template has added them already.

    Raises:
        UserError: The template has no place for one of the messages or tools, or the model's chat template rejects
            them.
    """
    listed = tools_of.schemas(tools)
    if listed and not _shows_tools(tokenizer, template, text):
        prompt, shown = tools_of.into(prompt, listed), None
    else:
        shown = listed or None
    if is_plain(template=template, text=text):
        made = _start(tokenizer) + plain(prompt, template=template, system=system, text=text)
    else:
        if not tokenizer.chat_template and not is_file(template):
            what = f"prompt.template: {template}: the model has no chat template ({type(tokenizer).__name__})"
            raise UserError(f"{what}: set prompt.template: r1-zero")
        made = chat_text(_listed(prompt, template, system), tokenizer, template=template, tools=shown)
        if not opened(made):  # some chat templates (R1-Distill) prefill the tag themselves
            made += PREFILL.get(template, "")
    tools_of.check_shown(made, listed, template)
    return with_prefill(made, prefill)


def _shows_tools(tokenizer, template: str, text: str | None) -> bool:
    """Whether the chat template of a prompt has a place for tools."""
    if is_plain(template=template, text=text):
        return False
    source = read_template(template) if is_file(template) else tokenizer.chat_template
    return bool(source) and tools_of.shown(tokenizer, str(source))


def with_prefill(text: str, prefill: str | None) -> tuple[str, str]:
    """Returns a prompt with the recipe's prefill at its end, and the whole beginning of the assistant's turn.

    >>> with_prefill("Assistant: <think>\\n", "<think>"), with_prefill("Assistant: <think>", " Well,")
    (('Assistant: <think>', '<think>'), ('Assistant: <think> Well,', '<think> Well,'))
    """
    begun = opened(text)
    if prefill is None:
        return text, begun
    if prefill.startswith(_OPENED):  # it replaces the template's own
        text, begun = text.removesuffix(begun), ""
    return text + prefill, begun + prefill


def chat_text(
    listed: list[dict], tokenizer, *, template: str = "chat", open_turn: bool = True, tools: list[dict] | None = None
) -> str:
    """Renders messages with the model's own chat template, up to the assistant's turn unless `open_turn` is false.

    Args:
        template: A user's file replaces the model's.
        tools: JSON schemas that the chat template shows.

    Raises:
        UserError: The chat template rejects the messages.
    """
    own, more = {}, {"tools": tools} if tools else {}
    if is_file(template):
        said = [message["content"] for message in listed if message["role"] == "user"]
        own = {"chat_template": read_template(template), "question": said[-1] if said else ""}
    try:
        return tokenizer.apply_chat_template(listed, tokenize=False, add_generation_prompt=open_turn, **own, **more)
    except Exception as error:  # a chat template is a program, which may raise anything
        why = " ".join(str(error).split())[:160]
        if own:
            what = f"prompt.template: {template}: cannot render a prompt: {type(error).__name__}: {why}"
            raise UserError(f"{what}: correct the template") from error
        fix = "set prompt.template: r1-zero, or use another model"
        if "system" in why.lower():
            fix = "set prompt.template: r1-zero, or remove prompt.system and put its text into the question"
        raise UserError(f"prompt.template: the model's chat template rejects a prompt: {why}: {fix}") from error


def plain(prompt: str | list[dict], *, template: str, system: str | None = None, text: str | None = None) -> str:
    """Renders a prompt with one of the plain-text templates, or with the recipe's own `text`.

    Raises:
        UserError: The template has no place for the system prompt or for one of the messages.

    >>> said = (("user", "2+2?"), ("assistant", "4"), ("user", "Sure?"))
    >>> plain([{"role": role, "content": text} for role, text in said], template="r1-zero")[-57:]
    '</answer>. User: 2+2? Assistant: 4 User: Sure? Assistant:'
    """
    if system and text is not None:
        raise UserError("prompt.system: prompt.text has no place for a system prompt: put it into the text")
    if system:
        raise UserError(f"prompt.system: template {template} has no place for a system prompt: set template: chat")
    pattern = PLAIN[template] if text is None else text
    if isinstance(prompt, str):
        return pattern.replace("{question}", prompt)
    if text is None and template == "none":
        raise UserError("prompt.template: none accepts text, and the prompts are messages: set prompt.template: chat")
    if text is not None or template != "r1-zero":
        if [turn["role"] for turn in prompt] == ["user"]:
            return pattern.replace("{question}", prompt[0]["content"])
        where = f"template: {template}" if text is None else "text:"
        raise UserError(f"prompt.{where} has a place for one question, not for messages: set prompt.template: chat")
    if odd := [turn["role"] for turn in prompt if turn["role"] not in _SPEAKERS]:
        what = f"prompt.template: r1-zero has no place for a message with the role {odd[0]}"
        raise UserError(f"{what}: set prompt.template: chat, or remove the message from the data")
    said = " ".join(f"{_SPEAKERS[turn['role']]}: {turn['content']}" for turn in prompt)
    return R1_ZERO.replace("User: {question}", said)


def opened(text: str) -> str:
    """Returns the end of a prompt that opens the thinking, or an empty text."""
    return text[text.rindex(_OPENED) :] if text.rstrip().endswith(_OPENED) else ""


def joined(prompt: str | list[dict]) -> str:
    """Returns a prompt as one text, for models without a chat template."""
    return prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt)


@lru_cache(maxsize=8)
def _start(tokenizer) -> str:
    """Returns the beginning-of-text token of tokenizers that add one to plain text, or an empty text."""
    ids = tokenizer("a")["input_ids"]
    bos = tokenizer.bos_token_id
    return tokenizer.bos_token if bos is not None and ids and ids[0] == bos else ""


def messages(
    prompt: str | list[dict],
    *,
    template: str = "none",
    system: str | None = None,
    text: str | None = None,
    tools: str | list[dict] | None = None,
    **_,
) -> str | list[dict]:
    """Returns a prompt for a server, which applies a chat template itself: messages, or text for plain-text templates.

    `with_prefill` adds a recipe's prefill. `tools` are text in front of the question, because a server that is given
    them separately answers in a format of its own, or refuses them unless it was started with a parser of calls.
    """
    if listed := tools_of.schemas(tools):
        prompt = tools_of.into(prompt, listed)
    in_text = is_plain(template=template, text=text)
    if in_text and (isinstance(prompt, str) or text is not None or template != "none"):
        return plain(prompt, template=template, system=system, text=text)
    return _listed(prompt, template, system)


def _listed(prompt: str | list[dict], template: str, system: str | None) -> list[dict]:
    """Returns chat messages, with the system prompt of the recipe or else that of the template."""
    listed = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if template == "logic-rl" and not listed[-1]["content"].endswith("\n"):
        listed[-1] = listed[-1] | {"content": f"{listed[-1]['content']}\n"}  # as in its data
    system = system or SYSTEM.get(template)
    if system:
        listed = [{"role": "system", "content": system}] + [m for m in listed if m["role"] != "system"]
    return listed


def written(completion: str | list[dict], prefill: str, template: str, pattern: str | None = None) -> str:
    r"""Returns a completion as the model has to generate it after its prompt, without the prefill.

    Args:
        pattern: The recipe's own text. A completion starts with a space if the text ends in a word or in punctuation,
            as r1-zero's does.

    >>> written("<think>\nTwo and two.\n</think>\n\n4", "<think>\n", "chat")
    'Two and two.\n</think>\n\n4'
    """
    text = text_of(completion)
    if prefill:
        if text.startswith(prefill):
            return text[len(prefill) :]
        if text.lstrip().startswith(_OPENED):  # with other white space than the prompt's, which has it already
            rest = text.lstrip().removeprefix(_OPENED)
            return rest.lstrip() if prefill != _OPENED else rest
        return text
    pattern = PLAIN.get(template, " ") if pattern is None else pattern
    spaced = not (pattern[-1:].isspace() or pattern.endswith("{question}"))
    return " " + text.lstrip() if spaced else text


def text_of(completion: str | list[dict]) -> str:
    """Returns the text of a completion, which may be given as messages."""
    return completion if isinstance(completion, str) else completion[-1]["content"]


def turn_end(tokenizer, template: str = "chat") -> int | None:
    """Returns the token that ends the assistant's turn in the chat template; None if it has none."""
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
    """Returns the tokens that decoding skips: those with a role, such as the end token, and those added as special."""
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)


def without_end(text: str, tokenizer) -> str:
    """Returns a completion without the end tokens that it has already; `example` adds the one that is trained on.

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
    """Returns the tokens of a row: `prompt_ids`, and for each completion in `keys` its own, such as `completion_ids`.

    The prompt shows the tools in the row's column `tools`, if it has one. A completion ends with exactly one end token
    of the tokenizer.

    Args:
        prompt: The other arguments of `render`.
    """
    text, prefill = render(row["prompt"], tokenizer, template=template, tools=row.get("tools"), **prompt)
    ids = {"prompt_ids": tokenizer(text, add_special_tokens=False)["input_ids"]}
    for key in keys:
        completion = without_end(written(row[key], prefill, template, prompt.get("text")), tokenizer)
        ids[f"{key}_ids"] = tokenizer(completion, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    return ids
