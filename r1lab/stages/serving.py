"""The vLLM servers that generate the rollouts of a grpo stage (`launch.rollout: server`, `rollout.url`)."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from accelerate.utils import gather_object

from r1lab import hardware, net, ranks
from r1lab.engines import processes
from r1lab.engines.fleet import NoServer
from r1lab.engines.processes import Server
from r1lab.errors import UserError
from r1lab.models.loading import dtype_name, resolve
from r1lab.models.lora import rank_in_vllm
from r1lab.recipe.schema import GrpoRecipe
from r1lab.stages.common import doing

SHARE = 0.8
"""The share of `launch.timeout` that a request has: a stalled server is reported before its silent ranks are."""


@contextmanager
def rollout_servers(recipe: GrpoRecipe, run_dir: Path, max_length: int) -> Iterator[Callable[[], list[str] | None]]:
    """Yields a function that waits for the servers and returns their addresses; None if each rank generates itself.

    Servers that r1lab starts, while the ranks load the model, are children of the first rank of each node: they end
    with it. All ranks call the function.

    Args:
        recipe: The recipe of the stage.
        run_dir: Its folder, for the logs.
        max_length: The tokens of the longest prompt and completion together.

    Raises:
        UserError: A server did not start, other nodes do not reach it, or none was left; with their logs.
    """
    if (url := recipe.rollout.url) or not recipe.launch.generators:
        yield lambda: [url] if isinstance(url, str) else url
        return
    started: list[Server] = []
    if ranks.local_rank() == 0:
        started += start(recipe, run_dir, max_length)
        doing(run_dir, f"starting {counted(len(started))}")

    def wait() -> list[str]:
        urls = gather_object([server.url for server in started])
        doing(run_dir, f"waiting for {counted(len(urls))}")
        check_addresses(urls)
        processes.wait(started, SHARE * recipe.launch.timeout, beat=partial(ranks.beat, run_dir))
        for server in started:
            print(f"rollout server {server.url}: {server.log}", flush=True)
        ranks.from_main(partial(processes.reach, urls))
        return urls

    try:
        yield wait
    except NoServer as error:
        if not started:
            raise
        here = {server.url: server for server in started}
        failed = error.failed.items()
        why = "; ".join(
            processes.described(here[url], problem) if url in here else f"{url}: {problem}" for url, problem in failed
        )
        raise UserError(f"{error.what}: {why}: continue with --resume, which starts them again", status=1) from None
    finally:
        processes.stop(started)


def counted(servers: int) -> str:
    """Returns a number of rollout servers in words.

    >>> counted(1), counted(2)
    ('a rollout server', '2 rollout servers')
    """
    return "a rollout server" if servers == 1 else f"{servers} rollout servers"


def served_by(recipe: GrpoRecipe, run_dir: Path, addresses: list[str] | None) -> dict[str, Any] | None:
    """Returns the arguments of `r1lab.engines.served.ServedVLLM`, None without servers."""
    if addresses is None:
        return None
    folder = recipe.rollout.sync_folder
    return {
        "servers": addresses,
        "timeout": SHARE * recipe.launch.timeout,
        "adapters": adapter_rank(recipe) is not None,
        "beat": partial(ranks.beat, run_dir),
        "sync_folder": Path(folder).expanduser() if folder else None,
    }


def adapter_rank(recipe: GrpoRecipe) -> int | None:
    """Returns vLLM's `max_lora_rank` if the servers get the adapters alone; None if they get whole weights.

    Servers that run already were not started for it, and `rollout.options: {enable_lora: false}` turns it off.
    """
    if not recipe.launch.generators or not recipe.rollout.options.get("enable_lora", True):
        return None
    return rank_in_vllm(recipe.model.lora)


def check_addresses(urls: Sequence[str]) -> None:
    """Checks that the servers of the node of rank 0 do not listen where only this node reaches them.

    Its own address is what `MASTER_ADDR` means there, and a name often means 127.0.1.1 on the machine that has it.
    """
    here = [url for url in urls if net.is_loopback(urlsplit(url).hostname or "")]
    if here and len(here) < len(urls):
        fix = "write MASTER_ADDR, in Slurm NodeAddr, as the IP address of that node"
        raise UserError(f"{here[0]}: only the node of rank 0 reaches this server: {fix}", status=1)


def start(recipe: GrpoRecipe, run_dir: Path, max_length: int) -> list[Server]:
    """Starts the servers of this node on the devices after those of its ranks.

    Of several nodes, they listen on the address with which the node reaches that of rank 0.
    """
    rollout, launch = recipe.rollout, recipe.launch
    count, split, on_gpu = launch.rollout_gpus // rollout.tensor_parallel, rollout.tensor_parallel, hardware.gpus() > 0
    options = (
        {"gpu_memory_utilization": rollout.gpu_memory_utilization, "tensor_parallel_size": split} if on_gpu else {}
    )
    if recipe.model.revision:
        options["revision"] = recipe.model.revision
    if recipe.model.trust_remote_code:
        options["trust_remote_code"] = True
    if rank := adapter_rank(recipe):
        options |= {"enable_lora": True, "max_lora_rank": rank}
    return processes.start(
        resolve(recipe.model.path),
        run_dir,
        count,
        dtype=dtype_name(recipe.model.dtype),
        max_model_length=max_length,
        gpus=devices(launch.gpus - launch.rollout_gpus, count, split) if on_gpu else (),
        options=options | rollout.options,
        host=net.own_address(os.environ["MASTER_ADDR"]) if launch.nodes > 1 else "127.0.0.1",
        first=ranks.node() * count,
    )


def devices(first: int, count: int, split: int, visible: str | None = None) -> list[str]:
    """Returns `CUDA_VISIBLE_DEVICES` of each of `count` servers of `split` GPUs, which follow the `first` ones.

    >>> devices(2, 2, 1), devices(1, 1, 2, visible="4,5,6,7")
    (['2', '3'], ['5,6'])
    """
    given = (visible or os.environ.get("CUDA_VISIBLE_DEVICES") or "").split(",")
    names = given if given != [""] else [str(number) for number in range(first + count * split)]
    return [",".join(names[first + i * split : first + (i + 1) * split]) for i in range(count)]
