"""r1lab: DeepSeek-R1-Zero and R1 on hardware that people have, with results that can be believed."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from r1lab.grpo.trainer import GRPOTrainer as GRPOTrainer

__version__ = "0.1.0"
__all__ = ["GRPOTrainer"]


def __getattr__(name: str):
    """The trainer when it is asked for: it brings torch, which the command line can do without."""
    if name == "GRPOTrainer":
        from r1lab.grpo.trainer import GRPOTrainer

        return GRPOTrainer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
