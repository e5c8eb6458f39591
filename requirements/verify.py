"""After an installation: imports the packages that break most often, and reports a problem in one line."""

import importlib
import sys


def problem(device: str) -> str | None:
    """What is wrong with this environment for `device` (`cpu` or `cuda`), or None."""
    for name in ("torch", "transformers", "trl", "vllm"):
        try:
            module = importlib.import_module(name)
        except (ImportError, OSError, RuntimeError) as error:  # a missing or unloadable library, a wrong build
            if name == "torch":
                return f"import torch: {error}\n{torch_advice(device)}"
            return f"import {name}: {error}"
        if name == "torch" and (module.version.cuda is None) != (device == "cpu"):
            return f"torch {module.__version__} is not a build for {device}\n{torch_advice(device)}"
    return None


def torch_advice(device: str) -> str:
    """What to type if torch is the wrong build."""
    if device == "cuda":
        return "Run .venv/bin/python -m pip uninstall -y torch, then: make install"
    return (
        "Run .venv/bin/python -m pip uninstall -y torch, set PIP_EXTRA_INDEX_URL to PyTorch's CPU wheel index "
        "(README.md, Install), then: make install"
    )


if __name__ == "__main__":
    found = problem(sys.argv[1])
    if found:
        sys.exit(found)
