"""What an OpenAI-compatible server sends back: completions, or why there are none."""

import json
import os
import re
import ssl
import time
from email.utils import parsedate_to_datetime

import httpx

from r1lab.engines import Completion

# Words of finish reasons. OpenAI's are "stop" and "length"; others say eos_token, end_turn, COMPLETE, model_length,
# FINISH_REASON_MAX_TOKENS, ...
_WHOLE = {"stop", "stopped", "eos", "end", "ended", "complete", "completed", "done"}
_TRUNCATED = {"length", "max", "limit"}
_NEITHER = {"error", "abort", "aborted", "cancel", "cancelled", "canceled", "incomplete", "filter", "safety", "failed"}


class Failure(Exception):
    """Why a prompt got no completions, in one line.

    Attributes:
        status: The HTTP status: 200 where the answer was not whole, None where none came.
        again: Whether sending the request again may help.
        after: Seconds that the server asks to wait before.
        split: Whether `n` may be what the server does not do.
        advice: What to type, where that is known already; no other request will fare better then.
    """

    def __init__(
        self,
        what: str,
        *,
        status: int | None = 200,
        again: bool = True,
        after: float = 0.0,
        split: bool = False,
        advice: str = "",
    ):
        super().__init__(what)
        self.status, self.again, self.after, self.split, self.advice = status, again, after, split, advice


def completions(body: bytes, n: int, max_tokens: int) -> tuple[list[Completion], bool]:
    """The `n` completions of an answer.

    What a reasoning model thought (`reasoning_content` or `reasoning`, or parts of that kind) is put back before the
    content as it was written, `<think>\\n...\\n</think>\\n\\n`; without a content the thinking is left open. Where the
    server's chat template opens the thinking itself, the content has only its end: the opening tag is put back.

    Args:
        max_tokens: The limit that was asked for: where a server gives no finish reason, it decides.

    Returns:
        `(completions, opened)`: and whether an opening tag was put back.

    Raises:
        Failure: It is not an answer, or one of its choices is not whole.

    >>> message = {"reasoning_content": "2 + 2", "content": "4"}
    >>> reply = {"choices": [{"message": message, "finish_reason": "stop"}]}
    >>> (completion,), opened = completions(json.dumps(reply).encode(), 1, 99)
    >>> completion.text
    '<think>\\n2 + 2\\n</think>\\n\\n4'
    """
    said = body[:1000].decode(errors="replace")
    try:
        reply = json.loads(body)
    except (ValueError, RecursionError):
        raise Failure(f"an answer that is not JSON: {said}") from None
    choices = reply.get("choices") if isinstance(reply, dict) else None
    if not isinstance(choices, list) or not choices:
        raise Failure(f"an answer without choices: {said}")
    if len(choices) < n:
        raise Failure(f"an answer of {len(choices)} choices for n: {n}", again=False, split=True)
    usage = reply.get("usage")
    count = usage.get("completion_tokens") if isinstance(usage, dict) else None
    group, opened = [], False
    for choice in choices[:n]:
        choice = choice if isinstance(choice, dict) else {}
        finish = choice.get("finish_reason")
        if not finish and n == 1 and type(count) is int and count > 0:
            finish = "length" if count >= max_tokens else "stop"
        text, put_back = _text(choice)
        ids = choice.get("token_ids")
        group.append(Completion(text, ids if isinstance(ids, list) else [], truncated=_is_truncated(finish)))
        opened |= put_back
    return group, opened


def _is_truncated(finish: object) -> bool:
    words = set(re.findall(r"[a-z]+|[A-Z]+(?![a-z])|[A-Z][a-z]+", finish)) if isinstance(finish, str) else set()
    words = {word.lower() for word in words}
    if words & _NEITHER or not words & (_WHOLE | _TRUNCATED):
        raise Failure(f"a choice that is not whole (finish_reason: {finish})")
    return bool(words & _TRUNCATED)


