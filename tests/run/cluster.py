"""A Slurm cluster of two nodes, `n1` and `n2`, on this machine: the real daemons, for root, without cgroups."""

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "squeue")
CONF = """
ClusterName=r1lab
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={ports[0]}
AuthType=auth/munge
# A requeued job waits until the credentials of its first start have expired: after 5 seconds, not 120.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
# Neither cgroups nor a binding to cores: both need more of the machine than a container has.
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait={kill_wait}
SchedulerParameters=batch_sched_delay=1,sched_interval=2,sched_min_interval=0
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=1000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=1000
PartitionName=main Nodes=n1,n2 Default=YES State=UP MaxTime=INFINITE
"""


def missing() -> str:
    """Why this machine cannot start a cluster; empty if it can."""
    if getpass.getuser() != "root":
        return "needs root, as which Slurm's daemons run here"
    absent = [name for name in PROGRAMS if not shutil.which(name, path=_path())]
    return f"needs {', '.join(absent)}: apt-get install slurm-wlm munge" if absent else ""


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


@dataclass(frozen=True)
class Cluster:
    """A running cluster. Slurm's commands find it by the variables in `environment`."""

    folder: Path
    environment: dict[str, str]

    def __call__(self, *command: str | Path, **settings) -> str:
        """Runs a command, such as `squeue`, and returns its output."""
        process = subprocess.run(
            list(map(str, command)), env=self.environment, text=True, capture_output=True, **settings
        )
        assert process.returncode == 0, f"{command}: {process.returncode}: {process.stdout}{process.stderr}"
        return process.stdout

    def state(self, job: str) -> str:
        """The state of a job as Slurm names it, such as RUNNING."""
        words = self("scontrol", "show", "job", job).split()
        return next(word.partition("=")[2] for word in words if word.startswith("JobState="))

    def ended(self, job: str, seconds: float = 3600) -> str:
        """Waits until a job has ended, and returns its last state."""
        wait_until(lambda: self.state(job) not in ("PENDING", "RUNNING", "COMPLETING"), seconds)
        return self.state(job)

    def logs(self) -> str:
        """The ends of the daemons' logs, for the message of an assertion."""
        return "\n".join(f"{file.name}:\n{file.read_text()[-2000:]}" for file in sorted(self.folder.glob("*.log")))


def wait_until(condition, seconds: float = 3600) -> None:
    """Waits until `condition()` is true; fails after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.2)


@contextmanager
def cluster(folder: Path, *, kill_wait: int = 30) -> Iterator[Cluster]:
    """Starts the daemons and ends them. `kill_wait`: Slurm's seconds between SIGTERM and SIGKILL."""
    key, conf = folder / "munge.key", folder / "slurm.conf"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    with ExitStack() as sockets:  # all at once, so that they differ
        probes = [sockets.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        ports = [probe.getsockname()[1] for probe in probes]
    (folder / "state").mkdir()
    conf.write_text(
        CONF.format(folder=folder, host=socket.gethostname().split(".")[0], ports=ports, kill_wait=kill_wait)
    )
    # Nothing of a job that the tests themselves may run in.
    given = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH", "SRUN"))}
    environment = given | {"SLURM_CONF": str(conf), "PATH": _path()}
    running = Cluster(folder, environment)
    munged = ["--key-file", key, "--socket", folder / "munge.socket", "--pid-file", folder / "munge.pid"]
    munged += ["--seed-file", folder / "munge.seed", "--log-file", folder / "munge.log"]
    daemons = []
    try:
        daemons.append(_daemon(running, "munged", "--foreground", "--force", *munged))
        wait_until(lambda: (folder / "munge.socket").exists(), 60)
        daemons.append(_daemon(running, "slurmctld", "-D"))
        daemons += [_daemon(running, "slurmd", "-D", "-N", node) for node in ("n1", "n2")]
        wait_until(lambda: _idle(running) == 2, 120)
        yield running
    finally:
        _end(running, daemons)


def _daemon(running: Cluster, program: str, *arguments: str | Path) -> subprocess.Popen:
    output = (running.folder / f"{program}.out").open("ab")
    command = [program, *map(str, arguments)]
    with output:
        return subprocess.Popen(command, env=running.environment, stdout=output, stderr=output, start_new_session=True)


def _idle(running: Cluster) -> int:
    command = ["sinfo", "--noheader", "--Node", "--format=%t"]
    return (
        subprocess.run(command, env=running.environment, text=True, capture_output=True).stdout.split().count("idle")
    )


def _end(running: Cluster, daemons: list[subprocess.Popen]) -> None:
    """Cancels what still runs, and ends the daemons and whatever they started: no process is left."""
    if len(daemons) == 4:
        subprocess.run(["scancel", "--user=root"], env=running.environment, capture_output=True)
        end = time.monotonic() + 60
        while _idle(running) < 2 and time.monotonic() < end:
            time.sleep(0.2)
    for daemon in reversed(daemons):
        daemon.terminate()
    for daemon in daemons:
        try:
            daemon.wait(20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
    for pid in processes(running.folder):  # a step's daemon outlives slurmd
        os.kill(pid, signal.SIGKILL)


def processes(folder: Path) -> list[int]:
    """The processes of a cluster: those with the path of its folder in their environment or command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            text = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
        except OSError:  # ended
            continue
        if f"{folder}/".encode() in text and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found
