"""The processes of a stage on this machine, one for each rank: they start, stop and end together."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from r1lab import hardware, ranks
from r1lab.net import free_port
from r1lab.run import children
from r1lab.rundir.logs import size

INTERRUPTED = 130
_END = 30.0  # seconds for srun to end the ranks on all nodes
_BY_AGREEMENT = (0, INTERRUPTED, ranks.RESTART)  # exit statuses of all ranks, each in its own time


@dataclass
class Group:
    """The processes of a stage, by rank.

    Attributes:
        path: The folder of the stage.
        processes: The processes.
        logs: Their logs.
        logs_from: The byte of each log at which this attempt begins.
        started: The time of their start, in unix seconds.
        first: The rank of the first process.
        srun: The only process is an srun, which has the ranks started on several nodes.
        port: The socket that keeps their port free for them, if it was chosen here.
        worked: The last time at which they were seen to use the CPU while loading.
        used: The CPU seconds that they had used by then.
    """

    path: Path
    processes: list[subprocess.Popen]
    logs: list[Path]
    logs_from: list[int]
    started: float
    first: int = 0
    srun: bool = False
    port: socket.socket | None = None
    worked: float = 0.0
    used: float = 0.0

    def by_rank(self) -> Iterator[tuple[int, subprocess.Popen]]:
        """The processes with their ranks."""
        return enumerate(self.processes, self.first)


@dataclass(frozen=True)
class Node:
    """This machine among those on which a stage runs, and the address of its rank 0."""

    number: int
    count: int
    address: str
    port: int


def start(command: list[str], path: Path, count: int = 1, node: Node | None = None) -> Group:
    """Starts `count` ranks of a stage. An only rank gets the environment of this process as it is.

    Args:
        command: The command of a rank.
        path: The folder of the stage.
        count: The ranks on this machine.
        node: This machine, if there are others; `remove_signs` has then been called once for all of them.
    """
    port = None
    if node is None:
        remove_signs(path)
    if node is None and count > 1:
        ranks.folder(path).mkdir(exist_ok=True)
        port = free_port()
        node = Node(0, 1, "127.0.0.1", port.getsockname()[1])
    first = node.number * count if node else 0
    logs = [ranks.folder(path) / f"{rank}.log" if rank else path / "log.txt" for rank in range(first, first + count)]
    group = Group(path, [], logs, [], time.time(), first, port=port)
    for place, log in enumerate(logs):
        group.logs_from.append(size(log))
        with log.open("ab") as output:
            more = environment(place, count, node) if node else {}
            group.processes.append(children.start(command, output, more))
    return group


def of_stage(group: Group, path: Path) -> Group:
    """A group that runs several stages one after another, as that of its stage in `path`."""
    log = path / "log.txt"
    return replace(group, path=path, logs=[log], logs_from=[size(log)])


def remove_signs(path: Path) -> None:
    """Removes what an earlier attempt left and this one would take for its own."""
    (path / "stop").unlink(missing_ok=True)
    for name in ("*.beat", "*.stack", "*.error", "*.end"):
        for file in ranks.folder(path).glob(name):
            file.unlink()


def environment(place: int, count: int, node: Node) -> dict[str, str]:
    """The variables that a rank has besides those of this process, the same as torchrun's.

    Args:
        place: Its place among the `count` ranks of this machine.
        count: The ranks of each machine.
        node: This machine.

    torch uses all cores in every process unless `OMP_NUM_THREADS` is set. accelerate makes no process group without
    a GPU unless `ACCELERATE_USE_CPU` is set: each rank would train alone.

    >>> environment(1, 2, Node(3, 4, "10.0.0.1", 29500))["RANK"]
    '7'
    """
    found = {
        "RANK": str(node.number * count + place),
        "LOCAL_RANK": str(place),
        "WORLD_SIZE": str(node.count * count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": node.address,
        "MASTER_PORT": str(node.port),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, hardware.allowed_cores() // count)),
    }
    return found if hardware.gpus() else found | {"ACCELERATE_USE_CPU": "true"}


def failed(group: Group) -> dict[int, int]:
    """The exit statuses of the ranks that failed, by rank."""
    statuses = {rank: process.poll() for rank, process in group.by_rank()}
    if ranks.RESTART in statuses.values():  # they end one by one, and a slow one may lose its connection to another
        return {}
    return {rank: status for rank, status in statuses.items() if status is not None and status not in _BY_AGREEMENT}


def wait(group: Group, seconds: float) -> int | None:
    """The exit status of a group: of the first rank that failed, or of all; None if it still runs after `seconds`."""
    running = next((process for process in group.processes if process.poll() is None), None)
    if running:
        with suppress(subprocess.TimeoutExpired):
            running.wait(seconds)
    statuses = [process.poll() for process in group.processes]
    for status in failed(group).values():
        return status
    if None in statuses:
        return None
    return ranks.RESTART if ranks.RESTART in statuses else next((status for status in statuses if status), 0)


def interrupt(group: Group) -> None:
    """Asks all ranks to stop, which they do at the end of the same step."""
    if group.srun:  # to which a single SIGINT is a question
        (group.path / "stop").touch()
        return
    for process in group.processes:
        process.send_signal(signal.SIGINT)


def kill(group: Group) -> None:
    """Kills all ranks and the processes that they started."""
    if group.srun:  # it kills the ranks; killed itself, it would leave them running
        for process in group.processes:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_END)
    for process in group.processes:  # all at once: one that survives another for long would report its end
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    for process in group.processes:
        process.wait()
    if group.port:
        group.port.close()
