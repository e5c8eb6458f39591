"""Checks the prompts that a model gets, and the tokens that end its turn."""

from typing import TYPE_CHECKING, cast

from r1lab.check.fit import fit_findings
from r1lab.check.look import template_of
from r1lab.check.seen import Seen
from r1lab.check.turns import turn_findings
from r1lab.errors import UserError
from r1lab.findings import Finding
from r1lab.models import loading, prompts
from r1lab.recipe.sections import Prompt
from r1lab.rewards.facts import facts_of

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

HEAD, TAIL = 160, 120  # characters of a prompt that are shown


def prompt_findings(seen: Seen, start: str, settings: dict) -> list[Finding]:
    """Prompts as tokens, the messages that the template keeps, thinking, and the tokens that end a turn.

    Args:
        start: The model that the stage starts from, with `@STAGE/model` resolved.
        settings: Keyword arguments with which transformers loads that model's small files.
    """
    tokenizer, prompt = seen.tokenizer, seen.prompt
    if tokenizer is None:
        return []
    found = fit_findings(seen, tokenizer, start, settings)
    if not seen.rendered:
        return found
    template = template_of(seen, tokenizer)
    found += _shown(seen, tokenizer, prompt) if prompt else []
    found += _read_back(seen, tokenizer) + _begins_once(seen, tokenizer) + turn_findings(seen, tokenizer, template)
    if prompt and not prompts.is_plain(**template):
        found += [*_system(seen, prompt), *_thinking(seen)]
    found += _ends(seen, tokenizer, prompt, start, settings) if prompt else []
    found += _learned(seen, tokenizer) if seen.recipe.stage == "sft" else []
    return found


def visible(ids: list[int], tokenizer: "PreTrainedTokenizerBase") -> str:
    """Tokens as text on one line, special tokens in ⟦ ⟧.

    >>> from r1lab.models.loading import load_tokenizer
    >>> tokenizer = load_tokenizer("embedded:tiny-qwen2")
    >>> visible(tokenizer("<|im_start|>user\\nHi")["input_ids"], tokenizer)
    '⟦<|im_start|>⟧user⏎Hi'
    """
    special, text, plain = prompts.special_ids(tokenizer), "", []
    for token in [*ids, None]:
        if token is not None and token not in special:
            plain.append(token)
            continue
        text += _decoded(plain, tokenizer)
        plain = []
        text += f"⟦{_decoded([token], tokenizer)}⟧" if token is not None else ""
    return text.replace("\n", "⏎")


def _decoded(ids: list[int], tokenizer: "PreTrainedTokenizerBase") -> str:
    return cast(str, tokenizer.decode(ids))  # by its type, decode may get one list of tokens or several


def _short(text: str) -> str:
    return text if len(text) <= HEAD + TAIL + 20 else f"{text[:HEAD]} […{len(text) - HEAD - TAIL}…] {text[-TAIL:]}"


def _shown(seen: Seen, tokenizer: "PreTrainedTokenizerBase", prompt: Prompt) -> list[Finding]:
    """The first prompt as it is sent, and as it would be with (or without) the model's chat template."""
    template, plain = prompt.template, prompts.is_plain(**prompt.model_dump())
    keys = ("prompt", "template") if prompt.text is None else ("prompt", "text")
    shown = _short(visible(seen.prompt_ids[0], tokenizer))
    name = f"template {template}" if prompt.text is None else "prompt.text"
    found = [Finding("ok", "prompt", f"first prompt, with {name}: {shown}", keys=keys)]
    row = seen.rows[0]["prompt"]
    if plain and tokenizer.chat_template:
        listed = [{"role": "user", "content": row}] if isinstance(row, str) else row
        try:
            ids = tokenizer(prompts.chat_text(listed, tokenizer), add_special_tokens=False)["input_ids"]
            what = f"the model's chat template, not used: {_short(visible(ids, tokenizer))}"
            found.append(Finding("ok", "prompt", what))
        except UserError:  # the template refuses such a conversation, and this recipe does not use it
            pass
    elif not plain:
        ids = tokenizer(row if isinstance(row, str) else row[-1]["content"], add_special_tokens=False)["input_ids"]
        found.append(Finding("ok", "prompt", f"without the chat template: {_short(visible(ids, tokenizer))}"))
    chats = tokenizer.chat_template and prompts.turn_end(tokenizer) == tokenizer.eos_token_id
    rendered = tokenizer.eos_token_id in seen.prompt_ids[0]  # a template was applied to the data's prompts
    if template == "none" and chats and not rendered:
        what = (
            f"prompts do not use the model's chat template, in which {tokenizer.eos_token} ends a turn: a chat model"
        )
        found.append(Finding("warning", "prompt", f"{what} may never stop", "set prompt.template: chat", keys))
    return found


