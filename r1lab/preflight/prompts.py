"""What a model is given to read, and what ends its turn."""

import json
from pathlib import Path

from r1lab import lookup, models, prompts
from r1lab.preflight.findings import Finding, Seen

HEAD, TAIL = 160, 120  # characters of a prompt that are shown
_GENERATES = ("grpo", "sample", "eval")


def prompt_findings(seen: Seen, start: str, settings: dict) -> list[Finding]:
    """Prompts as tokens, thinking and system prompt in the chat template, and the tokens that end a turn.

    Args:
        start: The model that the stage starts from, `@STAGE/model` followed.
        settings: How transformers loads that model's small files.
    """
    if not seen.rendered:
        return []
    found = [*_shown(seen), *_read_back(seen), *_begins_once(seen)]
    if seen.recipe.prompt.template in ("chat", "logic-rl", "open-r1"):
        found += [*_system(seen), *_thinking(seen)]
    found += _ends(seen, start, settings)
    if seen.recipe.stage == "sft":
        found += _learnt(seen)
    return found


def visible(ids: list[int], tokenizer) -> str:
    """Tokens as text on one line, special ones in ⟦ ⟧.

    >>> from r1lab.models import load_tokenizer
    >>> tokenizer = load_tokenizer("embedded:tiny-qwen2")
    >>> visible(tokenizer("<|im_start|>user\\nHi")["input_ids"], tokenizer)
    '⟦<|im_start|>⟧user⏎Hi'
    """
    special, text, plain = _special(tokenizer), "", []
    for token in [*ids, None]:
        if token is not None and token not in special:
            plain.append(token)
            continue
        text += tokenizer.decode(plain)
        plain = []
        text += f"⟦{tokenizer.decode([token])}⟧" if token is not None else ""
    return text.replace("\n", "⏎")


def _special(tokenizer) -> set[int]:
    """Tokens that decoding skips: those with a part to play, and those added as special."""
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)


def _short(text: str) -> str:
    return text if len(text) <= HEAD + TAIL + 20 else f"{text[:HEAD]} […{len(text) - HEAD - TAIL}…] {text[-TAIL:]}"


def _shown(seen: Seen) -> list[Finding]:
    """The first prompt as it is sent, and as it would be with, or without, the model's chat template."""
    tokenizer, template = seen.tokenizer, seen.recipe.prompt.template
    keys = ("prompt", "template")
    shown = _short(visible(seen.prompt_ids[0], tokenizer))
    found = [Finding("ok", "prompt", f"sent, with template {template}: {shown}", keys=keys)]
    row = seen.rows[0]["prompt"]
    if template in ("none", "r1-zero") and tokenizer.chat_template:
        listed = [{"role": "user", "content": row}] if isinstance(row, str) else row
        ids = tokenizer.apply_chat_template(listed, add_generation_prompt=True, return_dict=False)
        found.append(Finding("ok", "prompt", f"not used, the chat template: {_short(visible(ids, tokenizer))}"))
    elif template not in ("none", "r1-zero"):
        ids = tokenizer(row if isinstance(row, str) else row[-1]["content"], add_special_tokens=False)["input_ids"]
        found.append(Finding("ok", "prompt", f"without the chat template: {_short(visible(ids, tokenizer))}"))
    if template == "none" and tokenizer.chat_template and _ends_turns(tokenizer) == tokenizer.eos_token_id:
        what = (
            f"prompts go without the model's chat template, in which {tokenizer.eos_token} ends a turn: a chat model"
        )
        found.append(Finding("warning", "prompt", f"{what} may never stop", "set prompt.template: chat", keys))
    return found


def _read_back(seen: Seen) -> list[Finding]:
    """Whether prompts come out of the tokenizer as they went in: word-level tokenizers lose spaces, or words."""
    tokenizer, unknown = seen.tokenizer, seen.tokenizer.unk_token_id
    if unknown in (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id):
        unknown = None  # a byte-level tokenizer knows everything, and names some token all the same
    lost = [i for i, ids in enumerate(seen.prompt_ids) if unknown is not None and unknown in ids]
    if lost:
        text = seen.rendered[lost[0]][0]
        word = next((w for w in text.split() if unknown in tokenizer(w, add_special_tokens=False)["input_ids"]), "")
        what = f"{len(lost)} of {len(seen.rows)} prompts hold what the tokenizer does not know, such as {word!r}"
        return [Finding("error", "prompt", what, "name a model that has read such text", ("model", "path"))]
    for (text, _), ids in zip(seen.rendered, seen.prompt_ids):
        back = tokenizer.decode(ids)
        if "".join(back.split()) != "".join(text.split()):
            at = next((i for i, (a, b) in enumerate(zip(text, back)) if a != b), min(len(text), len(back)))
            seen_text = f"the tokenizer gives back {back[max(0, at - 10) : at + 20]!r}"
            what = f"{seen_text} for {text[max(0, at - 10) : at + 20]!r}"
            return [Finding("error", "prompt", what, "mend its tokenizer.json", ("model", "path"))]
        if back != text:
            at = next(i for i, (a, b) in enumerate(zip(f"{text}\0", f"{back}\0")) if a != b)
            what = f"spaces change in the tokenizer: {text[max(0, at - 10) : at + 10]!r} comes back as"
            what += f" {back[max(0, at - 10) : at + 10]!r}, which a strict comparison would take for another answer"
            fix = "set clean_up_tokenization_spaces to false in its tokenizer_config.json"
            return [Finding("warning", "prompt", what, fix, ("model", "path"))]
    return []


def _begins_once(seen: Seen) -> list[Finding]:
    bos = seen.tokenizer.bos_token_id
    twice = sum(bos is not None and ids[:2] == [bos, bos] for ids in seen.prompt_ids)
    if not twice:
        return []
    what = f"{twice} of {len(seen.rows)} prompts begin with {seen.tokenizer.bos_token} twice"
    return [Finding("warning", "prompt", what, "take it out of the data's prompts", ("prompt", "template"))]


