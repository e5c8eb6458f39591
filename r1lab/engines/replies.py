"""Parses the responses of an OpenAI-compatible server into completions, or into the reason why there are none."""

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
_FAILED = ("error", "abort", "cancel", "incomplete", "filter", "safety", "fail")  # the beginnings of such words


class Failure(Exception):
    """The reason why a prompt got no completions, in one line.

    Attributes:
        status: The HTTP status: 200 if the response was not complete, None if there was no response.
        again: Whether a retry may help.
        after: Seconds to wait before the retry, if the server says so.
        split: Whether the cause may be that the server does not support `n`.
        advice: The fix, if it is known already; then no other request can succeed either.
        url: The address of the server, once it is known.
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
        self.url = ""


def completions(body: bytes, n: int, max_tokens: int) -> tuple[list[Completion], bool]:
    """Returns the `n` completions of a response.

    The thinking of a reasoning model (`reasoning_content` or `reasoning`, or content parts of these types) is put back
    in front of the content as the model generated it, `<think>\\n...\\n</think>\\n\\n`; without content the thinking
    is left open. If the server's chat template opens the thinking itself, the content has only the closing tag, and
    the opening tag is put back.

    Args:
        max_tokens: The limit of the request. If the server gives no finish reason, a completion of this length counts
            as truncated.

    Returns:
        `(completions, opened)`, where `opened` says whether an opening tag was put back.

    Raises:
        Failure: The body is not a valid response, or one of its choices is not complete.

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
        raise Failure(f"the response is not JSON: {said}") from None
    choices = reply.get("choices") if isinstance(reply, dict) else None
    if not isinstance(choices, list) or not choices:
        raise Failure(f"the response has no choices: {said}")
    if len(choices) < n:
        raise Failure(f"the response has {len(choices)} choices for n: {n}", again=False, split=True)
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
    if any(word.startswith(_FAILED) for word in words) or not words & (_WHOLE | _TRUNCATED):
        raise Failure(f"a choice is not complete (finish_reason: {finish})")
    return bool(words & _TRUNCATED)


def _text(choice: dict) -> tuple[str, bool]:
    """Returns the text of a choice, and whether the tag that opens its thinking was put back."""
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
        raise Failure(f"a choice has no text: {json.dumps(choice)[:1000]}")
    before, end, _ = content.partition("</think>")
    opened = chat and bool(end) and "<think>" not in before
    if thought and not opened and not content.lstrip().startswith("<think>"):  # some servers give it in both places
        thought, content = "<think>\n" + thought.strip("\n"), content.lstrip("\n")
        content = f"{thought}\n</think>\n\n{content}" if content else thought
    elif opened:
        content = "<think>\n" + content.lstrip("\n")
    return content.encode(errors="replace").decode(), opened  # half of a surrogate pair has no UTF-8


def _joined(content: object) -> tuple[object, str]:
    """Returns a message's content and the thinking in it; some servers give both as a list of typed parts.

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
    """Returns the failure for a response with an error status."""
    status, said = response.status_code, response.text
    try:
        said = json.loads(said)
    except (ValueError, RecursionError):
        pass  # the text is shown unparsed
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
    """Returns the failure for a broken connection, with the cause that httpx wraps twice, as `Connection refused`."""
    inner: BaseException = error
    if isinstance(error, httpx.ConnectError):
        while deeper := inner.__cause__ or inner.__context__:
            inner = deeper
        if isinstance(inner, BaseExceptionGroup):  # one per address of the host
            inner = inner.exceptions[-1]
    if isinstance(inner, ssl.SSLCertVerificationError):
        advice = "set SSL_CERT_FILE to a file with the certificate of the authority that signed it"
        why = f"its certificate is not trusted: {inner.verify_message}"
        return Failure(why, status=None, again=False, advice=advice)
    if isinstance(inner, ssl.SSLError) and inner.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
        advice = "use http:// in rollout.url, or the port of its https endpoint"
        return Failure("the server does not use https on this port", status=None, again=False, advice=advice)
    text = " ".join(str(inner).split())
    if isinstance(inner, OSError) and inner.errno and "Connect call failed" in text:
        text = os.strerror(inner.errno)
    text = re.sub(r"^\[Errno -?\d+\] ", "", text)
    return Failure(text or f"the connection broke ({type(inner).__name__})", status=None)


def models(response: httpx.Response) -> list[str]:
    """Returns the names that a response of `/models` lists; empty if it is not a list."""
    try:
        return [model["id"] for model in json.loads(response.text)["data"] if isinstance(model["id"], str)]
    except (ValueError, LookupError, TypeError, RecursionError):
        return []


def shown(text: object, key: str | None = None) -> str:
    """Returns the beginning of a server's message, in one line, without the key.

    >>> shown("Incorrect API key:\\n sk-1", "sk-1")
    'Incorrect API key: ***'
    """
    line = " ".join((str(text).replace(key, "***") if key else str(text)).split())
    return line if len(line) <= 250 else line[:250] + "..."


def _retry_after(header: str) -> float:
    """Returns the seconds to wait; the header has them, or a date."""
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", header):
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0
