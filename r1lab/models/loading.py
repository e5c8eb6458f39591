"""Loads models and tokenizers: of a Hub id, a folder, a GGUF file, or a model of r1lab's own (`embedded:NAME`)."""

import importlib.util
import json
import os
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
    """Whether `path` is the folder of a LoRA adapter alone, as `model.lora.merge: false` saves it."""
    folder = Path(path)
    return (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()


def local_folder(path: str) -> Path | None:
    """Returns the folder of a whole local model; None for any other, such as one on the Hub or yet to be converted."""
    if path.lower().endswith(".gguf") and Path(path).expanduser().is_file():
        from r1lab.models import gguf

        path = str(gguf.converted(Path(path)))
    folder = EMBEDDED / path.removeprefix("embedded:") if path.startswith("embedded:") else Path(path).expanduser()
    return folder if (folder / "config.json").is_file() else None


def resolve(path: str) -> str:
    """Returns the folder or Hub id of a whole model: `embedded:NAME` and a GGUF file become folders.

    Raises:
        UserError: There is no embedded model of that name, or `path` is a LoRA adapter without its base.
    """
    if is_adapter(path):
        raise UserError(
            f"model.path: {path} is a LoRA adapter, but vLLM needs a whole model: set rollout.engine: transformers, "
            "or model.lora.merge: true in the stage that trains it"
        )
    if path.lower().endswith(".gguf"):
        from r1lab.models import gguf

        return str(gguf.convert(Path(path).expanduser()))
    if not path.startswith("embedded:"):
        return path
    name = path.removeprefix("embedded:")
    from r1lab.models import smollm2

    if name in smollm2.LAYERS:
        return str(smollm2.convert(name))
    folder = EMBEDDED / name
    if not (folder / "config.json").is_file():
        have = ", ".join([*sorted(p.name for p in EMBEDDED.glob("*/")), *smollm2.LAYERS])
        raise UserError(f"model.path: embedded:{name}: no such embedded model (available: {have})")
    return str(folder)


def torch_dtype(name: str):
    """Returns the torch dtype for a recipe's `model.dtype`: `auto` is bfloat16 if a GPU supports it, else float32."""
    import torch

    if name == "auto":
        name = "bfloat16" if torch.cuda.is_available() and not emulates_bfloat16() else "float32"
    return getattr(torch, name)


def dtype_name(name: str) -> str:
    """Returns a recipe's `model.dtype`, with what `auto` means on this machine.

    >>> dtype_name("bfloat16")
    'bfloat16'
    """
    return str(torch_dtype(name)).removeprefix("torch.")


def emulates_bfloat16() -> bool:
    """Whether the GPU of this machine, or its CPU if it has no GPU, lacks bfloat16 arithmetic.

    Emulated bfloat16 takes many times as long as float32. NVIDIA GPUs have it since Ampere.
    """
    import torch

    if torch.cuda.is_available():
        return not torch.cuda.is_bf16_supported(including_emulation=False)
    return cpu_emulates_bfloat16()


def cpu_emulates_bfloat16() -> bool:
    """Whether this machine's CPU lacks bfloat16 arithmetic; False if its features are unknown."""
    features = cpu_features()
    return bool(features) and features.isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})


def cpu_features() -> set[str]:
    """The features of this machine's CPU, as Linux names them; none if they are unknown."""
    try:
        text = CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return set()
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)  # x86 and Arm
    return set(found[1].split()) if found else set()


def load_tokenizer(
    path: str, *, revision: str | None = None, trust_remote_code: bool = False, eos_token: str | None = None, **hub
):
    """Returns the tokenizer of a model, with a padding token and padding on the left.

    Args:
        eos_token: An end token that replaces the tokenizer's own; it must be in the vocabulary.
        hub: How transformers gets the files of a Hub model: `cache_dir`, `local_files_only`.

    Raises:
        UserError: `eos_token` is not in the vocabulary.
    """
    from transformers import AutoTokenizer

    folder = path if is_adapter(path) else resolve(path)
    tokenizer = AutoTokenizer.from_pretrained(
        folder, revision=revision, trust_remote_code=trust_remote_code, padding_side="left", **hub
    )
    if type(getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)).__name__ == "BPE":
        tokenizer.clean_up_tokenization_spaces = False  # for BPE, transformers ignores True, with a warning
    return with_end(tokenizer, eos_token)


def with_end(tokenizer, eos_token: str | None):
    """Gives a tokenizer another end token, if one is given, and a padding token.

    Raises:
        UserError: `eos_token` is not in the vocabulary.
    """
    if eos_token is not None:
        if eos_token not in tokenizer.get_vocab():
            own = f"its own end token is {tokenizer.eos_token}"
            raise UserError(f"train.eos_token: {eos_token!r} is not in the vocabulary of the model's tokenizer: {own}")
        tokenizer.eos_token = eos_token
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def other_tokens(student, teacher) -> str | None:
    """Returns why a teacher cannot score a student's tokens, and what to do; None if it can.

    Every token of the student must have the same id in the teacher, which may have more tokens.

    Args:
        student, teacher: Their tokenizers.
    """
    ours, theirs = student.get_vocab(), teacher.get_vocab()
    differ = [token for token, number in ours.items() if theirs.get(token) != number]
    if not differ:
        return None
    token = min(differ, key=lambda token: ours[token])
    there = f"has the id {theirs[token]} there" if token in theirs else "is no token there"
    what = f"{len(differ):,} of the student's {len(ours):,} tokens differ, such as {token!r}, id {ours[token]}, which"
    return f"{what} {there}: use a teacher of the student's family, or distill by sample and sft stages"