def _system(seen: Seen) -> list[Finding]:
    """Whether the chat template has a place for the system prompt."""
    prompt, row = seen.recipe.prompt, seen.rows[0]["prompt"]
    listed = prompts.messages(row, template=prompt.template, system=prompt.system)
    system = next((m["content"] for m in listed if m["role"] == "system"), "") if isinstance(listed, list) else ""
    if not system or system.strip() in seen.rendered[0][0]:
        return [Finding("ok", "prompt", "the system prompt is in the text")] if system else []
    what = f"the model's chat template leaves the system prompt out: {system[:60]!r}"
    return [Finding("error", "prompt", what, "say it in the question instead", ("prompt", "system"))]


def _thinking(seen: Seen) -> list[Finding]:
    """Whether the chat template opens or closes the thinking, or takes it out of what is learnt."""
    found, keys = [], ("prompt", "template")
    text, prefill = seen.rendered[0]
    wanted = any(lookup.reward_names([r.name])[0] in ("format", "tag_count") for r in _rewards(seen))
    if prefill:
        found.append(Finding("ok", "prompt", f"the prompt opens {prefill} itself; rewards see it put back"))
    elif text.rstrip().endswith("</think>"):
        what = "the chat template ends the thinking before the model writes (…</think>)"
        fix = "set prompt.template: logic-rl, or edit the chat_template of the model"
        found.append(Finding("error" if wanted else "warning", "prompt", what, fix, keys))
    return found


def _rewards(seen: Seen) -> list:
    return getattr(seen.recipe, "rewards", [])


def _ends_turns(tokenizer) -> int | None:
    """The token that ends the assistant's turn in the chat template, None where it writes none."""
    content = "r1lab"
    listed = [{"role": "user", "content": "?"}, {"role": "assistant", "content": content}]
    try:
        text = tokenizer.apply_chat_template(listed, tokenize=False)
    except Exception:  # a template is a program of its maker's, which may raise anything; `render` tells of it
        return None
    ids = tokenizer(text[text.rfind(content) + len(content) :], add_special_tokens=False)["input_ids"]
    return next((token for token in ids if token in _special(tokenizer)), None)


def _ends(seen: Seen, start: str, settings: dict) -> list[Finding]:
    """Whether what ends a turn in the chat template is what stops the generation, and what pads."""
    tokenizer, found = seen.tokenizer, []
    name = tokenizer.convert_ids_to_tokens
    stops = _generation_stops(start, settings)
    keys, fix = ("model", "path"), "set eos_token in its tokenizer_config.json and eos_token_id in its "
    fix += "generation_config.json to the same token"
    if stops and tokenizer.eos_token_id not in stops:
        what = f"its generation_config.json stops at {_either(map(name, stops))}, its tokenizer ends turns with "
        found.append(Finding("warning", "prompt", f"{what}{tokenizer.eos_token}", fix, keys))
    template = getattr(seen.recipe, "prompt", None)
    chats = template and template.template in ("chat", "logic-rl", "open-r1")
    ends = _ends_turns(tokenizer) if chats else None
    if ends is not None and ends != tokenizer.eos_token_id and ends not in stops and seen.recipe.stage in _GENERATES:
        what = f"{name(ends)} ends a turn in its chat template, and generation stops at {tokenizer.eos_token}"
        found.append(Finding("warning", "prompt", f"{what}: completions may run to their limit", fix, keys))
    elif ends is not None:
        found.append(Finding("ok", "prompt", f"a turn ends with {name(ends)}, where generation stops"))
    return found


def _generation_stops(start: str, settings: dict) -> list[int]:
    """The end tokens of a model's generation_config.json, none where it has no such file."""
    from transformers.utils import cached_file

    more = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    folder = start if models.is_adapter(start) else models.resolve(start)
    file = cached_file(folder, "generation_config.json", **settings, **more)
    stops = json.loads(Path(file).read_text(encoding="utf-8")).get("eos_token_id") if file else None
    return stops if isinstance(stops, list) else [stops] if isinstance(stops, int) else []


def _either(words) -> str:
    return " or ".join(map(str, words))


def _learnt(seen: Seen) -> list[Finding]:
    """What a row of SFT teaches: the thinking, and the end of the turn."""
    tokenizer, prompt = seen.tokenizer, seen.recipe.prompt
    rows = [row for row in seen.rows if row.get("completion")][:32]
    if not rows:
        return []
    settings = {"template": prompt.template, "system": prompt.system}
    examples = [prompts.example(row, tokenizer, **settings)["completion_ids"] for row in rows]
    said = [row["completion"] for row in rows]
    thinks = ["</think>" in (text if isinstance(text, str) else text[-1]["content"]) for text in said]
    back = tokenizer.batch_decode(examples, skip_special_tokens=True)
    lost = sum("</think>" not in text for text, think in zip(back, thinks) if think)
    if lost:
        what = f"{lost} of {len(rows)} completions lose their <think> tags on the way through the tokenizer"
        fix = "make them plain tokens in its tokenizer.json: special ones are skipped in what a model writes"
        return [Finding("error", "labels", what, fix, ("model", "path"))]
    what = f"{sum(thinks)} of {len(rows)} completions think; all end with {tokenizer.eos_token}"
    found = [Finding("ok", "labels", f"learnt of row 1: {_short(visible(examples[0], tokenizer))}")]
    found.append(Finding("ok", "labels", what))
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        what = f"padding is {tokenizer.eos_token} too; labels are masked by place, so the end of a turn is learnt"
        found.append(Finding("ok", "labels", what))
    return found
