"""What an OpenAI-compatible server sends back: completions, or why there are none."""

import json
import os
import re
import time
from email.utils import parsedate_to_datetime

import httpx

from r1lab.engines import Completion

_WHOLE = ("stop", "eos", "eos_token", "stop_sequence")  # finish reasons; TGI and Together have their own


class Failure(Exception):
    """Why a prompt got no completions, in one line.

    Attributes:
        status: The HTTP status: 200 where the answer was not whole, None where none came.
        again: Whether sending the request again may help.
        after: Seconds that the server asks to wait before.
        split: Whether `n` may be what the server does not do.
    """

    def __init__(
        self, what: str, *, status: int | None = 200, again: bool = True, after: float = 0.0, split: bool = False
    ):
        super().__init__(what)
        self.status, self.again, self.after, self.split = status, again, after, split


def completions(body: bytes, n: int) -> tuple[list[Completion], int]:
    """The `n` completions of an answer, and how many tokens the server counts in them (0 where it does not).

    What a reasoning model thought (`reasoning_content`, or `reasoning`) is put back as it was written,
    `<think>\\n...\\n</think>\\n\\n`, before the content; without a content the thinking is left open.

    Raises:
        Failure: It is not an answer, or one of its choices is not whole.

    >>> message = {"reasoning_content": "2 + 2", "content": "4"}
    >>> reply = {"choices": [{"message": message, "finish_reason": "stop"}]}
    >>> (completion,), count = completions(json.dumps(reply).encode(), 1)
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
    group = [_completion(choice) for choice in choices[:n]]
    usage = reply.get("usage")
    count = usage.get("completion_tokens") if isinstance(usage, dict) else 0
    return group, count if isinstance(count, int) else sum(len(completion.token_ids) for completion in group)


def _completion(choice: object) -> Completion:
    choice = choice if isinstance(choice, dict) else {}
    message = choice.get("message", {"content": choice.get("text")})
    message = message if isinstance(message, dict) else {}
    thought = message.get("reasoning_content") or message.get("reasoning") or ""
    content = message.get("content")
    if content is None and thought:
        content = ""
    if not isinstance(content, str) or not isinstance(thought, str):
        raise Failure(f"a choice without text: {json.dumps(choice)[:1000]}")
    finish = choice.get("finish_reason")
    if finish != "length" and finish not in _WHOLE:
        raise Failure(f"a choice that is not whole (finish_reason: {finish})")
    if thought:
        thought, content = "<think>\n" + thought.strip("\n"), content.lstrip("\n")
        content = f"{thought}\n</think>\n\n{content}" if content else thought
    ids = choice.get("token_ids")
    return Completion(
        text=content.encode(errors="replace").decode(),  # half an emoji has no UTF-8
        token_ids=ids if isinstance(ids, list) else [],
        truncated=finish == "length",
    )


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
    text = " ".join(str(inner).split())
    if isinstance(inner, OSError) and "Connect call failed" in text:
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
