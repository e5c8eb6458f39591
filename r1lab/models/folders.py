"""Checks that a folder contains a loadable model, from its small files and the headers of its weights."""

import json
import struct
from pathlib import Path

from r1lab.models import loading

INDEX = "model.safetensors.index.json"
_LFS = b"version https://git-lfs"
_AGAIN = "copy it again"
_LONGEST = 100_000_000  # bytes, the format's limit for a header


def folder_problems(folder: Path, name: str = "") -> list[str]:
    """Returns the problems of a model's folder, each in one line."""
    name = name or str(folder)
    if loading.is_adapter(str(folder)):
        return []  # models.load_model merges it into its base
    if not (folder / "config.json").is_file():
        return [f"{name}: it has no config.json, so it is not the folder of a model"]
    if not any(folder.glob("*.safetensors")):
        if pickles := sorted(path.name for path in folder.glob("pytorch_model*.bin")):
            return [_pickled(name, folder, pickles[0])]
        return [f"{name}: it has no weights (*.safetensors): {_AGAIN}"]
    if (folder / INDEX).is_file():
        try:
            parts = set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError):
            return [f"{name}: {INDEX} does not list the files of the weights: {_AGAIN}"]
        missing = sorted(part for part in parts if not (folder / part).is_file())
        if missing:
            return [f"{name}: {len(missing)} of {len(parts)} weight files are missing, such as {missing[0]}: {_AGAIN}"]
    if problem := config_problem(folder):
        return [f"{name}: {problem}"]
    return [f"{name}: {problem}" for file in sorted(folder.glob("*.safetensors")) if (problem := _damage(file))]


def _pickled(name: str, folder: Path, file: str) -> str:
    code = f"from transformers import AutoModelForCausalLM as M; m = M.from_pretrained({str(folder)!r}, dtype='auto')"
    code += f"; m.save_pretrained({str(folder)!r})"
    why = "its weights are only a pickle, which may run code when it is loaded"
    return f'{name}: {file}: {why}: if you trust it, convert it once: python -c "{code}"'


def config_problem(folder: Path) -> str | None:
    """Returns why a config.json is not the configuration of a model, or None."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        return f"config.json is not text: {_AGAIN}"
    except ValueError as error:
        return f"config.json is not JSON ({error}): fix it, or {_AGAIN}"
    if not isinstance(config, dict):
        return f"config.json is not a JSON object: {_AGAIN}"
    if not isinstance(config.get("model_type"), str) and "auto_map" not in config:
        return 'config.json has no model_type: add it, for example "model_type": "qwen2"'
    return None


def quantized_by(folder: Path | None) -> str | None:
    """Returns the quantization method of the weights in a folder, or None."""
    if folder is None or not (folder / "config.json").is_file() or config_problem(folder):
        return None
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("quantization_config")
    return str(config.get("quant_method", "an unnamed method")) if isinstance(config, dict) else None


def shapes(folder: Path) -> dict[str, list[int]]:
    """Returns the shape of each weight in an undamaged folder, by name, without reading the weights."""
    found = {}
    for file in folder.glob("*.safetensors"):
        found |= {name: weight["shape"] for name, weight in _header(file).items() if name != "__metadata__"}
    return found


def _header(file: Path) -> dict:
    """Returns the header of a safetensors file: 8 bytes of length, then JSON.

    Raises:
        ValueError: The file has none.
    """
    with file.open("rb") as opened:
        start = opened.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else _LONGEST + 1
        text = opened.read(length) if length <= _LONGEST else b""
    header = json.loads(text.decode("utf-8"))
    if not isinstance(header, dict):
        raise ValueError("the header is not an object")
    return header


def _damage(file: Path) -> str | None:
    """Returns why a safetensors file cannot be read, or None."""
    with file.open("rb") as opened:
        if opened.read(len(_LFS)) == _LFS:
            return f"{file.name} is a Git LFS pointer without the weights: run `git lfs pull` in that folder"
    size = file.stat().st_size
    try:
        header = _header(file)
        ends = [weight["data_offsets"][1] for name, weight in header.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, IndexError):
        return f"{file.name} is not a safetensors file, or is truncated ({size:,} bytes): {_AGAIN}"
    with file.open("rb") as opened:
        whole = 8 + struct.unpack("<Q", opened.read(8))[0] + max(ends, default=0)
    return None if size == whole else f"{file.name} has {size:,} bytes and should have {whole:,}: {_AGAIN}"
