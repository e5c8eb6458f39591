"""An OpenAI-compatible server as an engine: requests at the same time, sent again where the server fails.

Servers differ. A field that OpenAI's API lacks is left out from the first time that the server refuses it by name, and
so are a temperature and a `top_p` that a model does not support; `max_tokens` becomes `max_completion_tokens`; `n`
completions are asked for one by one where it does not give `n` at once. Each is reported in a line.
"""

import asyncio
import json
import queue
import random
import re
import threading
import time
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import closing

import httpx

from r1lab.engines import Completion, Prompt, Sampling
from r1lab.engines.address import WRONG_REQUEST, advice, checked, get_models, headers_of, key_of
from r1lab.engines.replies import Failure, broken, completions, models, refusal, shown
from r1lab.errors import UserError
from r1lab.net import client_settings

HOPELESS = 10  # prompts that fail one after the other: the server is down, or nothing that it is asked suits it
_UNSUPPORTED = re.compile(
    r"unsupported|not support|only the default|unrecogni|unknown|unexpected|not (be )?(allowed|permitted|accept)"
    r"|cannot both|extra|deprecated|removed",
    re.IGNORECASE,
)
_jitter = random.Random()  # not the global generator, which is seeded and others draw from


class ServerEngine:
    """Generation on an OpenAI-compatible server: an `r1lab.engines.Engine`.

    Args:
        url: The server, up to and with `/v1`.
        model: The model, as the server names it.
        api_key_env: The environment variable that holds the key; no key is sent where it is not set.
        max_concurrent: How many requests at a time.
        requests_per_minute: No more are sent, spread evenly; None for no limit.
        retries: How often a request is sent again after a failed connection, a timeout, a 429, a 5xx, or an answer
            that is not whole.
        backoff: Seconds before the first retry; each further one waits twice as long, at most a minute, or as long
            as the server asks.
        timeout: Seconds for a whole answer.
        max_failed: The share of the prompts of a call that may fail; None for any number of them.
        extra_body: More fields for each request, as in `{"chat_template_kwargs": {"enable_thinking": True}}`.
    """

    def __init__(
        self,
        url: str,
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
        self.url, self.model, self.api_key_env = checked(url), model, api_key_env
        self.key = key_of(api_key_env)
        client_settings(self.url)  # raises where they cannot work, before anything is asked
        self.max_concurrent, self.interval = max_concurrent, 60 / requests_per_minute if requests_per_minute else 0.0
        self.retries, self.backoff, self.timeout = retries, backoff, timeout
        self.max_failed, self.extra_body = max_failed, extra_body or {}
        self.left_out: set[str] = set()  # fields that the server refuses
        self.notes: list[str] = []
        self.one_by_one = False  # it does not do `n` > 1
        self.limit = "max_tokens"  # what it calls the most tokens of an answer
        self.dropped: set[str] = set()  # parts of the sampling that it refuses
        self._next_slot = 0.0
        self._told: dict[str, float] = {}

    def stream(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, done: Collection[int] = frozenset()
    ) -> Iterator[tuple[int, list[Completion]]]:
        """`answers` without the failures, of which there are none without a `max_failed`."""
        with closing(self.answers(prompts, sampling, done=done)) as answers:
            yield from ((i, answer) for i, answer in answers if not isinstance(answer, Failure))

    def answers(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, done: Collection[int] = frozenset()
    ) -> Generator[tuple[int, list[Completion] | Failure], None, None]:
        """Each prompt's completions, or why there are none, as they arrive, to be written down one by one.

        Requests go on while the caller is busy, and end when it closes the generator or is interrupted.

        Args:
            done: Places of prompts that are not asked.

        Yields:
            `(i, completions)` of `prompts[i]`, or `(i, failure)`, in the order in which they come. `token_ids` is
            empty where the server does not return them, `logprobs` always.

        Raises:
            UserError: More than `max_failed` of the prompts failed, or 10 one after the other, or all; or the server
                refuses the key, or knows neither the address nor the model. What had arrived has been yielded. Never
                with `max_failed=None`.
        """
        sent = {
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or -1,  # 0 is an error for SGLang; -1 means all tokens everywhere
        }
        arrived: queue.SimpleQueue = queue.SimpleQueue()
        loop = asyncio.new_event_loop()
        asked = [(i, prompt) for i, prompt in enumerate(prompts) if i not in done]
        work = loop.create_task(self._answer_all(asked, sampling.n, sent, arrived.put))
        work.add_done_callback(lambda _: arrived.put(None))
        thread = threading.Thread(
            target=lambda: loop.run_until_complete(asyncio.wait([work])), name="server engine", daemon=True
        )
        thread.start()
        good = failed = in_a_row = 0
        hopeless = None
        try:
            while (item := arrived.get()) is not None:
                _, answer = item
                if not isinstance(answer, Failure):
                    good, in_a_row = good + 1, 0
                elif hopeless:
                    continue
                elif self.max_failed is not None:
                    failed += 1
                    if answer.again or not good:  # else it was the prompt, say one that is too long
                        in_a_row += 1
                    if (
                        failed > self.max_failed * len(asked)
                        or in_a_row >= HOPELESS
                        or failed == len(asked)
                        or (not good and (answer.advice or answer.status in WRONG_REQUEST))
                    ):
                        hopeless = answer
                        loop.call_soon_threadsafe(work.cancel)
                        continue  # to what has arrived meanwhile
                yield item
            if hopeless:
                raise UserError(self._ended(hopeless, failed, good), status=1)
            work.result()  # raises what should not have happened
        finally:
            loop.call_soon_threadsafe(work.cancel)
            thread.join()
            loop.close()

    async def _answer_all(self, asked: list[tuple[int, Prompt]], n: int, sampling: dict, put) -> None:
        waiting = iter(asked)
        headers = headers_of(self.key) | {"Content-Type": "application/json"}
        timeout = httpx.Timeout(None, connect=10)  # `_post` has one for the whole answer
        limits = httpx.Limits(max_connections=self.max_concurrent)

        async def work() -> None:
            for i, prompt in waiting:
                try:
                    put((i, await self._group(client, prompt, n, sampling)))
                except Failure as failure:
                    put((i, failure))

        settings = {"headers": headers, "limits": limits, "timeout": timeout, **client_settings(self.url)}
        async with httpx.AsyncClient(**settings) as client:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.max_concurrent, len(asked))):
                    group.create_task(work())

    async def _group(self, client: httpx.AsyncClient, prompt: Prompt, n: int, sampling: dict) -> list[Completion]:
        """`n` completions, one by one where the server does not give them at once."""
        refused = None
        if n == 1 or not self.one_by_one:
            try:
                return await self._ask(client, prompt, n, sampling)
            except Failure as failure:
                if n == 1 or not failure.split:
                    raise
                refused = failure
        group = []
        for i in range(n):
            seed = {"seed": self.extra_body["seed"] + i} if "seed" in self.extra_body else {}
            group += await self._ask(client, prompt, 1, sampling | seed)
        if refused is not None and not self.one_by_one:
            self.one_by_one = True
            self._tell(f"{refused}; asking for completions one by one")
        return group

    async def _ask(self, client: httpx.AsyncClient, prompt: Prompt, n: int, sampling: dict) -> list[Completion]:
        for attempt in range(self.retries + 1):
            try:
                return await self._send(client, prompt, n, sampling)
            except Failure as failure:
                failure.args = (shown(failure, self.key),)
                if not failure.again or attempt == self.retries or failure.after > self.timeout:
                    raise
                self._next_slot = max(self._next_slot, time.monotonic() + failure.after)  # for all that are to come
                wait = max(failure.after, min(60.0, self.backoff * 2**attempt) * _jitter.uniform(0.5, 1.0))
                self._tell(f"{failure}; asking again")
            await asyncio.sleep(wait)
        raise AssertionError("unreachable")

    async def _send(self, client: httpx.AsyncClient, prompt: Prompt, n: int, sampling: dict) -> list[Completion]:
        """One request, or as many as it takes to find out which fields the server refuses."""
        if isinstance(prompt, str):
            path, asked = "completions", {"prompt": prompt}
        else:
            path, asked = "chat/completions", {"messages": prompt}
        limit, dropped, first = self.limit, set(self.dropped), None
        while True:
            # What vLLM would else take from the model's generation_config, or llama.cpp from its own defaults.
            optional = {"min_p": 0.0, "repetition_penalty": 1.0, "return_token_ids": True}
            if sampling["top_k"] < 0:
                optional["top_k"] = -1
            if isinstance(prompt, str):
                optional["add_special_tokens"] = False  # the template has written them
            optional = {name: value for name, value in optional.items() if name not in self.left_out}
            fixed = {name: value for name, value in sampling.items() if name != "top_k" or value > 0}
            fixed = {limit if name == "max_tokens" else name: value for name, value in fixed.items()
                     if name not in dropped}  # fmt: skip
            body = {"model": self.model, **asked, "n": n, **optional, **self.extra_body, **fixed}
            response = await self._post(client, path, body)
            if response.is_success:
                group, opened = completions(response.content, n, sampling["max_tokens"])
                self._learn(limit, dropped, sampling)
                if opened:
                    self._note("its chat template opens the thinking: <think> was put back where answers lack it")
                return group
            refused = [name for name in optional if re.search(rf"\b{name}\b", response.text)]
            if response.status_code not in (400, 422):
                raise refusal(response)
            if refused:
                self.left_out.update(refused)
                self._tell(f"does not take {', '.join(refused)}: left out; its own defaults hold")
                continue
            # What follows is kept only if the server then answers: what it names may be wrong, not unknown to it.
            first = first or refusal(response)
            if limit == "max_tokens" and "max_tokens" in response.text:
                limit = "max_completion_tokens"
            elif more := _unsupported(response.text, fixed):
                dropped.add(more)
            else:
                raise first if "max_completion_tokens" in response.text else refusal(response)

    def _learn(self, limit: str, dropped: set[str], sampling: dict) -> None:
        """Keeps what it took for the server to answer, for all requests to come."""
        if limit != "max_tokens" and limit != self.limit:
            self.limit = limit
            self._tell(f"does not take max_tokens: {limit} in its place")
        for name in sorted(dropped - self.dropped):
            self.dropped.add(name)
            self._note(f"does not take {name}: {sampling[name]:g}, which is left out: it samples with its own {name}")

    async def _post(self, client: httpx.AsyncClient, path: str, body: dict) -> httpx.Response:
        now = time.monotonic()
        slot = max(now, self._next_slot)
        self._next_slot = slot + self.interval
        await asyncio.sleep(slot - now)
        try:
            async with asyncio.timeout(self.timeout):
                return await client.post(f"{self.url}/{path}", content=json.dumps(body))
        except TimeoutError:
            raise Failure(f"no whole answer in {self.timeout:g} s", status=408) from None
        except httpx.RequestError as error:
            raise broken(error) from None

    def _note(self, what: str) -> None:
        if f"{self.url}: {what}" not in self.notes:
            self.notes.append(f"{self.url}: {what}")
            self._tell(what)

    def _tell(self, what: str) -> None:
        """A warning, the same one at most every half minute."""
        now = time.monotonic()
        if now - self._told.get(what, float("-inf")) > 30:
            self._told[what] = now
            print(f"warning: {self.url}: {what}", flush=True)

    def _ended(self, failure: Failure, failed: int, good: int) -> str:
        known = []
        if failure.status == 404:
            try:
                known = models(get_models(self.url, self.key))
            except httpx.RequestError:
                pass  # the 404 is what is reported
        told = advice(failure, self.url, self.model, known, self.api_key_env)
        return f"rollout.url: {self.url}: {failure} ({failed} of {failed + good} prompts failed); {told}"


def _unsupported(said: str, sent: dict) -> str | None:
    """Which of `top_p` and `temperature` a server says that it does not support, the harmless one first.

    >>> _unsupported("'temperature' does not support 0.6 with this model.", {"temperature": 0.6, "top_p": 1.0})
    'temperature'
    >>> _unsupported("temperature must be between 0 and 2", {"temperature": 3.0, "top_p": 1.0})
    """
    named = [name for name in ("top_p", "temperature") if name in sent and re.search(rf"\b{name}\b", said)]
    return min(named, key=lambda name: sent[name] != 1.0) if named and _UNSUPPORTED.search(said) else None
