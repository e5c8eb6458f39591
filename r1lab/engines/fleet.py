"""Clients of vLLM servers whose weights are synced with a policy: token ids in, token ids out, with their versions.

Each request goes to the server with the fewest requests in progress. A server that fails or does not reply in time is
left out until the next sync, and its requests go to another one. A server is asked only while it has the expected
version of the weights.

For a sync in between, `pause` ends the requests in progress. What they have generated is kept, and `resume` continues
each completion with a new request, whose prompt ends with these tokens. So each token has an exact version, as with
the interruptible rollouts of AReaL (https://arxiv.org/abs/2505.24298, section 4.1).
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from r1lab.engines import seed_of
from r1lab.engines.address import root
from r1lab.errors import UserError

CONNECTING = 10.0  # seconds until a server has to accept a connection
_NEW = "it was never synced"


@dataclass
class Sampled:
    """A completion.

    Attributes:
        token_ids: Its tokens, the end token included.
        logprobs: The log-probability of each token under the distribution it was sampled from.
        versions: The version of the weights that sampled each token.
        finish: Why it ended: "stop", or "length" at the maximum number of tokens.
    """

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    finish: str = ""


@dataclass
class Line:
    """The connection to a server.

    Attributes:
        url: Its address.
        checking: Held while its version is looked up.
        checked: Whether it was looked up since the server was last idle.
        tasks: The requests in progress.
        asked: The number of requests in progress, those that wait for the lookup included.
        total: The number of requests so far.
        failed: Why it is not asked; None if it is.
    """

    url: str
    checking: asyncio.Lock
    checked: bool = False
    tasks: set[asyncio.Task] = field(default_factory=set)
    asked: int = 0
    total: int = 0
    failed: str | None = None


class Unavailable(Exception):
    """A server failed, stalled, or has other weights."""


class NoServer(UserError):
    """All servers failed.

    Attributes:
        what: What they could not do.
        failed: Why each one failed, by its address.
    """

    def __init__(self, what: str, failed: dict[str, str]):
        self.what, self.failed = what, failed
        why = "; ".join(f"{url}: {problem}" for url, problem in failed.items())
        super().__init__(f"{what}: {why}: look at its log, start it again, and continue with --resume", status=1)


class Fleet:
    """Requests to the servers; they run in a thread of their own, so that the trainer can work meanwhile.

    Args:
        urls: The addresses of the servers.
        timeout: Seconds for each request.
        max_concurrent: The maximum number of requests in progress per server; others wait here.
        beat: Called in the thread of the requests at each reply, and when a server is left out.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        timeout: float = 600.0,
        max_concurrent: int = 512,
        beat: Callable[[], None] = lambda: None,
    ):
        self.beat = beat
        self.urls, self.timeout, self.max_concurrent = [root(url) for url in urls], timeout, max_concurrent * len(urls)
        self.version: int | None = None
        self.model: str | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fleet", daemon=True)
        self._thread.start()
        self._call(self._open())

    async def _open(self) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=self.max_concurrent)
        timeout = httpx.Timeout(None, connect=CONNECTING)  # `_post` has one for the complete response
        self._client = httpx.AsyncClient(trust_env=False, limits=limits, timeout=timeout)
        self._lines = [Line(url, asyncio.Lock(), failed=_NEW) for url in self.urls]
        self._gate = asyncio.Semaphore(self.max_concurrent)
        self._running = asyncio.Event()  # clear while paused
        self._running.set()

    def _call(self, work) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def synced(self, version: int, failed: dict[str, str] | None = None, model: str | None = None) -> None:
        """Says which version of the weights the servers have from now on. Call it after each sync.

        Args:
            version: The version.
            failed: Why each server that does not have it failed, by its address.
            model: The name of the adapter that has these weights; None if they are those of the whole model.
        """

        async def set_version() -> None:
            self.version, self.model = version, model
            for line in self._lines:
                line.failed = (failed or {}).get(line.url)
                line.checked = False

        self._call(set_version())

    @property
    def failures(self) -> dict[str, str]:
        """Why each server that is not asked failed, by its address."""
        return {line.url: line.failed for line in self._lines if line.failed}

    def absent(self) -> dict[str, str]:
        """Why each server that failed, and still does not answer, failed, by its address: a sync would wait for it."""

        async def asked(line: Line) -> bool:
            try:
                async with asyncio.timeout(CONNECTING):
                    return (await self._client.get(f"{line.url}/health")).is_success
            except (TimeoutError, httpx.HTTPError):
                return False

        async def look() -> dict[str, str]:
            failed = [line for line in self._lines if line.failed not in (None, _NEW)]
            found = await asyncio.gather(*(asked(line) for line in failed))
            return {line.url: line.failed or "" for line, answers in zip(failed, found) if not answers}

        return self._call(look())

    def submit(
        self, prompt: Sequence[int], n: int, settings: dict[str, Any], seed: int | None = None
    ) -> "Future[list[Sampled]]":
        """Starts `n` completions of a prompt.

        Args:
            prompt: Its token ids.
            settings: The fields of vLLM's completion request that say how to sample; `max_tokens` is required.
            seed: Completion j is drawn with the seed `seed_of(seed, j)`, which its own server uses. None: at random.

        Returns:
            A future of the completions. It raises a UserError if no server is left or if a server refuses the
            request; canceling it ends the requests.
        """
        return asyncio.run_coroutine_threadsafe(self._group(list(prompt), n, settings, seed), self._loop)

    def complete(
        self,
        prompts: Sequence[tuple[Sequence[int], int]],
        settings: dict[str, Any],
        *,
        finished: Callable[[int, list[Sampled]], None] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> list[list[Sampled]]:
        """Returns the completions of prompts, each given with its number of completions.

        Args:
            settings, seeds: See `submit`; a seed for each prompt.
            finished: Called in this thread with the index of each prompt and its completions, as they are complete.
        """
        futures: dict[Future, int] = {}
        try:
            for i, (prompt, n) in enumerate(prompts):
                futures[self.submit(prompt, n, settings, seeds[i] if seeds else None)] = i
            for future in as_completed(futures):
                group = future.result()
                if finished is not None:
                    finished(futures[future], group)
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A context in which no server generates, for a sync. Completions in progress continue after it."""
        self.pause()
        try:
            yield
        finally:
            self.resume()

    def pause(self) -> None:
        """Ends the requests in progress, which keep what they have generated, and holds back further ones.

        A server that does not end its requests within `timeout` is left out.
        """
        self._call(self._pause())

    def resume(self) -> None:
        """Continues after `pause`, with the version of `synced`."""
        self._call(self._resume())

    def close(self) -> None:
        """Ends all requests."""

        async def end() -> None:
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await self._client.aclose()

        if self._thread.is_alive():
            self._call(end())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _pause(self) -> None:
        self._running.clear()
        halted = [line for line in self._lines if line.asked and not line.failed]
        await self._each(halted, "pause", params={"mode": "abort"})
        # A request that was on its way to a server when it was paused waits there until it is ended too.
        deadline = time.monotonic() + self.timeout
        while late := [line for line in halted if line.asked and not line.failed]:
            await asyncio.sleep(0.01)
            await self._each(late, "abort_requests", json={})
            if time.monotonic() > deadline:
                for line in late:
                    self._fail(line, f"it did not end its requests in {self.timeout:g} s")

    async def _resume(self) -> None:
        # Also those that were not paused: one that stalled executes the request to pause when it goes on.
        await self._each([line for line in self._lines if not line.failed], "resume")
        self._running.set()

    async def _each(self, lines: Iterable[Line], path: str, **content) -> None:
        async def one(line: Line) -> None:
            try:
                await self._post(line, path, **content)
            except (Unavailable, UserError) as why:
                self._fail(line, str(why))

        await asyncio.gather(*(one(line) for line in lines))

    def _fail(self, line: Line, why: str) -> None:
        """Leaves a server out from now on; its requests go to another one."""
        self.beat()
        if line.failed is None:
            line.failed = why
            print(f"warning: {line.url}: {why}; its requests go to another server", flush=True)
        for task in line.tasks:
            task.cancel()

    async def _group(self, prompt: list[int], n: int, settings: dict, seed: int | None) -> list[Sampled]:
        """Requests the completions of a prompt: together, or one by one where vLLM wants it."""
        alone = seed is not None or n == 1 or settings.get("temperature") == 0  # greedy decoding has to be alone
        if alone:
            seeds = [None if seed is None else seed_of(seed, j) for j in range(n)]
            return list(await asyncio.gather(*(self._finish(prompt, Sampled(), settings, one) for one in seeds)))
        group = await self._sample(prompt, n, settings)
        rest = (self._finish(prompt, one, settings, None) for one in group)
        return list(await asyncio.gather(*rest))

    async def _finish(self, prompt: list[int], sampled: Sampled, settings: dict, seed: int | None) -> Sampled:
        """Continues a completion until it is complete."""
        while sampled.finish not in ("stop", "length"):
            left = settings["max_tokens"] - len(sampled.token_ids)
            if left <= 0:
                sampled.finish = "length"
                break
            more = settings | {"max_tokens": left}
            if seed is not None:
                more["seed"] = seed_of(seed, len(sampled.token_ids)) if sampled.token_ids else seed
            (part,) = await self._sample(prompt + sampled.token_ids, 1, more)
            sampled.token_ids += part.token_ids
            sampled.logprobs += part.logprobs
            sampled.versions += part.versions
            sampled.finish = part.finish
        return sampled

    async def _sample(self, prompt: list[int], n: int, settings: dict) -> list[Sampled]:
        """Requests completions from one server after another until one replies."""
        body = {**settings, "prompt": prompt, "n": n, "logprobs": 0, "return_token_ids": True}
        while True:
            async with self._gate:
                await self._running.wait()
                usable = [line for line in self._lines if not line.failed]
                if not usable:
                    raise NoServer("no server is left", self.failures)
                line = min(usable, key=lambda line: (line.asked, line.total))
                line.asked, line.total = line.asked + 1, line.total + 1
                try:
                    if (found := await self._ask(line, body)) is not None:
                        return found
                finally:
                    line.asked -= 1
                    line.checked = line.checked and line.asked > 0

    async def _ask(self, line: Line, body: dict) -> list[Sampled] | None:
        """Returns a server's completions; None if it failed or was left out meanwhile."""
        try:
            await self._check(line)
            if line.failed or not self._running.is_set():
                return None
            version = self.version
            assert version is not None  # a server is usable only after `synced`
            named = {"model": self.model} if self.model else {}
            task = self._loop.create_task(self._post(line, "v1/completions", json=body | named))
            line.tasks.add(task)
            try:
                reply = await task
            except asyncio.CancelledError:
                mine = asyncio.current_task()
                if mine is not None and mine.cancelling():
                    raise
                return None  # `_fail` canceled it
            finally:
                line.tasks.discard(task)
            return [_sampled(choice, version) for choice in reply["choices"]]
        except Unavailable as why:
            self._fail(line, str(why))
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            self._fail(line, f"an incomplete reply: {type(error).__name__}: {error}")
        return None

    async def _check(self, line: Line) -> None:
        """Makes sure that a server that was idle still has the expected weights: it may have been started again."""
        async with line.checking:
            if line.checked or line.failed or self.model:  # the name of an adapter says its version
                return
            reply = await self._post(line, "collective_rpc", json={"method": "weights"})
            versions = [worker["version"] for worker in reply["results"]]
            if set(versions) != {self.version}:
                raise Unavailable(f"its weights have the version {versions[0]} in place of {self.version}")
            line.checked = True

    async def _post(self, line: Line, path: str, **content) -> Any:
        """Returns a server's reply to a request.

        Raises:
            Unavailable: It did not reply within `timeout`, or failed.
            UserError: It refused the request.
        """
        try:
            async with asyncio.timeout(self.timeout):
                response = await self._client.post(f"{line.url}/{path}", **content)
        except TimeoutError:
            raise Unavailable(f"no complete response in {self.timeout:g} s") from None
        except httpx.RequestError as error:
            raise Unavailable(" ".join(f"{type(error).__name__} {error}".split())) from None
        if 400 <= response.status_code < 500 and response.status_code not in (404, 408, 429):
            raise UserError(f"{line.url}/{path}: {' '.join(response.text.split())[:500]}", status=1)
        if not response.is_success:
            raise Unavailable(f"status {response.status_code}: {' '.join(response.text.split())[:200]}")
        self.beat()
        try:
            return response.json()
        except ValueError:
            raise Unavailable("its reply is not JSON") from None


def _sampled(choice: dict, version: int) -> Sampled:
    ids, logprobs = choice["token_ids"] or [], (choice["logprobs"] or {}).get("token_logprobs") or []
    if len(ids) != len(logprobs):
        raise ValueError(f"{len(ids)} tokens with {len(logprobs)} log-probabilities")
    return Sampled(list(ids), list(logprobs), [version] * len(ids), choice["finish_reason"])
