"""Models in GGUF files, as llama.cpp's users share them: converted once into a plain folder in the cache.

transformers reads and dequantizes the file, which needs the package `gguf`. What it may get wrong without an error is
checked here: the end of a turn, the tokens, and the logits of the folder that is written.
"""

import hashlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from r1lab.errors import UserError
from r1lab.models import saving
from r1lab.rundir import storage

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")
"""Those whose conversion is right here; of Gemma 3, transformers 5.17 builds another tokenizer, without an error."""
ENDS_OF_TURNS = ("<|im_end|>", "<|eot_id|>", "<|end|>")
ORIGIN = "gguf.json"  # in the folder: the file, its architecture and its license
LARGEST = 1e-3  # the difference of logits between the file and the folder, both in float32


def is_gguf(path: str) -> bool:
    """Whether a recipe's `model.path` names a GGUF file.

    >>> is_gguf("./models/tiny.gguf"), is_gguf("embedded:tiny-qwen2")
    (True, False)
    """
    return path.lower().endswith(".gguf") and not path.startswith("embedded:")


def problem(path: Path) -> str | None:
    """Returns why a file cannot be converted, from its first bytes, or None."""
    if not path.is_file():
        return f"{path}: no such file"
    with path.open("rb") as opened:
        if opened.read(4) != b"GGUF":
            return f"{path}: is not a GGUF file: download it again"
    if not converted(path).is_dir() and importlib.util.find_spec("gguf") is None:
        return f"{path}: reading it needs the package gguf: pip install 'r1lab[gguf]'"
    return None


def cache(cache_dir: str | os.PathLike | None = None) -> Path:
    """Returns the folder of converted models: `$XDG_CACHE_HOME/r1lab`, or `~/.cache/r1lab`."""
    if cache_dir is None:
        cache_dir = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "r1lab"
    return Path(cache_dir)


def converted(path: Path, cache_dir: str | os.PathLike | None = None) -> Path:
    """Returns the folder that a file is converted to, whether it exists or not; a changed file has another one."""
    path = path.expanduser().resolve()
    stat = path.stat()
    key = hashlib.sha256(f"{path}/{stat.st_size}/{stat.st_mtime_ns}".encode()).hexdigest()[:12]
    return cache(cache_dir) / "gguf" / f"{path.stem}-{key}"


def convert(path: Path, folder: Path | None = None) -> Path:
    """Returns the folder of a model as plain safetensors in float32, which the first call writes.

    Args:
        folder: Where to write it. Default: a folder in the cache.

    Raises:
        UserError: The file cannot be read, or the folder would not be the same model.
    """
    folder = folder or converted(path)
    if (folder / "config.json").is_file():
        return folder
    if (why := problem(path)) is not None:
        raise UserError(f"model.path: {why}")
    origin = _origin(path)

    def write(unfinished: Path) -> None:
        model, tokenizer = load(path)
        saving.save(model, tokenizer, unfinished)
        _check_logits(model, unfinished, path)
        storage.write_json_atomic(unfinished / ORIGIN, origin)

    write_once(folder, write)
    print(f"model: {path.name}: license {origin['license']}; converted to {folder}", flush=True)
    return folder


def write_once(folder: Path, write: Callable[[Path], None]) -> None:
    """Writes a model to a temporary folder and renames it, so that a folder of the final name is always complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        write(unfinished)
        unfinished.chmod(0o755)  # mkdtemp makes it private
        try:
            unfinished.rename(folder)
        except OSError:
            if not (folder / "config.json").is_file():  # otherwise another process was first, with the same content
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def load(path: Path) -> tuple[Any, Any]:
    """Loads a saveable model in float32, and its tokenizer.

    Raises:
        UserError: The tokenizer is not the file's.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = path.expanduser().resolve()
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    tokenizer.clean_up_tokenization_spaces = False  # transformers' reader of GGUF sets True, whatever it is given
    _check_tokens(tokenizer, path)
    # Some files name another end token, such as <|im_start|> in SmolLM2's, with which a turn would never end.
    template, known = tokenizer.chat_template or "", tokenizer.get_vocab()
    end = next((end for end in ENDS_OF_TURNS if end in template and end in known), tokenizer.eos_token)
    tokenizer.eos_token = end
    if tokenizer.pad_token is None or end in ENDS_OF_TURNS:
        tokenizer.pad_token = end
    read: Any = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    # transformers 5 refuses to save a model that came from a GGUF ("quantized ... not serializable"), although its
    # weights are dequantized by then. This can be removed when it does.
    config = read.config
    delattr(config, "quantization_config")  # only a model from such a file has it
    config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    config.architectures = [type(read).__name__]
    model = type(read)(config)
    model.load_state_dict(read.state_dict())
    return model.eval(), tokenizer


def _reader(path: Path) -> tuple[Any, Callable[[str], Any]]:
    from gguf import GGUFReader  # pyright: ignore[reportAttributeAccessIssue, reportMissingImports]

    try:
        reader = GGUFReader(path.expanduser())
    except (ValueError, IndexError) as error:  # truncated, or of an unknown version
        raise UserError(f"model.path: {path}: cannot be read ({error}): download it again") from error

    def field(name: str) -> Any:
        return found.contents() if (found := reader.get_field(name)) is not None else None

    return reader, field


def _origin(path: Path) -> dict[str, str]:
    """What a file says of itself.

    Raises:
        UserError: It has an architecture that is not converted.
    """
    _, field = _reader(path)
    architecture = field("general.architecture")
    if architecture not in ARCHITECTURES:
        have = ", ".join(ARCHITECTURES)
        raise UserError(f"model.path: {path}: has the architecture {architecture}; r1lab converts {have}")
    license = field("general.license") or field("general.license.name") or "not stated in the file"
    return {"file": path.name, "architecture": architecture, "license": str(license)}


def _check_tokens(tokenizer, path: Path) -> None:
    """Checks that every token has the number that the file gives it, and that words are divided by merges.

    Raises:
        UserError: One of them is not so.
    """
    _, field = _reader(path)
    tokens = field("tokenizer.ggml.tokens") or []
    ids = tokenizer.get_vocab()
    wrong = [token for i, token in enumerate(tokens) if ids.get(token) != i]
    kind = type(tokenizer.backend_tokenizer.model).__name__
    if wrong or kind != "BPE":
        what = f"{len(wrong)} of {len(tokens)} tokens have another number" if wrong else f"it becomes a {kind} model"
        raise UserError(f"model.path: {path}: transformers does not read its tokenizer as it is: {what}")


def _check_logits(model, folder: Path, path: Path) -> None:
    """Checks that the folder has the logits of the file's model.

    Raises:
        UserError: It has others.
    """
    import torch
    from transformers import AutoModelForCausalLM

    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (2, 32), generator=generator)
    with torch.inference_mode():
        written = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        difference = (written.eval()(ids).logits - model(ids).logits).abs().max().item()
    if not difference <= LARGEST:
        raise UserError(f"model.path: {path}: the logits of the converted model differ by {difference:.2g}", status=1)
