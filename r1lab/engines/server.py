"""OpenAI-compatible servers as an engine: concurrent requests, with retries when a server fails.

Each request goes to the server with the fewest requests in progress. When a server fails, its requests go to another
one, and new ones only if all others are failing too, until it is tried again after `RESTING` seconds.

Servers differ, and the engine adapts. It stops sending a field that OpenAI's API lacks once the server refuses it by
name, and a temperature or `top_p` that the model does not support; it renames `max_tokens` to `max_completion_tokens`;
it requests completions one by one if the server does not support `n`. It reports each of these in a line.
"""

import asyncio
import json
import queue
import random
import re
import threading
import time
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass

import httpx

from r1lab.engines import Completion, Prompt, Sampling
from r1lab.engines.address import WRONG_REQUEST, advice, checked, get_models, headers_of, key_of
from r1lab.engines.replies import Failure, broken, completions, models, refusal, shown
from r1lab.errors import UserError
from r1lab.net import client_settings

FAILURES_IN_A_ROW = 10  # after this number of them the server is taken to be down, or to refuse every request
RESTING = 30.0  # seconds in which a server that failed gets no requests that another one can take
_UNSUPPORTED = re.compile(
    r"unsupported|not support|only the default|unrecogni|unknown|unexpected|not (be )?(allowed|permitted|accept)"
    r"|cannot both|extra|deprecated|removed",
    re.IGNORECASE,
)
_jitter = random.Random()  # not the global generator, whose seed decides what others sample


@dataclass
class Line:
    """The connection to one of the servers.

    Attributes:
        url: The server's address.
        client: Sends the requests.
        gate: Lets `max_concurrent` requests through at a time.
        asked: The number of requests in progress, waiting ones included.
        total: The number of requests so far.
        resting: When a server that failed is tried again.
    """

    url: str
    client: httpx.AsyncClient
    gate: asyncio.Semaphore
    asked: int = 0
    total: int = 0
    resting: float = 0.0


