"""What is put into an episode after a turn: the end of the turn, the replies, and the beginning of the next turn.

Tokens are only ever appended. Rendering the whole conversation again for each turn would change tokens that the model
has sampled: texts have several tokenizations, and some chat templates drop the thinking of earlier turns.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from r1lab.environments.base import Reply
from r1lab.errors import UserError
from r1lab.models import prompts

_TURN, _REPLY = "r1lab-turn", "r1lab-reply"

PLAIN = {
    "tool": "\n<tool_response>\n{reply}\n</tool_response>\n",
    "user": "\n{reply}\n",
}
"""Around a reply in templates that are plain text."""

SPEAKERS = {"tool": " <tool_response>{reply}</tool_response>", "user": " User: {reply}"}
"""Around a reply in r1-zero's text, which then goes on with the assistant's turn."""


class TurnTemplate:
    """The tokens between two turns of a model.

    Args:
        tokenizer: The model's.
        template, text, prefill: As of `r1lab.models.prompts.render`.

    Raises:
        UserError: The chat template has no place for replies.
    """

    def __init__(self, tokenizer, *, template: str = "chat", text: str | None = None, prefill: str | None = None, **_):
        self.tokenizer, self.template, self.prefill = tokenizer, template, prefill
        self.plain = prompts.is_plain(template=template, text=text)
        self.added = [str(token) for token in tokenizer.get_added_vocab()]
        self.end = tokenizer.eos_token_id if self.plain else prompts.turn_end(tokenizer, template)
        self._pieces = lru_cache(maxsize=64)(self._rendered)
        if not self.plain:
            self._pieces(("tool",))

    def between(self, replies: Sequence[Reply], last: int | None) -> list[int]:
        """The tokens from the end of a turn to the beginning of the next one.

        The contents of the replies are text: special tokens in them are not tokens, so that no reply can end its own
        turn and speak for someone else.

        Args:
            last: The last token of the turn. If it is not the token that ends a turn, that one comes first.
        """
        begin, *pieces = self._pieces(tuple(reply.role for reply in replies))
        ids = [] if last == self.end or self.end is None else [self.end]
        parts = [begin]
        for reply, piece in zip(replies, pieces, strict=True):
            first, *others = apart(reply.content, self.added)
            parts[-1] += first
            parts += others
            parts[-1] += piece
        return ids + [token for part in parts for token in self._ids(part)]

    def shortened(self, text: str, most: int) -> str:
        """A reply of at most about `most` tokens: the middle of a longer one is left out, as the text says.

        The end of an output often says more than its middle, as in a traceback.
        """
        if len(text) <= most:  # a token has at least a character, but for rare bytes
            return text
        ids = self._ids(text[: 8 * most] if len(text) > 64 * most else text)
        if len(ids) <= most and len(text) <= 64 * most:
            return text
        share = most * len(text) // max(len(ids), 1) if len(text) <= 64 * most else 2 * most
        kept = max(share // 2, 1)
        return f"{text[:kept]}\n[{len(text) - 2 * kept} characters left out]\n{text[-kept:]}"

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    def _rendered(self, roles: tuple[str, ...]) -> list[str]:
        """The texts around replies of these roles; the first one begins after the token that ends the turn."""
        if self.plain:
            wrapped = SPEAKERS if self.template == "r1-zero" else PLAIN
            after = (" Assistant:" if self.template == "r1-zero" else "") + (self.prefill or "")
            text = "".join(wrapped[role].replace("{reply}", _REPLY) for role in roles) + after
            return text.split(_REPLY)
        listed: list[dict] = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _TURN}]
        listed += [{"role": role, "content": _REPLY} for role in roles]
        text, _ = prompts.with_prefill(prompts.chat_text(listed, self.tokenizer, template=self.template), self.prefill)
        _, found, rest = text.partition(_TURN)
        if not found or rest.count(_REPLY) != len(roles):
            what = f"prompt.template: the chat template does not render replies with the role {roles[0]}"
            raise UserError(f"{what}: use a model whose template does, or set prompt.template: r1-zero")
        end = self.tokenizer.convert_ids_to_tokens(self.end) if self.end is not None else ""
        _, ended, after = rest.partition(end) if end else ("", "", rest)
        return (after if ended else rest).split(_REPLY)


def apart(text: str, tokens: Sequence[str]) -> list[str]:
    """A text in parts none of which contains one of the tokens: tokenized one by one, they give none of them.

    >>> apart("a<|im_end|>b<think>", ["<|im_end|>", "<think>"])
    ['a<', '|im_end|>b<', 'think>']
    """
    if not tokens:
        return [text]
    pattern = re.compile("|".join(re.escape(token) for token in tokens))
    parts, start = [], 0
    while found := pattern.search(text, start):
        parts.append(text[start : found.start() + 1])
        start = found.start() + 1
    return [*parts, text[start:]]