def _read_back(seen: Seen, tokenizer: "PreTrainedTokenizerBase") -> list[Finding]:
    """Whether encoding and decoding preserves the prompts: word-level tokenizers lose spaces or words."""
    unknown = tokenizer.unk_token_id
    if unknown in (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id):
        unknown = None  # a byte-level tokenizer knows everything, but still declares some token as unknown
    lost = [i for i, ids in enumerate(seen.prompt_ids) if unknown is not None and unknown in ids]
    if lost:
        text = seen.rendered[lost[0]][0]
        word = next((w for w in text.split() if unknown in tokenizer(w, add_special_tokens=False)["input_ids"]), "")
        what = f"{len(lost)} of {len(seen.rows)} prompts contain words that the tokenizer does not know: {word!r}"
        return [Finding("error", "prompt", what, "use a model that was trained on such text", ("model", "path"))]
    for (text, _), ids in zip(seen.rendered, seen.prompt_ids):
        back = _decoded(ids, tokenizer)
        if "".join(back.split()) != "".join(text.split()):
            at = next((i for i, (a, b) in enumerate(zip(text, back)) if a != b), min(len(text), len(back)))
            original, decoded = (part[max(0, at - 10) : at + 20] for part in (text, back))
            what = f"the tokenizer decodes {original!r} as {decoded!r}"
            fix = "copy the tokenizer.json that belongs to the model"
            return [Finding("error", "prompt", what, fix, ("model", "path"))]
        if back != text:
            at = next(i for i, (a, b) in enumerate(zip(f"{text}\0", f"{back}\0")) if a != b)
            original, decoded = (part[max(0, at - 10) : at + 10] for part in (text, back))
            what = f"the tokenizer changes spaces: it decodes {original!r} as {decoded!r}, and a strict comparison"
            what += " would count that as a different answer"
            fix = "set clean_up_tokenization_spaces to false in its tokenizer_config.json"
            return [Finding("warning", "prompt", what, fix, ("model", "path"))]
    return []


def _begins_once(seen: Seen, tokenizer: "PreTrainedTokenizerBase") -> list[Finding]:
    bos = tokenizer.bos_token_id
    twice = sum(bos is not None and ids[:2] == [bos, bos] for ids in seen.prompt_ids)
    if not twice:
        return []
    what = f"{twice} of {len(seen.rows)} prompts begin with {tokenizer.bos_token} twice"
    return [Finding("warning", "prompt", what, "remove it from the prompts of the data", ("prompt", "template"))]


def _system(seen: Seen, prompt: Prompt) -> list[Finding]:
    """Which system prompt the text contains; `turn_findings` reports one that is dropped."""
    given = prompt.system or prompts.SYSTEM.get(prompt.template)
    own = sum(
        isinstance(row["prompt"], list) and any(message["role"] == "system" for message in row["prompt"])
        for row in seen.rows
    )
    if own and given and not prompt.system:
        what = f"{own} of {len(seen.rows)} prompts have their own system prompt, which template {prompt.template}"
        fix = "set prompt.template: chat to keep it"
        return [Finding("warning", "prompt", f"{what} replaces", fix, ("prompt", "template"))]
    if own and given:
        return [Finding("ok", "prompt", f"prompt.system replaces the system prompt of {own} of {len(seen.rows)} rows")]
    in_text = given and given.strip() in seen.rendered[0][0]
    return [Finding("ok", "prompt", "the prompt contains the system prompt")] if in_text else []


def _thinking(seen: Seen) -> list[Finding]:
    """Whether the chat template opens or closes the thinking."""
    found, keys = [], ("prompt", "template")
    text, prefill = seen.rendered[0]
    wanted = any(known.looks_for == "form" for r in seen.rewards if (known := facts_of(r.name)))
    if prefill:
        what = f"the prompt already opens {prefill.strip()}; rewards see it at the start of the completion"
        found.append(Finding("ok", "prompt", what))
    elif text.rstrip().endswith("</think>"):
        what = "the chat template closes the thinking before the model generates (…</think>)"
        fix = "set prompt.template: logic-rl, or edit the chat_template of the model"
        found.append(Finding("error" if wanted else "warning", "prompt", what, fix, keys))
    return found


