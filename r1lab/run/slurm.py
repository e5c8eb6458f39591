"""Runs on a Slurm cluster: the batch script of a recipe, which runs `r1lab run` once on the job's first node."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

from r1lab.errors import UserError

WARNING = 600
"""Seconds before the time limit at which a run is stopped, so that it saves a checkpoint in time."""

_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<clock>\d+(?::\d+){0,2})")
SCRIPT = """\
#!/bin/bash
# {summary}
{options}

# r1lab runs once, on the first node of the job, and starts the ranks of each stage on all nodes with one srun.
{command} &
run=$!

# A scancel (TERM) and the coming end of the time limit (USR1) stop the run after a step, with a checkpoint.
trap 'kill -TERM $run' TERM
trap 'time_is_up=yes; kill -USR1 $run' USR1
wait $run; status=$?
while kill -0 $run 2>/dev/null; do wait $run; status=$?; done  # a signal also ends `wait`

# What was stopped for the time limit goes on as the same job, as soon as there are nodes for it.
if [ $status = 130 ] && [ "$time_is_up" ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit $status
"""


def script(config: dict, *, name: str, command: list[str], folder: Path) -> str:
    """The batch script of a run, which continues it if Slurm starts the job again.

    Args:
        config: The resolved recipe, of a stage or a pipeline.
        name: The name of the run.
        command: The command of the run.
        folder: The folder in which it is run.

    Raises:
        UserError: Options in `launch.slurm` cannot be used.
    """
    launches = [part.get("launch") or {} for part in config.get("stages", [config])]
    nodes = max(launch.get("nodes", 1) for launch in launches)
    gpus = max(launch.get("gpus", 1) for launch in launches)
    size = f"{nodes} node{'s' * (nodes > 1)} with {gpus} rank{'s' * (gpus > 1)}{' each' * (nodes > 1)}"
    return SCRIPT.format(
        summary=f"The run {name} on {size}. Submit this file with sbatch, or print it again: r1lab run ... --slurm",
        options="\n".join(f"#SBATCH {option}" for option in options(_given(config), name, nodes, gpus, folder)),
        command=shlex.join(command),
    )


def _given(config: dict) -> dict:
    """The `launch.slurm` of a recipe, the same for all stages that have one, because they run in one job."""
    stages = [part for part in config.get("stages", [config]) if (part.get("launch") or {}).get("slurm")]
    for other in stages[1:]:
        if other["launch"]["slurm"] != stages[0]["launch"]["slurm"]:
            raise UserError(
                f"{other['name']}: launch.slurm: differs from that of {stages[0]['name']}, and all stages run in one "
                "job: write launch.slurm once, at the top of the recipe"
            )
    return stages[0]["launch"]["slurm"] if stages else {}


def options(given: dict, name: str, nodes: int, gpus: int, folder: Path) -> list[str]:
    """The options of sbatch. One in `launch.slurm.extra` takes the place of that of the same name or purpose.

    >>> options({"time": "20:00", "extra": ["--gres=none", "--cpus-per-task=4"]}, "mine", 2, 1, Path("/home/me"))[2:5]
    ['--ntasks-per-node=1', '--time=20:00', '--signal=B:USR1@300']

    Raises:
        UserError: An extra option is not written as a long option, or the time is not one.
    """
    extra: list[str] = given.get("extra") or []
    for option in extra:
        if not re.match(r"--[a-z]", option):
            raise UserError(f"launch.slurm.extra: {option}: not a long option of sbatch: write it as in --qos=high")
    wanted = {key: given[key] for key in ("partition", "account", "time") if given.get(key)}
    before = min(WARNING, seconds(wanted["time"]) // 4) if "time" in wanted else WARNING
    own: list[tuple[str, tuple[str, ...]]] = [  # each with the beginnings of options that replace it
        (f"--job-name={shlex.quote(name)}", ()),
        (f"--nodes={nodes}", ()),
        ("--ntasks-per-node=1", ()),
        (f"--gpus-per-node={gpus}", ("--gpus", "--gres")),
        ("--exclusive", ("--cpus-per", "--oversubscribe")),  # all cores of each node
        ("--mem=0", ("--mem", "--cpus-per")),  # all its memory
        *((f"--{key}={shlex.quote(value)}", ()) for key, value in wanted.items()),
        (f"--signal=B:USR1@{before}", ()),
        ("--requeue", ("--no-requeue",)),
        ("--open-mode=append", ()),  # of the output, if the job starts again
        (f"--output={shlex.quote(name)}-%j.log", ()),
        (f"--chdir={shlex.quote(str(folder))}", ()),
    ]
    kinds = [option.partition("=")[0] for option in extra]
    kept = [
        option
        for option, others in own
        if option.partition("=")[0] not in kinds and not any(kind.startswith(others) for kind in kinds)
    ]
    return kept + extra


def seconds(limit: str) -> int:
    """The seconds of a time limit in one of Slurm's forms.

    >>> [seconds(limit) for limit in ("90", "90:30", "24:00:00", "2-12", "1-00:30:00")]
    [5400, 5430, 86400, 216000, 88200]

    Raises:
        UserError: It has none of them.
    """
    match = _TIME.fullmatch(limit)
    if not match:
        raise UserError(
            f"launch.slurm.time: {limit}: not a time limit of Slurm: write it as in 24:00:00 or 2-12:00:00"
        )
    numbers = [int(number) for number in match["clock"].split(":")]
    if match["days"]:  # hours come first
        numbers += [0] * (3 - len(numbers))
    elif len(numbers) < 3:  # minutes come first
        numbers = [0, *numbers, 0][:3]
    hours, minutes, rest = numbers
    return ((int(match["days"] or 0) * 24 + hours) * 60 + minutes) * 60 + rest


def submit(text: str) -> str:
    """Submits a batch script and returns the number of its job.

    Raises:
        UserError: There is no Slurm here, or it refuses the script.
    """
    try:
        found = subprocess.run(["sbatch", "--parsable"], input=text, text=True, capture_output=True)
    except FileNotFoundError as error:
        raise UserError(
            "--submit: there is no sbatch on this machine: run it where Slurm is, or save what --slurm prints"
        ) from error
    if found.returncode:
        why = (found.stderr.strip() or f"exit status {found.returncode}").splitlines()[-1]
        raise UserError(f"--submit: sbatch refused the script, which --slurm prints: {why}")
    return found.stdout.strip().partition(";")[0]  # JOB or JOB;CLUSTER


def command(sources: list[str], more: list[str]) -> list[str]:
    """The command of a run in a batch script, by absolute paths, because the job may have another environment."""
    program = Path(sys.executable).parent / "r1lab"
    start = [str(program)] if program.is_file() else [sys.executable, "-P", "-m", "r1lab"]
    return [*start, "run", *sources, *more, "--resume"]


def followed(job: str, name: str) -> str:
    """How to follow and stop a submitted job, for its user."""
    return "\n".join(
        [
            f"submitted job {job}",
            f"  squeue --job {job}                          its state",
            f"  tail -F {name}-{job}.log                 its output",
            f"  scancel --batch --signal=TERM {job}         stops it after a step, with a checkpoint",
            f"  scancel {job}                               stops it within the seconds of KillWait in slurm.conf",
        ]
    )