def _text(choice: dict) -> tuple[str, bool]:
    """What a choice says, and whether the tag that opens its thinking was put back."""
    message = choice.get("message")
    if isinstance(message, dict):
        chat, (content, parts_thought) = True, _joined(message.get("content"))
        fields = [message.get(key) for key in ("reasoning_content", "reasoning")]
    else:
        chat, content, parts_thought, fields = False, choice.get("text"), "", []
    thought = next((field for field in (*fields, parts_thought) if field), "")
    if content is None and thought:
        content = ""
    if not isinstance(content, str) or not isinstance(thought, str):
        raise Failure(f"a choice without text: {json.dumps(choice)[:1000]}")
    before, end, _ = content.partition("</think>")
    opened = chat and bool(end) and "<think>" not in before
    if thought and not opened and not content.lstrip().startswith("<think>"):  # some servers give it in both places
        thought, content = "<think>\n" + thought.strip("\n"), content.lstrip("\n")
        content = f"{thought}\n</think>\n\n{content}" if content else thought
    elif opened:
        content = "<think>\n" + content.lstrip("\n")
    return content.encode(errors="replace").decode(), opened  # half an emoji has no UTF-8


def _joined(content: object) -> tuple[object, str]:
    """A message's content and the thinking in it; some servers give both as a list of typed parts.

    >>> _joined([{"type": "thinking", "thinking": "2 + 2"}, {"type": "text", "text": "4"}])
    ('4', '2 + 2')
    """
    if not (isinstance(content, list) and all(isinstance(part, dict) for part in content)):
        return content, ""
    said, thought = "", ""
    for part in content:
        kind, texts = part.get("type"), [part.get(key) for key in ("text", "thinking", "reasoning")]
        text = next((text for text in texts if text), "")
        if isinstance(text, list):  # Mistral's thinking has parts of its own
            inner = [one["text"] for one in text if isinstance(one, dict) and isinstance(one.get("text"), str)]
            text = "".join(inner) if len(inner) == len(text) else None
        if not isinstance(text, str) or kind not in ("text", "output_text", "thinking", "reasoning"):
            return None, ""
        said, thought = (said + text, thought) if kind in ("text", "output_text") else (said, thought + text)
    return (said if said or not thought else None), thought


def refusal(response: httpx.Response) -> Failure:
    """A response that is no success."""
    status, said = response.status_code, response.text
    try:
        said = json.loads(said)
    except (ValueError, RecursionError):
        pass  # it is shown as it is
    for key in ("error", "detail", "message"):
        said = said.get(key, said) if isinstance(said, dict) else said
    return Failure(
        f"HTTP {status}: {said if isinstance(said, str) else json.dumps(said)}",
        status=status,
        again=status in (408, 429) or status >= 500 and status != 501,
        after=_retry_after(response.headers.get("Retry-After", "")),
        split=status in (400, 422, 501),
    )


def broken(error: httpx.RequestError) -> Failure:
    """A connection that failed: `Connection refused`, which lies under two wrappers, or what else it was."""
    inner: BaseException = error
    if isinstance(error, httpx.ConnectError):
        while deeper := inner.__cause__ or inner.__context__:
            inner = deeper
        if isinstance(inner, BaseExceptionGroup):  # one for each address of the host
            inner = inner.exceptions[-1]
    if isinstance(inner, ssl.SSLCertVerificationError):
        advice = "set SSL_CERT_FILE to a file with the certificate of the authority that signed it"
        why = f"its certificate is not trusted: {inner.verify_message}"
        return Failure(why, status=None, again=False, advice=advice)
    if isinstance(inner, ssl.SSLError) and inner.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
        advice = "write http:// in rollout.url, or the port at which it speaks https"
        return Failure("it does not speak https there", status=None, again=False, advice=advice)
    text = " ".join(str(inner).split())
    if isinstance(inner, OSError) and inner.errno and "Connect call failed" in text:
        text = os.strerror(inner.errno)
    text = re.sub(r"^\[Errno -?\d+\] ", "", text)
    return Failure(text or f"the connection broke ({type(inner).__name__})", status=None)


def models(response: httpx.Response) -> list[str]:
    """The names that the answer of `/models` lists; none where it is no list."""
    try:
        return [model["id"] for model in json.loads(response.text)["data"] if isinstance(model["id"], str)]
    except (ValueError, LookupError, TypeError, RecursionError):
        return []


def shown(text: object, key: str | None = None) -> str:
    """The beginning of what a server said, in one line, without the key.

    >>> shown("Incorrect API key:\\n sk-1", "sk-1")
    'Incorrect API key: ***'
    """
    line = " ".join((str(text).replace(key, "***") if key else str(text)).split())
    return line if len(line) <= 250 else line[:250] + "..."


def _retry_after(header: str) -> float:
    """Seconds; the header has them, or a date."""
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", header):
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0
