"""The rule for a prompt: it contains each message exactly once, and ends in an open assistant turn."""

import re
from typing import TYPE_CHECKING, cast

from r1lab.check.seen import Seen
from r1lab.errors import UserError
from r1lab.findings import Finding
from r1lab.models import loading, prompts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST = 0.5  # the share of faulty rows above which the fault is an error, not a warning
_KEYS = ("prompt", "template")
_OTHERS = ("<|im_start|>", "<|start_header_id|>", "[/INST]", "<start_of_turn>", "<｜Assistant｜>", "<|assistant|>")
"""Text that begins a turn in widely used chat templates: a prompt that contains it was already rendered."""


def turn_findings(seen: Seen, tokenizer: "PreTrainedTokenizerBase", template: dict) -> list[Finding]:
    """Whether a prompt contains each message of its row exactly once, and whether it opens the assistant turn.

    Args:
        template: The arguments of `prompts.render`.
    """
    own = template.get("text") is not None
    if template["template"] == "none" and not own:
        return _closed(seen, tokenizer)
    try:
        found = _lost(seen, tokenizer, template)
        if any(finding.verdict == "error" for finding in found):
            return found
        found += _rendered_already(seen, tokenizer, template)
        return found + (_closed(seen, tokenizer) if own else _opens(seen, tokenizer, template))
    except UserError:  # a row that a chat template refuses is reported when the row is rendered
        return []


def _listed(prompt: str | list[dict], template: dict) -> list[dict]:
    """The messages of a prompt, with the system prompt that its template adds."""
    listed = prompt if prompts.is_plain(**template) else prompts.messages(prompt, **template)
    return [{"role": "user", "content": listed}] if isinstance(listed, str) else listed


def _marks(number: int) -> tuple[str, str]:
    return f"[r1lab {number} begins]", f"[r1lab {number} ends]"


def _marked(listed: list[dict]) -> list[dict]:
    """Messages with markers around their texts: templates strip texts, and a short text may also occur elsewhere."""
    pairs = [(message, *_marks(number)) for number, message in enumerate(listed)]
    return [message | {"content": f"{begin}{message['content']}{end}"} for message, begin, end in pairs]


def _text(tokenizer: "PreTrainedTokenizerBase", listed: list[dict], template: dict, *, open_turn: bool = True) -> str:
    if prompts.is_plain(**template):
        return prompts.plain(listed, template=template["template"], text=template.get("text"))
    return prompts.chat_text(listed, tokenizer, template=template["template"], open_turn=open_turn)


def _who(template: dict) -> str:
    """What renders the prompt, as named in messages."""
    if template.get("text") is not None:
        return "prompt.text"
    return "the template" if prompts.is_file(template["template"]) else "the model's chat template"


def _lost(seen: Seen, tokenizer: "PreTrainedTokenizerBase", template: dict) -> list[Finding]:
    """Messages that are dropped, changed or duplicated: the first fault found, and the number of messages."""
    faults: dict[str, list[str]] = {}
    shortened = 0
    for row in seen.rows:
        listed = _listed(row["prompt"], template)
        text = _text(tokenizer, _marked(listed), template)
        if not text.strip():
            return [Finding("error", "prompt", "the model's chat template is empty, so the prompt is empty",
                            "set prompt.template: r1-zero, or use another model", _KEYS)]  # fmt: skip
        for number, message in enumerate(listed):
            begin, end = _marks(number)
            count = text.count(f"{begin}{message['content']}{end}")
            if count == 1:
                continue
            if count == 0 and message["role"] == "assistant" and "</think>" in message["content"] and end in text:
                shortened += 1  # as Qwen3's and R1's templates do on purpose
                continue
            kept = begin in text or end in text
            what = "duplicates" if count else "changes" if kept else "drops"
            name = "the system prompt" if message["role"] == "system" else f"a message with the role {message['role']}"
            faults.setdefault(f"{_who(template)} {what} {name}", []).append(message["content"])
    for sentence, texts in faults.items():
        fix = "put it into the question instead" if "system" in sentence else "use a model whose template keeps it"
        if "model" not in _who(template):
            fix = "write each message once in the template"
        where = ("prompt", "system") if "system" in sentence else _KEYS
        count = f" ({len(texts)} in {len(seen.rows)} prompts)" if "system" not in sentence else ""
        return [Finding("error", "prompt", f"{sentence}: {texts[0][:60]!r}{count}", fix, where)]
    if shortened:
        what = (
            f"the chat template drops the thinking of {shortened} earlier assistant turns, as templates of reasoning"
        )
        return [Finding("warning", "prompt", f"{what} models do", keys=_KEYS)]
    return []