def _ends(
    seen: Seen, tokenizer: "PreTrainedTokenizerBase", prompt: Prompt, start: str, settings: dict
) -> list[Finding]:
    """Whether the token that ends a turn in the chat template also ends the training targets and stops generation."""
    found, recipe = [], seen.recipe
    if tokenizer.eos_token_id is None:
        return []
    name = tokenizer.convert_ids_to_tokens
    config = _generation_config(start, settings)
    stops = loading.end_token_ids(tokenizer, config)
    keys, fix = ("model", "path"), "set eos_token in its tokenizer_config.json and eos_token_id in its "
    fix += "generation_config.json to the same token"
    named = getattr(config, "eos_token_id", None)
    others = named if isinstance(named, list) else [] if named is None else [named]
    if others and tokenizer.eos_token_id not in others and not recipe.learns:  # training adds it to them
        what = f"its generation_config.json stops at {_either(map(name, others))}, but its tokenizer's EOS token is "
        found.append(Finding("warning", "prompt", f"{what}{tokenizer.eos_token}", fix, keys))
    plain = prompts.is_plain(**prompt.model_dump())
    ends = None if plain else prompts.turn_end(tokenizer, prompt.template)
    if ends is None:
        return found
    if recipe.learns and ends != tokenizer.eos_token_id:
        what = f"{name(ends)} ends a turn in its chat template, but training targets end with {tokenizer.eos_token}"
        if recipe.stage == "sft":
            keys, fix = ("train",), f'set train.eos_token: "{name(ends)}"'
        found.append(Finding("warning", "prompt", what, fix, keys))
    elif recipe.learns:
        what = f"a turn ends with {name(ends)}, which also ends each training target"
        found.append(Finding("ok", "prompt", what))
    elif ends not in stops:
        what = f"{name(ends)} ends a turn in its chat template, but generation stops at {_either(map(name, stops))}"
        found.append(Finding("warning", "prompt", f"{what}: completions may run to their limit", fix, keys))
    else:
        found.append(Finding("ok", "prompt", f"a turn ends with {name(ends)}, which stops generation"))
    return found


def _generation_config(start: str, settings: dict) -> "GenerationConfig | None":
    """The generation config that a model is loaded with; None if it cannot be read."""
    try:
        return loading.load_generation_config(start, **settings)
    except (OSError, ValueError):  # neither in the cache nor on the Hub, or custom code
        return None


def _either(words) -> str:
    return " or ".join(map(str, words))


def _learned(seen: Seen, tokenizer: "PreTrainedTokenizerBase") -> list[Finding]:
    """The training targets of SFT rows: whether they contain the thinking and the end of the turn."""
    keys = ("model", "path")
    if not seen.examples:
        return []
    examples = [example["completion_ids"] for example in seen.examples[:32]]
    texts = [prompts.text_of(row["completion"]) for row in seen.rows[:32]]
    thinks = ["</think>" in text for text in texts]
    back = tokenizer.batch_decode(examples, skip_special_tokens=True)
    lost = sum("</think>" not in text for text, think in zip(back, thinks) if think)
    if lost:
        what = f"{lost} of {len(texts)} completions lose their <think> tags when they are encoded and decoded"
        fix = (
            "make the tags ordinary tokens in its tokenizer.json, because special tokens are removed from completions"
        )
        return [Finding("error", "labels", what, fix, keys)]
    found = [Finding("ok", "labels", f"row 1 trains on: {_short(visible(examples[0], tokenizer))}")]
    what = f"{sum(thinks)} of {len(texts)} completions contain thinking; all end with {tokenizer.eos_token}"
    found.append(Finding("ok", "labels", what))
    ended = sum(prompts.without_end(text, tokenizer) != text for text in texts)
    if ended:
        what = f"{ended} of {len(texts)} completions already contain an EOS token; each is trained on a single one"
        found.append(Finding("ok", "labels", what))
    opened = sum(bool(prefill) and not think for (_, prefill), think in zip(seen.rendered, thinks))
    if opened:
        what = f"the prompt opens the thinking, but {opened} of {len(texts)} completions never close it (</think>)"
        fix = "remove them, or use a chat template that does not open <think>"
        found.append(Finding("warning", "labels", what, fix, ("prompt", "template")))
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        what = f"the padding token is also {tokenizer.eos_token}; labels are masked by position, so the model still"
        what += " learns to end its turn"
        found.append(Finding("ok", "labels", what))
    return found
