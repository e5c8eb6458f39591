"""The address of an OpenAI-compatible server: whether a server answers and serves the model, and the fix if not."""

import os
import re
import time

import httpx

from r1lab.engines.replies import Failure, broken, models, refusal, shown
from r1lab.errors import UserError
from r1lab.net import client_settings, proxy_of
from r1lab.text import did_you_mean

WRONG_REQUEST = (301, 302, 307, 308, 401, 403, 404, 405)  # statuses that do not depend on the prompt


def models_served(url: str, model: str, *, api_key_env: str = "OPENAI_API_KEY", wait: float = 0.0) -> list[str]:
    """Returns the models that a server lists, after checking that `model` is one of them; one request.

    Args:
        url: The server's address, including `/v1`.
        model: The server's name for the model.
        api_key_env: The environment variable that holds the key.
        wait: Seconds to wait for the server to start.

    Returns:
        Their names; empty if the server has no list.

    Raises:
        UserError: Nothing answers, what answers is not such a server, it refuses the key, or it does not list the
            model.
    """
    url, key = checked(url), key_of(api_key_env)
    deadline = time.monotonic() + wait
    known, said = [], ""
    while True:
        try:
            response = get_models(url, key)
            known, said = models(response), response.text
            failure = None if response.is_success else refusal(response)
        except httpx.RequestError as error:
            failure = broken(error)
        left = deadline - time.monotonic()
        if not failure or not failure.again or left <= 0:
            break
        print(f"waiting for {url}: {shown(failure, key)} (for up to {left:.0f} s more)", flush=True)
        time.sleep(min(5.0, left))
    if failure and failure.status in (404, 405) and re.search(r"/v\d", url):
        return []  # not every server has a list
    if not failure and not known:
        failure = Failure(f"/models lists no models: {said}", status=405)
    # Ollama lists llama3 as llama3:latest, Google gemini-pro as models/gemini-pro.
    if not failure and _plain(model) not in map(_plain, known):
        failure = Failure(f"it has no model {model}{did_you_mean(model, known)}", status=404)
    if failure:
        fix = advice(failure, url, model, known, api_key_env)
        raise UserError(f"rollout.url: {url}: {shown(failure, key)}; {fix}")
    return known


def get_models(url: str, key: str | None) -> httpx.Response:
    """Requests the list of models from a server."""
    return httpx.get(f"{url}/models", headers=headers_of(key), timeout=10, **client_settings(url))


def _plain(model: str) -> str:
    return model.removeprefix("models/").partition(":")[0]


def advice(failure: Failure, url: str, model: str, known: list[str], api_key_env: str) -> str:
    """Returns the fix for a failure that persists."""
    status, proxy = failure.status, proxy_of(url)
    if failure.advice:
        return failure.advice
    if proxy and (status is None or status in (407, 502, 503, 504)):
        host = httpx.URL(url).host
        return f"the request went through the proxy {proxy}; to bypass it, export no_proxy={host}"
    if status is None:
        port = httpx.URL(url).port or (443 if url.startswith("https") else 80)
        return f"start a server there, for example `vllm serve {model} --port {port}`, or correct rollout.url"
    if status in (401, 403):
        return f"set the environment variable {api_key_env} to its key"
    if known and _plain(model) not in map(_plain, known):
        more = f" and {len(known) - 10} more" if len(known) > 10 else ""
        return f"set model.path to a model that it serves: {', '.join(known[:10])}{more}"
    if status in WRONG_REQUEST:
        version = re.search(r"/v\d", url)
        server = "set rollout.url to the address of an OpenAI-compatible server, up to and including /v1"
        return server if version else f"set rollout.url to {url}/v1"
    if status in (408, 429):
        return "set rollout.requests_per_minute, or lower rollout.max_concurrent"
    return "fix what the error names" if 400 <= status < 500 else "check the server's log"


def checked(url: str) -> str:
    """Returns the address without a trailing slash.

    Raises:
        UserError: It is not the address of a server.
    """
    if not re.fullmatch(r"https?://(\[[\da-f:.]+\]|[^\s/:\[\]]+)(:\d{1,5})?(/\S*)?", url):
        raise UserError(f"rollout.url: {url} is not a server's address, such as http://localhost:8000/v1")
    return url.rstrip("/")


def root(url: str) -> str:
    """Returns a vLLM server's address without /v1, for its endpoints outside of OpenAI's API.

    >>> root("http://127.0.0.1:8000/v1/")
    'http://127.0.0.1:8000'
    """
    return checked(url).removesuffix("/v1")


def key_of(api_key_env: str) -> str | None:
    """Returns the key. A key that no header can hold is refused here, because httpx's error would show it."""
    key = os.environ.get(api_key_env, "").strip()
    if not re.fullmatch(r"[!-~]*", key):
        raise UserError(
            f"{api_key_env}: this environment variable is not a valid key (it has spaces, or is not ASCII)"
        )
    return key or None


def headers_of(key: str | None) -> dict[str, str]:
    """Returns the headers that carry a key."""
    return {"Authorization": f"Bearer {key}"} if key else {}
