"""Train and evaluate R1-style reasoning models from one YAML file, with results that hold up in review."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from r1lab.grpo.trainer import GRPOTrainer as GRPOTrainer

__version__ = "0.1.0"
__all__ = ["GRPOTrainer"]


def __getattr__(name: str):
    """Imports the trainer on first access, because it imports torch, which the command line does not need."""
    if name == "GRPOTrainer":
        from r1lab.grpo.trainer import GRPOTrainer

        return GRPOTrainer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
