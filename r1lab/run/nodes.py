"""A stage on several nodes of a Slurm job, which `r1lab run` on the first of them starts with one srun.

srun runs `python -m r1lab.run.nodes DIR COMMAND...` once on each node. It starts the ranks of its node, watches them,
and writes to `DIR/ranks/nodeN.end` how they ended. A file `DIR/stop` stops the ranks of all nodes.
"""

import json
import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from r1lab import interrupts, ranks
from r1lab.interrupts import StopRequests
from r1lab.net import free_port
from r1lab.run import children, group, watch
from r1lab.run.group import Group, Node
from r1lab.run.stages import StageRun
from r1lab.run.watch import Fault
from r1lab.rundir import storage
from r1lab.rundir.logs import size

GRACE = 10.0
"""Seconds that a node waits after the consequence of a fault, for the node with the cause to report it: the first one
that ends with an error ends the others."""
SLACK = 120.0
"""Seconds of silence after `launch.timeout` after which the first node does not expect the others to notice it."""
_POLL = 0.5  # seconds between two looks at the ranks and at the file `stop`


# On the first node


def start(command: list[str], path: Path, count: int) -> Group:
    """Starts a stage on `count` nodes; `command` is that of a rank. Returns the group of the srun."""
    group.remove_signs(path)
    ranks.folder(path).mkdir(exist_ok=True)
    log = ranks.folder(path) / "srun.log"
    log_from = size(log)
    port = free_port()
    rank_0 = {"MASTER_ADDR": address(), "MASTER_PORT": str(port.getsockname()[1])}
    with log.open("ab") as output:
        process = children.start([*prefix(count), str(path), *command], output, rank_0)
    return Group(path, [process], [log], [log_from], time.time(), srun=True, port=port)


def prefix(count: int) -> list[str]:
    """The command that runs this module on `count` nodes, before its arguments.

    `--relative` makes the first node the one on which this process runs, whose address the ranks get. srun has not
    taken the cores of a task from sbatch since Slurm 22.05.
    """
    once = [f"--nodes={count}", f"--ntasks={count}", "--ntasks-per-node=1", "--relative=0"]
    cores = os.environ.get("SLURM_CPUS_PER_TASK")
    more = ["--cpu-bind=none", "--export=ALL", *([f"--cpus-per-task={cores}"] if cores else [])]
    return ["srun", *once, "--kill-on-bad-exit=1", *more, sys.executable, "-P", "-m", "r1lab.run.nodes"]


def address() -> str:
    """The address by which Slurm reaches this node, or its name."""
    name = os.environ["SLURMD_NODENAME"]
    shown = subprocess.run(["scontrol", "show", "node", name], check=False, capture_output=True, text=True).stdout
    match = re.search(r"\bNodeAddr=(\S+)", shown)
    return match[1] if match else name


def wait(running: Group, seconds: float) -> int | None:
    """The exit status of a stage on several nodes, as `group.wait` returns it."""
    status = group.wait(running, seconds)
    if status is None:
        return None
    ends = [end["status"] for end in _ends(running.path)]
    return ranks.RESTART if ranks.RESTART in ends else next((end for end in ends if end), status)


def faults(running: Group, timeout: float, *, stopping: bool) -> list[Fault]:
    """The faults of a stage on several nodes, the first one first, as `watch.faults` returns them."""
    status = running.processes[0].poll()
    if status is None:
        silent = watch.silent(running, timeout + SLACK, time.time())
        what = f"no node has shown a sign of life for {timeout + SLACK:.0f} s: see {running.logs[0]}"
        return [Fault(1, [what])] if silent else []
    ends = _ends(running.path)
    found = [Fault(**end["fault"]) for end in ends if end["fault"]]
    for fault in found:
        fault.places = {int(rank): place for rank, place in fault.places.items()}  # JSON has no numbers as keys
    if stopping or found or not status:
        return [] if stopping else found
    lines = children.failure(status, running.path / "error.txt", running.logs[0], running.logs_from[0])
    return [Fault(1, [f"srun: {line} (log: {running.logs[0]})" for line in lines])]


def _ends(path: Path) -> list[dict]:
    """How the ranks of the nodes ended, in the order of time."""
    files = ranks.folder(path).glob("*.end")
    return sorted((json.loads(file.read_text()) for file in files), key=lambda end: end["time"])


# On each node


def main(path: Path, command: list[str]) -> int:
    """Runs the ranks of this node to their end; returns the exit status for srun, not 0 after a fault."""
    stage = StageRun(path.name, path, storage.read_yaml(path / "config.yaml"))
    number = int(os.environ["SLURM_NODEID"])
    node = Node(number, stage.nodes, os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    with interrupts.stop_requests() as stop:
        running = group.start(command, path, stage.ranks // stage.nodes, node)
        try:
            status, found = _watched(running, stage.timeout, stop, ranks.folder(path) / f"node{number}.beat")
        finally:
            group.kill(running)
        end = {"status": status, "time": time.time(), "fault": asdict(found) if found else None}
        storage.write_json_atomic(ranks.folder(path) / f"node{number}.end", end)
        if found and not found.cause:
            time.sleep(GRACE)
    return 1 if found else 0


def _watched(running: Group, timeout: float, stop: StopRequests, beat: Path) -> tuple[int, Fault | None]:
    """The exit status of the ranks of this node, and their fault.

    Ranks of this node that wait for those of another must not end while these load, so that loading, which
    `watch.silent` sees by the CPU time, touches `beat`.
    """
    file, stopping, worked = running.path / "stop", False, 0.0
    while True:
        status = group.wait(running, _POLL)
        if stop.count and not stopping:
            file.touch()
        if not stopping and file.exists():
            stopping = True
            group.interrupt(running)
        for fault in watch.faults(running, timeout, stopping=stopping):
            return fault.status, fault
        if status is not None:
            return status, None
        hung = [end["fault"] for end in _ends(running.path) if end["fault"] and end["fault"]["hung"]]
        if hung:  # noticed on another node, which waits for the stacks of this one
            return 1, Fault(1, hung[0]["lines"], cause=False, hung=True, places=watch.stacks(running))
        if running.worked > worked:
            worked = running.worked
            beat.touch()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
