"""Loading models and tokenizers: a Hub id, a folder, or a model that r1lab carries (`embedded:NAME`)."""

import os
from pathlib import Path

from r1lab.errors import UserError

EMBEDDED = Path(__file__).parent.parent / "data" / "embedded"
if not EMBEDDED.is_dir():  # installed from a wheel, data/ lies inside the package
    EMBEDDED = Path(__file__).parent / "data" / "embedded"

_SIZES = {
    "vocab_size": 768,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 1024,
}
SCRATCH = {"tiny-qwen2": ("qwen2", _SIZES), "tiny-llama": ("llama", _SIZES)}
"""Architectures that `scratch:NAME` starts from random weights, with a tokenizer trained on the SFT data."""

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def resolve(path: str) -> str:
    """A folder or Hub id for `path`: `embedded:NAME` becomes a folder, all else stays as it is.

    Raises:
        UserError: If there is no embedded model of that name.
    """
    if not path.startswith("embedded:"):
        return path
    name = path.removeprefix("embedded:")
    if name == "smollm2-135m":
        from r1lab.smollm2 import convert

        return str(convert())
    folder = EMBEDDED / name
    if not (folder / "config.json").is_file():
        have = ", ".join(sorted(p.name for p in EMBEDDED.glob("*/"))) or "none"
        raise UserError(f"model.path: embedded:{name}: no such embedded model (there are: {have}, smollm2-135m)")
    return str(folder)


def torch_dtype(name: str):
    """The torch dtype for a recipe's `model.dtype`: `auto` is bfloat16 on a GPU and float32 on a CPU."""
    import torch

    if name == "auto":
        name = "bfloat16" if torch.cuda.is_available() else "float32"
    return getattr(torch, name)


def load_tokenizer(path: str, *, revision: str | None = None, trust_remote_code: bool = False):
    """The tokenizer of a model, with a padding token, padding on the left."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        resolve(path), revision=revision, trust_remote_code=trust_remote_code, padding_side="left"
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    path: str,
    *,
    dtype: str = "auto",
    revision: str | None = None,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
):
    """A causal language model, in evaluation mode, on the CPU: the trainer moves it where it belongs."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        resolve(path),
        dtype=torch_dtype(dtype),
        revision=revision,
        attn_implementation=attn_implementation,
        trust_remote_code=trust_remote_code,
    )


def lora_config(lora):
    """peft's `LoraConfig` for a recipe's `model.lora`, or None."""
    if lora is None:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        task_type="CAUSAL_LM",
    )


def scratch(name: str, texts: list[str], *, seed: int = 0):
    """A fresh model with random weights, and a byte-level BPE tokenizer trained on `texts`.

    Returns:
        `(model, tokenizer)`.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    model_type, sizes = SCRATCH[name]
    tokenizer = _train_tokenizer(texts, sizes["vocab_size"], sizes["max_position_embeddings"])
    config = AutoConfig.for_model(
        model_type,
        **{**sizes, "vocab_size": len(tokenizer)},
        tie_word_embeddings=True,
        # The usual 0.02 suits wide models; here it leaves attention flat for hundreds of steps, and nothing is copied.
        initializer_range=sizes["hidden_size"] ** -0.5,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config), tokenizer


def _train_tokenizer(texts: list[str], vocab_size: int, max_length: int):
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    # Qwen2's own splitting: AutoTokenizer rebuilds it for every model of type qwen2, whatever tokenizer.json says.
    split = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    from tokenizers import Regex

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tags = ["<think>", "</think>", "<answer>", "</answer>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(tags),
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    plain = (t.translate(str.maketrans({"<": " ", ">": " "})) for t in texts)
    tokenizer.train_from_iterator(plain, trainer)
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in tags])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def save(model, tokenizer, folder: str | os.PathLike) -> None:
    """Plain Hugging Face safetensors, the only thing that the next stage reads. LoRA adapters are merged."""
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