class ServerEngine:
    """Generation on OpenAI-compatible servers: an `r1lab.engines.Engine`.

    Args:
        url: The server's address, including `/v1`; or those of several servers of the same kind with the same model.
        model: The server's name for the model.
        api_key_env: The environment variable that holds the key; if it is not set, no key is sent.
        max_concurrent: The maximum number of requests at a time to each server.
        requests_per_minute: The rate limit of each server; requests are spread evenly. None for no limit.
        retries: The maximum number of retries after a failed connection, a timeout, a 429, a 5xx, or an incomplete
            response, of all servers in turn.
        backoff: Seconds before the first retry; each further one waits twice as long, up to a minute, or as long as
            the server says.
        timeout: Seconds until a response must be complete.
        max_failed: The share of the prompts of a call that may fail; None for all of them.
        extra_body: Further fields for each request, as in `{"chat_template_kwargs": {"enable_thinking": True}}`.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        model: str,
        *,
        api_key_env: str = "OPENAI_API_KEY",
        max_concurrent: int = 32,
        requests_per_minute: int | None = None,
        retries: int = 5,
        backoff: float = 1.0,
        timeout: float = 600.0,
        max_failed: float | None = 0.0,
        extra_body: dict | None = None,
    ):
        self.urls = [checked(one) for one in ([url] if isinstance(url, str) else url)]
        self.model, self.api_key_env = model, api_key_env
        self.key = key_of(api_key_env)
        for one in self.urls:
            client_settings(one)  # raises if they cannot work, before the first request
        self.max_concurrent, self.interval = max_concurrent, 60 / requests_per_minute if requests_per_minute else 0.0
        self.retries, self.backoff, self.timeout = retries, backoff, timeout
        self.max_failed, self.extra_body = max_failed, extra_body or {}
        self.left_out: set[str] = set()  # fields that the server refuses
        self.notes: list[str] = []
        self.one_by_one = False  # it does not support `n` > 1
        self.limit = "max_tokens"  # its name for the maximum number of new tokens
        self.dropped: set[str] = set()  # sampling parameters that it refuses
        self._next_slot = dict.fromkeys(self.urls, 0.0)
        self._warned_at: dict[str, float] = {}

    def together(self, n: int) -> int:
        """See `Engine`: no prompt has a seed."""
        return 1

    def stream(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, done: Collection[int] = frozenset()
    ) -> Iterator[tuple[int, list[Completion]]]:
        """Like `answers`, but a prompt that failed is left out and logged with the reason."""
        with closing(self.answers(prompts, sampling, done=done)) as answers:
            for i, answer in answers:
                if isinstance(answer, Failure):
                    self._warn(answer.url, f"prompt {i + 1} of {len(prompts)} is left out: {answer}")
                else:
                    yield i, answer

    def answers(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, done: Collection[int] = frozenset()
    ) -> Generator[tuple[int, list[Completion] | Failure], None, None]:
        """Yields the completions of each prompt, or the failure, as they arrive, so that the caller can save each.

        Requests continue while the caller is busy, and end when it closes the generator or is interrupted.

        Args:
            done: Indices of prompts that need no completions.

        Yields:
            `(i, completions)` of `prompts[i]`, or `(i, failure)`, in the order of arrival. `token_ids` is empty if the
            server does not return them; `logprobs` is always empty.

        Raises:
            UserError: More than `max_failed` of the prompts failed, or 10 in a row, or all; or the server refuses the
                key, or the address or the model does not exist there. Everything that had arrived has been yielded.
                With `max_failed=None` it is never raised.
        """
        sent = {
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or -1,  # 0 is an error for SGLang; -1 means all tokens everywhere
        }
        arrived: queue.SimpleQueue = queue.SimpleQueue()
        loop = asyncio.new_event_loop()
        pending = [(i, prompt) for i, prompt in enumerate(prompts) if i not in done]
        work = loop.create_task(self._answer_all(pending, sampling.n, sent, arrived.put))
        work.add_done_callback(lambda _: arrived.put(None))
        thread = threading.Thread(
            target=lambda: loop.run_until_complete(asyncio.wait([work])), name="server engine", daemon=True
        )
        thread.start()
        good = failed = in_a_row = 0
        fatal = None
        try:
            while (item := arrived.get()) is not None:
                _, answer = item
                if not isinstance(answer, Failure):
                    good, in_a_row = good + 1, 0
                elif fatal:
                    continue
                elif self.max_failed is not None:
                    failed += 1
                    if answer.again or not good:  # otherwise the prompt was the cause, for example its length
                        in_a_row += 1
                    if (
                        failed > self.max_failed * len(pending)
                        or in_a_row >= FAILURES_IN_A_ROW
                        or failed == len(pending)
                        or (not good and (answer.advice or answer.status in WRONG_REQUEST))
                    ):
                        fatal = answer
                        loop.call_soon_threadsafe(work.cancel)
                        continue  # with what has arrived meanwhile
                yield item
            if fatal:
                raise UserError(self._error(fatal, failed, good), status=1)
            work.result()  # raises unexpected errors
        finally:
            loop.call_soon_threadsafe(work.cancel)
            thread.join()
            loop.close()

    async def _answer_all(self, pending: list[tuple[int, Prompt]], n: int, sampling: dict, put) -> None:
        waiting = iter(pending)
        headers = headers_of(self.key) | {"Content-Type": "application/json"}
        timeout = httpx.Timeout(None, connect=10)  # `_post` has one for the complete response
        limits = httpx.Limits(max_connections=self.max_concurrent)

        async def work() -> None:
            for i, prompt in waiting:
                try:
                    put((i, await self._group(lines, prompt, n, sampling)))
                except Failure as failure:
                    put((i, failure))

        async with AsyncExitStack() as stack:
            lines = []
            for url in self.urls:
                settings = {"headers": headers, "limits": limits, "timeout": timeout, **client_settings(url)}
                client = await stack.enter_async_context(httpx.AsyncClient(**settings))
                lines.append(Line(url, client, asyncio.Semaphore(self.max_concurrent)))
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.max_concurrent * len(lines), len(pending))):
                    group.create_task(work())

    async def _group(self, lines: list[Line], prompt: Prompt, n: int, sampling: dict) -> list[Completion]:
        """Requests `n` completions, one by one if the server does not support `n`."""
        refused = None
        if n == 1 or not self.one_by_one:
            try:
                return await self._request(lines, prompt, n, sampling)
            except Failure as failure:
                if n == 1 or not failure.split:
                    raise
                refused = failure
        group = []
        for i in range(n):
            seed = {"seed": self.extra_body["seed"] + i} if "seed" in self.extra_body else {}
            group += await self._request(lines, prompt, 1, sampling | seed)
        if refused is not None and not self.one_by_one:
            self.one_by_one = True
            self._warn(refused.url, f"{refused}; requesting completions one by one")
        return group

    async def _request(self, lines: list[Line], prompt: Prompt, n: int, sampling: dict) -> list[Completion]:
        attempt, failed = 0, set()
        while True:
            now = time.monotonic()
            line = min(lines, key=lambda line: (line.url in failed, line.resting > now, line.asked, line.total))
            line.asked, line.total = line.asked + 1, line.total + 1
            try:
                async with line.gate:
                    return await self._send(line, prompt, n, sampling)
            except Failure as failure:
                failure.args, failure.url = (shown(failure, self.key),), line.url
                if not failure.again:
                    raise
                failed.add(line.url)
                line.resting = time.monotonic() + RESTING
                # For all later requests to this server.
                self._next_slot[line.url] = max(self._next_slot[line.url], time.monotonic() + failure.after)
                if len(failed) < len(lines):
                    self._warn(line.url, f"{failure}; requesting from another server")
                    continue
                if attempt == self.retries or failure.after > self.timeout:
                    raise
                wait = max(failure.after, min(60.0, self.backoff * 2**attempt) * _jitter.uniform(0.5, 1.0))
                self._warn(line.url, f"{failure}; retrying")
            finally:
                line.asked -= 1
            await asyncio.sleep(wait)
            attempt, failed = attempt + 1, set()

    async def _send(self, line: Line, prompt: Prompt, n: int, sampling: dict) -> list[Completion]:
        """Sends one request, or several until it is known which fields the server refuses."""
        if isinstance(prompt, str):
            path, content = "completions", {"prompt": prompt}
        else:
            path, content = "chat/completions", {"messages": prompt}
        limit, dropped, first = self.limit, set(self.dropped), None
        while True:
            # vLLM would otherwise take these from the model's generation_config, and llama.cpp from its own defaults.
            optional = {"min_p": 0.0, "repetition_penalty": 1.0, "return_token_ids": True}
            if sampling["top_k"] < 0:
                optional["top_k"] = -1
            if isinstance(prompt, str):
                optional["add_special_tokens"] = False  # the template already contains them
            optional = {name: value for name, value in optional.items() if name not in self.left_out}
            fixed = {name: value for name, value in sampling.items() if name != "top_k" or value > 0}
            fixed = {limit if name == "max_tokens" else name: value for name, value in fixed.items()
                     if name not in dropped}  # fmt: skip
            body = {"model": self.model, **content, "n": n, **optional, **self.extra_body, **fixed}
            response = await self._post(line, path, body)
            if response.is_success:
                group, opened = completions(response.content, n, sampling["max_tokens"])
                self._learn(line.url, limit, dropped, sampling)
                if opened:
                    self._note(
                        line.url, "its chat template opens the thinking, so <think> was put back into its responses"
                    )
                return group
            refused = [name for name in optional if re.search(rf"\b{name}\b", response.text)]
            if response.status_code not in (400, 422):
                raise refusal(response)
            if refused:
                self.left_out.update(refused)
                self._warn(line.url, f"does not support {', '.join(refused)}: not sent, so its own defaults apply")
                continue
            # These changes are kept only if the server then answers: the error may be about a value, not a field.
            first = first or refusal(response)
            if limit == "max_tokens" and "max_tokens" in response.text:
                limit = "max_completion_tokens"
            elif more := _unsupported(response.text, fixed):
                dropped.add(more)
            else:
                raise first if "max_completion_tokens" in response.text else refusal(response)

    def _learn(self, url: str, limit: str, dropped: set[str], sampling: dict) -> None:
        """Keeps the changes after which the server answered, for all later requests."""
        if limit != "max_tokens" and limit != self.limit:
            self.limit = limit
            self._warn(url, f"does not support max_tokens: {limit} is sent instead")
        for name in sorted(dropped - self.dropped):
            self.dropped.add(name)
            self._note(url, f"does not support {name}: {sampling[name]:g}, so it samples with its own {name}")

    async def _post(self, line: Line, path: str, body: dict) -> httpx.Response:
        now = time.monotonic()
        slot = max(now, self._next_slot[line.url])
        self._next_slot[line.url] = slot + self.interval
        await asyncio.sleep(slot - now)
        try:
            async with asyncio.timeout(self.timeout):
                return await line.client.post(f"{line.url}/{path}", content=json.dumps(body))
        except TimeoutError:
            raise Failure(f"no complete response in {self.timeout:g} s", status=408) from None
        except httpx.RequestError as error:
            raise broken(error) from None

    def _note(self, url: str, what: str) -> None:
        if f"{url}: {what}" not in self.notes:
            self.notes.append(f"{url}: {what}")
            self._warn(url, what)

    def _warn(self, url: str, what: str) -> None:
        """Prints a warning, but not the same one again within half a minute."""
        now, line = time.monotonic(), f"warning: {url}: {what}"
        if now - self._warned_at.get(line, float("-inf")) > 30:
            self._warned_at[line] = now
            print(line, flush=True)

    def _error(self, failure: Failure, failed: int, good: int) -> str:
        known = []
        if failure.status == 404:
            try:
                known = models(get_models(failure.url, self.key))
            except httpx.RequestError:
                pass  # the 404 is reported
        fix = advice(failure, failure.url, self.model, known, self.api_key_env)
        return f"rollout.url: {failure.url}: {failure} ({failed} of {failed + good} prompts failed); {fix}"


def _unsupported(said: str, sent: dict) -> str | None:
    """Returns which of `top_p` and `temperature` a server says it does not support, first one that has no effect.

    >>> _unsupported("'temperature' does not support 0.6 with this model.", {"temperature": 0.6, "top_p": 1.0})
    'temperature'
    >>> _unsupported("temperature must be between 0 and 2", {"temperature": 3.0, "top_p": 1.0})
    """
    named = [name for name in ("top_p", "temperature") if name in sent and re.search(rf"\b{name}\b", said)]
    return min(named, key=lambda name: sent[name] != 1.0) if named and _UNSUPPORTED.search(said) else None
