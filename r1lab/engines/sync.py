"""Sends the policy's weights to vLLM servers: as safetensors files that the servers of the machine read from memory.

All files of a version are written, then all servers load them at once, so that a server checks that they are right and
complete before it changes any weight. The folder thus holds the whole model for the time of a sync. Of a LoRA policy
the adapter alone can be sent, which vLLM loads under a name of its version.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from r1lab.engines import temporary
from r1lab.engines.address import root
from r1lab.engines.worker import checksum, total
from r1lab.errors import UserError

MEMORY = Path("/dev/shm")
CHUNK = 2**30  # bytes of weights in a file
_PREFIX = "r1lab-weights-"
_ADAPTER = "r1lab-adapter-"


def adapter_name(version: int) -> str:
    """Returns the name of a version of the adapter, as a request gives it for the model."""
    return f"{_ADAPTER}{version}"


@dataclass
class Synced:
    """What came of a sync.

    Attributes:
        version: The version that was sent.
        checksum: That of its weights.
        bytes: The size of the files.
        failed: Why each server that does not have it failed, by its address.
        seconds: The time of each phase: "writing" (which gathers the weights too), "loading" and "clearing" (the
            caches).
    """

    version: int
    checksum: str
    failed: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    bytes: int = 0


class WeightSync:
    """The trainer's side of the sync. Each rank has one; that of rank 0 writes and talks to the servers.

    Args:
        urls: The addresses of the servers.
        folder: A folder that all servers can read, on several machines a shared one; default: /dev/shm.
        timeout: Seconds for each request.
        main: Whether this is rank 0. The others only take part in gathering the weights.

    Raises:
        UserError: The folder cannot be written.
    """

    def __init__(self, urls: Sequence[str], *, folder: Path | None = None, timeout: float = 300.0, main: bool = True):
        self.urls, self.timeout, self.main = [root(url) for url in urls], timeout, main
        if not main:
            return
        parent = folder or (MEMORY if MEMORY.is_dir() else Path(tempfile.gettempdir()))
        try:
            parent.mkdir(parents=True, exist_ok=True)
            self._held = temporary.folder(_PREFIX, parent)
        except OSError as error:
            raise UserError(f"{parent}: the weights for the servers cannot be written there: {error}") from None
        self.folder = self._held.path
        self._client = httpx.Client(trust_env=False, timeout=timeout)

    def send(
        self,
        version: int,
        weights: Iterable[tuple[str, Any]],
        *,
        adapter: dict | None = None,
        absent: dict[str, str] | None = None,
    ) -> Synced:
        """Loads weights on all servers and checks that they have them. All ranks call it with all weights.

        Args:
            version: The number of this version.
            weights: `(name, tensor)` pairs, named and shaped as in the checkpoint, sharded ones gathered on all ranks.
            adapter: The config of the adapter, if the weights are those of an adapter: it is loaded as `adapter_name`.
            absent: Why each server that is not asked failed before, by its address.

        Raises:
            UserError: The files cannot be written, for example because the folder is too small for the model.
        """
        begin = time.perf_counter()
        if not self.main:
            for _ in weights:
                pass
            return Synced(version, "")
        try:
            try:
                files = write(self.folder, weights) if adapter is None else write(self.folder, weights, sys.maxsize)
                if adapter is not None:
                    os.rename(files[0][0], self.folder / "adapter_model.safetensors")  # as peft names them
                    (self.folder / "adapter_config.json").write_text(json.dumps(adapter))
            except OSError as error:
                raise UserError(
                    f"{self.folder.parent}: the weights do not fit there: {error}: free some space, or choose another "
                    "folder",
                    status=1,
                ) from None
            wanted = total(found for _, found in files)
            synced = Synced(version, wanted, dict(absent or {}), {"writing": time.perf_counter() - begin})
            synced.bytes = sum(file.stat().st_size for file in self.folder.iterdir())
            if adapter is None:
                self._all("loading", partial(self._load, version=version, files=files, wanted=wanted), synced)
            else:
                self._all("loading", partial(self._load_adapter, name=adapter_name(version)), synced)
            self._all("clearing", self._clear, synced)
        finally:
            for file in self.folder.iterdir():
                file.unlink()
        return synced

    def close(self) -> None:
        """Removes the folder."""
        if self.main:
            self._client.close()
            self._held.close()

    def _all(self, phase: str, call, synced: Synced) -> None:
        """Calls all servers that have not failed, at once."""
        begin = time.perf_counter()
        urls = [url for url in self.urls if url not in synced.failed]
        with ThreadPoolExecutor(max(1, len(urls))) as pool:
            for url, problem in zip(urls, pool.map(partial(_problem, call), urls)):
                if problem:
                    synced.failed[url] = problem
        synced.seconds[phase] = time.perf_counter() - begin

    def _load(self, url: str, version: int, files: list[tuple[str, str]], wanted: str) -> str | None:
        body = {"method": "load", "kwargs": {"version": version, "files": files}}
        response = self._client.post(f"{url}/collective_rpc", json=body).raise_for_status()
        workers = response.json()["results"]
        for number, found in enumerate(workers):
            if found != {"version": version, "checksum": wanted}:
                return f"worker {number}: {found.get('error', found)}"
        return None if workers else "no worker replied"

    def _load_adapter(self, url: str, name: str) -> str | None:
        body = {"lora_name": name, "lora_path": str(self.folder)}
        response = self._client.post(f"{url}/v1/load_lora_adapter", json=body)
        if not response.is_success:
            return " ".join(response.text.split())[:500]
        models = self._client.get(f"{url}/v1/models").raise_for_status().json()["data"]
        for old in {model["id"] for model in models if model["id"].startswith(_ADAPTER)} - {name}:
            self._client.post(f"{url}/v1/unload_lora_adapter", json={"lora_name": old}).raise_for_status()
        return None

    def _clear(self, url: str) -> str | None:
        found = self._client.post(f"{url}/reset_prefix_cache").raise_for_status().json()
        return None if found["success"] else "its prefix cache still holds blocks of requests"


def _problem(call, url: str) -> str | None:
    """Returns why a call failed, in one line; None if it did not."""
    try:
        return call(url)
    except (httpx.HTTPError, ValueError, LookupError, AttributeError) as error:
        return " ".join(f"{type(error).__name__}: {error}".split())


def write(folder: Path, weights: Iterable[tuple[str, Any]], limit: int = CHUNK) -> list[tuple[str, str]]:
    """Writes weights to safetensors files.

    Args:
        folder: The folder for them.
        weights: `(name, tensor)` pairs.
        limit: The maximum bytes of weights in a file, unless a single weight has more.

    Returns:
        The path and the checksum of each file.
    """
    from safetensors.torch import save_file

    files: list[tuple[str, str]] = []
    held: dict[str, Any] = {}

    def save() -> None:
        file = folder / f"{len(files)}.safetensors"
        save_file(held, file)
        held.clear()
        files.append((str(file), checksum(file)))

    bytes_held = 0
    for name, tensor in weights:
        tensor = tensor.detach().cpu().contiguous()
        if tensor.untyped_storage().nbytes() > tensor.nbytes:  # safetensors writes no two parts of one storage
            tensor = tensor.clone()
        if held and bytes_held + tensor.nbytes > limit:
            save()
            bytes_held = 0
        held[name] = tensor
        bytes_held += tensor.nbytes
    if held:
        save()
    return files
