"""Loading models and tokenizers: a Hub id, a folder, or a model that r1lab carries (`embedded:NAME`)."""

import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING

from r1lab import lookup
from r1lab.errors import UserError
from r1lab.models.lora import untie

if TYPE_CHECKING:
    from transformers import PreTrainedModel

EMBEDDED = lookup.folder("data") / "embedded"

CPUINFO = Path("/proc/cpuinfo")


def is_adapter(path: str) -> bool:
    """Whether `path` is the folder of a LoRA adapter alone, as `model.lora.merge: false` leaves it."""
    folder = Path(path)
    return (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()


def local_folder(path: str) -> Path | None:
    """The folder of a whole model that lies here; None of any other, such as one of the Hub."""
    folder = EMBEDDED / path.removeprefix("embedded:") if path.startswith("embedded:") else Path(path).expanduser()
    return folder if (folder / "config.json").is_file() else None


def resolve(path: str) -> str:
    """A folder or Hub id of a whole model: `embedded:NAME` becomes a folder, all else stays as it is.

    Raises:
        UserError: If there is no embedded model of that name, or `path` is a LoRA adapter without its base.
    """
    if is_adapter(path):
        raise UserError(
            f"model.path: {path} is a LoRA adapter, and vLLM starts from whole models: set rollout.engine: "
            "transformers, or model.lora.merge: true where it is trained"
        )
    if not path.startswith("embedded:"):
        return path
    name = path.removeprefix("embedded:")
    if name == "smollm2-135m":
        from r1lab.models.smollm2 import convert

        return str(convert())
    folder = EMBEDDED / name
    if not (folder / "config.json").is_file():
        have = ", ".join(sorted(p.name for p in EMBEDDED.glob("*/"))) or "none"
        raise UserError(f"model.path: embedded:{name}: no such embedded model (there are: {have}, smollm2-135m)")
    return str(folder)


def torch_dtype(name: str):
    """The torch dtype for a recipe's `model.dtype`: `auto` is bfloat16 on a GPU that computes in it, else float32."""
    import torch

    if name == "auto":
        name = "bfloat16" if torch.cuda.is_available() and not emulates_bfloat16() else "float32"
    return getattr(torch, name)


def emulates_bfloat16() -> bool:
    """Whether the GPU of this machine, or without one its processor, has no arithmetic for bfloat16.

    Emulated, it takes many times as long as float32. GPUs have it from Ampere on.
    """
    import torch

    if torch.cuda.is_available():
        return not torch.cuda.is_bf16_supported(including_emulation=False)
    return cpu_emulates_bfloat16()


def cpu_emulates_bfloat16() -> bool:
    """Whether this machine's processor has no arithmetic for bfloat16; False where its features are not known."""
    try:
        text = CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return False
    features = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)  # x86 and Arm
    return bool(features) and {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(features[1].split())


def load_tokenizer(
    path: str, *, revision: str | None = None, trust_remote_code: bool = False, eos_token: str | None = None, **hub
):
    """The tokenizer of a model, with a padding token, padding on the left.

    Args:
        eos_token: Another end token than the tokenizer's own, which must be in its vocabulary.
        hub: How transformers gets the files of a Hub model: `cache_dir`, `local_files_only`.

    Raises:
        UserError: `eos_token` is no token of this tokenizer.
    """
    from transformers import AutoTokenizer

    folder = path if is_adapter(path) else resolve(path)
    tokenizer = AutoTokenizer.from_pretrained(
        folder, revision=revision, trust_remote_code=trust_remote_code, padding_side="left", **hub
    )
    return with_end(tokenizer, eos_token)


def with_end(tokenizer, eos_token: str | None):
    """A tokenizer with another end token, if one is given, and with a padding token.

    Raises:
        UserError: `eos_token` is no token of this tokenizer.
    """
    if eos_token is not None:
        if eos_token not in tokenizer.get_vocab():
            own = f"its own end token is {tokenizer.eos_token}"
            raise UserError(f"train.eos_token: {eos_token!r} is no token of the model's tokenizer: {own}")
        tokenizer.eos_token = eos_token
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_generation_config(path: str, *, revision: str | None = None, trust_remote_code: bool = False, **hub):
    """The `GenerationConfig` that a model is loaded with: its `generation_config.json`, or else what its
    `config.json` says about generation, as transformers and vLLM read them.

    Args:
        hub: How transformers gets the files of a Hub model: `cache_dir`, `local_files_only`.

    Raises:
        OSError: The model has neither file.
    """
    from transformers import AutoConfig, GenerationConfig

    if is_adapter(path):
        path, revision = _base_of(path)
    folder, settings = resolve(path), {"revision": revision, "trust_remote_code": trust_remote_code, **hub}
    try:
        return GenerationConfig.from_pretrained(folder, **settings)
    except OSError:  # it has no generation_config.json
        return GenerationConfig.from_model_config(AutoConfig.from_pretrained(folder, **settings))


def _base_of(adapter: str) -> tuple[str, str | None]:
    """The base of a LoRA adapter's folder, and the revision of it."""
    from peft import PeftConfig

    config = PeftConfig.from_pretrained(adapter)
    if not config.base_model_name_or_path:
        raise UserError(
            f"model.path: {adapter} is a LoRA adapter whose adapter_config.json names no base: write its folder or "
            "Hub name there, as base_model_name_or_path"
        )
    return config.base_model_name_or_path, config.revision


def end_token_ids(tokenizer, generation_config=None) -> list[int]:
    """The tokens at which generation stops: the tokenizer's end token first, then the others of the model's
    generation config. vLLM, TRL and `r1lab.engines.transformers` all follow this rule.

    >>> from transformers import GenerationConfig
    >>> end_token_ids(load_tokenizer("embedded:tiny-qwen2"), GenerationConfig(eos_token_id=[2, 0]))
    [2, 0]
    """
    named = getattr(generation_config, "eos_token_id", None)
    named = named if isinstance(named, list | tuple) else [named]
    return [i for i in dict.fromkeys([tokenizer.eos_token_id, *named]) if i is not None]


def load_model(
    path: str,
    *,
    dtype: str = "auto",
    quantize: str | None = None,
    revision: str | None = None,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    scores: bool = False,
) -> "PreTrainedModel":
    """A causal language model, in evaluation mode, on the CPU: the trainer moves it where it belongs.

    The folder of a LoRA adapter gives its base with the adapter merged.

    Args:
        quantize: `4bit` or `8bit`: QLoRA's frozen base (arXiv:2305.14314), to be trained by `lora_config`'s adapters.
        scores: Put a new head for one score in place of the language model's: the start of a reward model.

    Raises:
        UserError: If a base cannot be quantised here.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    settings = {"attn_implementation": attn_implementation, "trust_remote_code": trust_remote_code}
    if is_adapter(path):
        from peft import PeftModel

        if quantize:
            raise UserError(
                f"model.path: {path} is a LoRA adapter, which cannot be merged into a base of {quantize}: "
                "train it with model.lora.merge: true"
            )
        name, revision = _base_of(path)
        base = load_model(name, dtype=dtype, revision=revision, **settings)
        model = PeftModel.from_pretrained(base, path)
        untie(model)
        return model.merge_and_unload()
    more = {"quantization_config": _bitsandbytes(quantize, torch_dtype(dtype))} if quantize else {}
    kind, more = (AutoModelForSequenceClassification, {"num_labels": 1}) if scores else (AutoModelForCausalLM, more)
    model = kind.from_pretrained(resolve(path), dtype=torch_dtype(dtype), revision=revision, **settings, **more)
    return _prepared(model) if quantize else model


def _bitsandbytes(quantize: str, dtype):
    """NF4 with double quantisation (arXiv:2305.14314, section 3), or LLM.int8() (arXiv:2208.07339)."""
    import torch
    from transformers import BitsAndBytesConfig

    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(f"model.lora.quantize: {quantize} needs bitsandbytes: pip install 'bitsandbytes>=0.45'")
    if quantize == "8bit":
        if not torch.cuda.is_available():
            raise UserError("model.lora.quantize: 8bit needs a GPU: use 4bit, or leave quantize out")
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def _prepared(model):
    from peft import prepare_model_for_kbit_training

    for module in model.modules():
        # In evaluation bitsandbytes 0.50 repacks 4-bit weights on a CPU with AVX512-BF16, computes in bfloat16 from
        # then on, and dequantises the repacked bytes as if they were not: merged weights would be garbage.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)  # the trainer's to switch on