def recorded(path: str) -> str:
    """Returns the name of a model in the config of an adapter whose base it is: an absolute folder, or a Hub id."""
    base = path if is_adapter(path) else resolve(path)
    return os.path.abspath(base) if os.path.isdir(base) else base


def unshared(adapter: str, base: str, revision: str | None = None) -> str | None:
    """Returns why a LoRA adapter cannot share the weights of a base with another one, and what to do; None if it can.

    Args:
        adapter: A path, of the folder of an adapter if it can.
        base, revision: The model in a recipe that the other adapter is trained on.
    """
    second = "remove share_base, to load the teacher as a second model"
    if not is_adapter(adapter):
        return f"is not the folder of a LoRA adapter, such as the adapter/ of a run: name one, or {second}"
    config = json.loads((Path(adapter) / "adapter_config.json").read_text(encoding="utf-8"))
    if (kind := config.get("peft_type")) != "LORA":
        return f"is an adapter of the kind {kind}, and the student's is LORA: {second}"
    targets = config.get("target_modules") or []
    ends = {"embed_tokens", "lm_head"} & set([targets] if isinstance(targets, str) else targets)
    whole = [key for key in ("modules_to_save", "trainable_token_indices") if config.get(key)]
    whole += [f"bias: {config['bias']}"] if config.get("bias", "none") != "none" else []
    if changed := [*sorted(ends), *whole]:
        return f"changes more of the base than its linear layers ({', '.join(changed)}): {second}"
    (theirs, at), ours = _base_of(adapter), recorded(base)
    if os.path.realpath(theirs) != os.path.realpath(ours) or (at or "main") != (revision or "main"):
        names = [f"{name} ({of})" if of else name for name, of in ((theirs, at), (ours, revision))]
        return f"is an adapter of {names[0]}, and the student's base is {names[1]}: set model.path to it, or {second}"
    return None


def load_generation_config(path: str, *, revision: str | None = None, trust_remote_code: bool = False, **hub):
    """Returns the `GenerationConfig` that a model is loaded with: its `generation_config.json`, or else the generation
    settings of its `config.json`, as transformers and vLLM read them.

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
    """Returns the base of a LoRA adapter's folder, and its revision."""
    from peft import PeftConfig

    config = PeftConfig.from_pretrained(adapter)
    if not config.base_model_name_or_path:
        raise UserError(
            f"model.path: {adapter} is a LoRA adapter whose adapter_config.json names no base: set "
            "base_model_name_or_path there to its folder or Hub name"
        )
    return config.base_model_name_or_path, config.revision


def end_token_ids(tokenizer, generation_config=None) -> list[int]:
    """Returns the tokens at which generation stops: the tokenizer's end token first, then the others of the model's
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
    """Loads a causal language model, in evaluation mode, on the CPU; the trainer moves it to its device.

    If the folder is a LoRA adapter, its base is loaded with the adapter merged.

    Args:
        quantize: `4bit` or `8bit`: QLoRA's frozen base (arXiv:2305.14314), on which `lora_config`'s adapters are
            trained.
        scores: Replace the language model's head with a new head for one score, to train a reward model.

    Raises:
        UserError: The base cannot be quantized on this machine.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    settings = {"attn_implementation": attn_implementation, "trust_remote_code": trust_remote_code}
    if is_adapter(path):
        from peft import PeftModel

        if quantize:
            raise UserError(
                f"model.path: {path} is a LoRA adapter, which cannot be merged into a {quantize} base: "
                "train it with model.lora.merge: true"
            )
        name, revision = _base_of(path)
        base = load_model(name, dtype=dtype, revision=revision, **settings)
        model = PeftModel.from_pretrained(base, path)
        untie(model)
        return model.merge_and_unload().requires_grad_(True)  # peft has frozen the base
    more = {"quantization_config": _bitsandbytes(quantize, torch_dtype(dtype))} if quantize else {}
    kind, more = (AutoModelForSequenceClassification, {"num_labels": 1}) if scores else (AutoModelForCausalLM, more)
    model = kind.from_pretrained(resolve(path), dtype=torch_dtype(dtype), revision=revision, **settings, **more)
    return _prepared(model) if quantize else model


def _bitsandbytes(quantize: str, dtype):
    """NF4 with double quantization (arXiv:2305.14314, section 3), or LLM.int8() (arXiv:2208.07339)."""
    import torch
    from transformers import BitsAndBytesConfig

    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(f"model.lora.quantize: {quantize} needs bitsandbytes: pip install 'bitsandbytes>=0.45'")
    if quantize == "8bit":
        if not torch.cuda.is_available():
            raise UserError("model.lora.quantize: 8bit needs a GPU: use 4bit, or remove quantize")
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
        # In evaluation mode, bitsandbytes 0.50 repacks 4-bit weights on a CPU with AVX512-BF16, then computes in
        # bfloat16, and dequantizes the repacked bytes as if they were not repacked: merged weights would be garbage.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)  # the trainer switches it on
