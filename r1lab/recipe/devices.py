"""The schemas of the section `launch`: the devices of a stage."""

from typing import Literal

from pydantic import Field

from r1lab.recipe.sections import Section


class Slurm(Section):
    """The options of `sbatch` for a stage on several nodes; `extra` has further ones, such as `--exclusive`."""

    partition: str | None = None
    time: str | None = None
    account: str | None = None
    extra: list[str] = []


class Launch(Section):
    """The devices of a stage: `gpus` on each of `nodes` machines, with a process, called a rank, for each.

    On a machine without GPUs, `gpus` is the number of processes. A stage of several ranks of which none has shown a
    sign of life for `timeout` seconds is ended as hung.
    """

    gpus: int = Field(default=1, ge=1)
    nodes: int = Field(default=1, ge=1)
    timeout: int = Field(default=1800, ge=1)
    slurm: Slurm | None = None

    @property
    def ranks(self) -> int:
        """The number of ranks on all nodes."""
        return self.gpus * self.nodes


class TrainLaunch(Launch):
    """The devices of a training stage, and how ranks share the model.

    With `ddp` each rank has the whole model; with `fsdp2` the weights, gradients and optimizer states are sharded over
    all ranks. `auto` is `fsdp2` on GPUs, and `ddp` without GPUs and for LoRA.
    """

    strategy: Literal["auto", "ddp", "fsdp2"] = "auto"


class GrpoLaunch(TrainLaunch):
    """The devices of a grpo stage, and those of them that only generate.

    With `rollout: colocate` each rank generates its own completions, on its own device. With `server`, the last
    `rollout_gpus` devices of each node only generate: r1lab starts vLLM servers on them, and the ranks that train are
    on the others.
    """

    rollout: Literal["colocate", "server"] = "colocate"
    rollout_gpus: int = Field(default=1, ge=1)

    @property
    def generators(self) -> int:
        """The number of devices that only generate, on all nodes."""
        return self.rollout_gpus * self.nodes if self.rollout == "server" else 0

    @property
    def ranks(self) -> int:
        """The number of ranks, which train, on all nodes."""
        return self.gpus * self.nodes - self.generators