def _tail(tokenizer: "PreTrainedTokenizerBase", template: dict, row: dict) -> str:
    """The text after the last message in a prompt."""
    listed = _marked(_listed(row["prompt"], template))
    return _text(tokenizer, listed, template).rpartition(_marks(len(listed) - 1)[1])[2]


def _opens(seen: Seen, tokenizer: "PreTrainedTokenizerBase", template: dict) -> list[Finding]:
    """Whether a prompt ends with the text that precedes the assistant's text in a whole conversation.

    Some templates (Mistral's) have no separate generation prompt: the end of the user turn begins the next one.
    """
    if prompts.is_plain(**template):
        return []
    row = seen.rows[0]
    listed = _marked(_listed(row["prompt"], template))
    last, answer = _marks(len(listed) - 1)[1], _marks(len(listed))[0]
    if _text(tokenizer, listed, template) != _text(tokenizer, listed, template, open_turn=False):
        return []
    try:
        whole = _text(tokenizer, _marked([*_listed(row["prompt"], template), {"role": "assistant", "content": "?"}]),
                      template, open_turn=False)  # fmt: skip
    except UserError:  # a template may refuse other conversations than those of this recipe
        return []
    between = whole.rpartition(last)[2].partition(answer)[0]
    tail = _tail(tokenizer, template, row)
    if _unprefilled(tail) == _unprefilled(between):
        return []
    what = f"the prompt opens no assistant turn: the chat template ends it with {tail.strip()!r}"
    fix = "add {% if add_generation_prompt %} with the start of that turn to the model's chat template"
    return [Finding("error", "prompt", what, fix, _KEYS)]


def _unprefilled(text: str) -> str:
    """The start of a turn, without the thinking that it may open or skip."""
    return re.sub(r"<think>\s*(</think>)?\s*$", "", text).rstrip()


def _rendered_already(seen: Seen, tokenizer: "PreTrainedTokenizerBase", template: dict) -> list[Finding]:
    """Prompts that already contain text that the template is about to add."""
    opening = _unprefilled(_tail(tokenizer, template, seen.rows[0])).strip()
    tokens = {_name(i, tokenizer) for i in prompts.special_ids(tokenizer)} | set(_OTHERS)
    if not prompts.is_plain(**template):
        written = _text(tokenizer, _marked([{"role": "user", "content": "?"}]), template)
        added = {token.content for token in tokenizer.added_tokens_decoder.values()}
        tokens |= {token for token in added if token in written} - {"<think>", "</think>"}
    faults = []
    for row in seen.rows:
        texts = [row["prompt"]] if isinstance(row["prompt"], str) else [m["content"] for m in row["prompt"]]
        for text in texts:
            found = next((token for token in sorted(tokens) if token in text), None)
            if found is None and opening and text.rstrip().endswith(opening):
                found = opening
            if found:
                faults.append((found, text))
                break
    if not faults:
        return []
    found, text = faults[0]
    at = text.index(found)
    what = f"{len(faults)} of {len(seen.rows)} prompts contain {found!r}, as in {text[max(0, at - 20) : at + 40]!r}"
    fix = "remove the template's text from the data"
    fix += ", or set prompt.template: none" if isinstance(seen.rows[0]["prompt"], str) else ""
    verdict = "error" if len(faults) / len(seen.rows) > MOST else "warning"
    return [Finding(verdict, "prompt", f"{what}: a template was already applied to them", fix, _KEYS)]


def _name(token: int, tokenizer: "PreTrainedTokenizerBase") -> str:
    # By its type, it may get one token or several.
    return cast(str, tokenizer.convert_ids_to_tokens(token))


def _closed(seen: Seen, tokenizer: "PreTrainedTokenizerBase") -> list[Finding]:
    """Prompts without a template that end in a closed turn, so that no assistant turn is open."""
    ids = (*loading.end_token_ids(tokenizer), prompts.turn_end(tokenizer))
    ends = tuple(_name(token, tokenizer) for token in ids if token is not None)
    closed = [text for text, _ in seen.rendered if ends and text.rstrip().endswith(ends)]
    if not closed:
        return []
    what = f"{len(closed)} of {len(seen.rows)} prompts end in a closed turn, as in {closed[0][-40:]!r}"
    verdict = "error" if len(closed) / len(seen.rows) > MOST else "warning"
    fix = "end them with the start of the assistant turn, or remove the template's text and set prompt.template: chat"
    return [Finding(verdict, "prompt", f"{what}: they open no assistant turn", fix, _KEYS)]
