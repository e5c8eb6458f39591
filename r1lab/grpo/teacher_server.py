"""A teacher behind vLLM's OpenAI-compatible servers, which score the tokens of a completion by `prompt_logprobs`."""

import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx
import torch

from r1lab.engines.address import checked, headers_of, key_of
from r1lab.errors import UserError
from r1lab.net import client_settings

RETRIES, BACKOFF = 5, 1.0
"""How often a request is repeated, each time at the next server, and the seconds before the first time; each further
one waits twice as long."""


class ServedTeacher:
    """Scores tokens on servers; requests are dealt to them in turn.

    Args:
        url: The address of a server, including `/v1`; or those of several servers of the same model.
        model: The servers' name for the model.
        max_concurrent: The number of requests at a time to each server.
        timeout: Seconds until a response must be complete.
    """

    def __init__(self, url: str | Sequence[str], model: str, *, max_concurrent: int = 32, timeout: float = 600.0):
        self.urls = [checked(one) for one in ([url] if isinstance(url, str) else url)]
        self.model, self.timeout, self.max_concurrent = model, timeout, max_concurrent

    def logps(self, rows: Sequence[tuple[list[int], int]]) -> list[list[float]]:
        """Returns the log-probabilities of the last tokens of each row, at temperature 1.

        Args:
            rows: The tokens of a prompt and its completion, and the number of those to score.

        Raises:
            UserError: A server refuses a request, or all of them fail again and again.
        """
        first, headers = random.randrange(len(self.urls)), headers_of(key_of("OPENAI_API_KEY"))
        clients = [httpx.Client(headers=headers, timeout=self.timeout, **client_settings(url)) for url in self.urls]
        try:
            with ThreadPoolExecutor(self.max_concurrent * len(clients)) as pool:
                return list(pool.map(lambda job: self._scored(clients, first + job[0], *job[1]), enumerate(rows)))
        finally:
            for client in clients:
                client.close()

    def _scored(self, clients: list[httpx.Client], place: int, ids: list[int], count: int) -> list[float]:
        if not count:
            return []
        body = {"model": self.model, "prompt": ids, "max_tokens": 1, "temperature": 1.0, "prompt_logprobs": 0}
        why, number = "", place
        for attempt in range(RETRIES + 1):
            number = (place + attempt) % len(clients)
            try:
                response = clients[number].post(f"{self.urls[number]}/completions", json=body)
            except httpx.RequestError as error:
                why = f"{type(error).__name__}: {error}".strip(": ")
            else:
                if response.is_success:
                    return _read(response, ids[len(ids) - count :], self.urls[number])
                why = f"{response.status_code}: {' '.join(response.text.split())[:200]}"
                if response.status_code not in (408, 429) and response.status_code < 500:
                    break
            if attempt < RETRIES:
                time.sleep(BACKOFF * 2**attempt * random.uniform(0.5, 1.0))
        what = "start it with vLLM and this model, or take the teacher into memory: remove teacher.url"
        raise UserError(f"teacher.url: {self.urls[number]}: {why}: {what}", status=1)


def served_logps(teacher: ServedTeacher, batch: dict) -> torch.Tensor:
    """Returns the teacher's log-probabilities of the completions of a batch, (B, C), zero for padding."""
    prompts, completions = (
        [ids[mask.bool()].tolist() for ids, mask in zip(batch[f"{part}_ids"], batch[f"{part}_mask"])]
        for part in ("prompt", "completion")
    )
    found = teacher.logps([(prompt + own, len(own)) for prompt, own in zip(prompts, completions)])
    mask = batch["completion_mask"].bool()
    flat = torch.tensor([value for row in found for value in row], device=mask.device, dtype=torch.float32)
    return torch.zeros(mask.shape, device=mask.device).masked_scatter(mask, flat)


def _read(response: httpx.Response, targets: list[int], url: str) -> list[float]:
    """Returns the log-probabilities of the last tokens of the prompt in a response."""
    try:
        choice = response.json()["choices"][0]
        places = choice["prompt_logprobs"][-len(targets) :]
        return [place[str(token)]["logprob"] for place, token in zip(places, targets, strict=True)]
    except (KeyError, IndexError, TypeError, ValueError):
        what = "no prompt_logprobs of these tokens in its response: use a server of vLLM with this model"
        raise UserError(f"teacher.url: {url}: {what}", status=1) from None
