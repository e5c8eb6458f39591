"""r1lab: DeepSeek-R1-Zero and R1 on hardware that people have, with results that can be believed."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from r1lab.grpo.trainer import GRPOTrainer as GRPOTrainer

__version__ = "0.1.0"
__all__ = ["GRPOTrainer"]

# In a checkout, rewards/, data/ and recipes/ lie beside this folder (see package-dir in pyproject.toml).
_ROOT = Path(__file__).parent.parent
if (_ROOT / "pyproject.toml").is_file():
    __path__.append(str(_ROOT))


def __getattr__(name: str):
    """The trainer when it is asked for: it brings torch, which the command line can do without."""
    if name == "GRPOTrainer":
        from r1lab.grpo.trainer import GRPOTrainer

        return GRPOTrainer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
