"""Loading models and tokenizers: a Hub id, a folder, or a model that r1lab carries (`embedded:NAME`)."""

import copy
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

from r1lab import lookup
from r1lab.errors import UserError

EMBEDDED = lookup.folder("data") / "embedded"

CPUINFO = Path("/proc/cpuinfo")

_SIZES = {
    "vocab_size": 768,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 1024,
}
_DEEPSEEK = {
    "kv_lora_rank": 64,
    "q_lora_rank": None,  # as in DeepSeek-V2-Lite: queries this small are not compressed
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
    "first_k_dense_replace": 1,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 128,
    "n_group": 1,
    "topk_group": 1,
    "routed_scaling_factor": 1.0,
    "topk_method": "noaux_tc",  # V3's bias-corrected routing: what vLLM needs told, and transformers takes for granted
    "scoring_func": "sigmoid",
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
SCRATCH = {
    "tiny-qwen2": ("qwen2", _SIZES),
    "tiny-llama": ("llama", _SIZES),
    "tiny-deepseek-v3": ("deepseek_v3", _SIZES | _DEEPSEEK),
}
"""Architectures that `scratch:NAME` starts from random weights, with a tokenizer trained on the SFT data."""

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


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
        from peft import PeftConfig

        adapter = PeftConfig.from_pretrained(path)
        path, revision = adapter.base_model_name_or_path, adapter.revision
    folder, settings = resolve(path), {"revision": revision, "trust_remote_code": trust_remote_code, **hub}
    try:
        return GenerationConfig.from_pretrained(folder, **settings)
    except OSError:  # it has no generation_config.json
        return GenerationConfig.from_model_config(AutoConfig.from_pretrained(folder, **settings))


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
):
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
        from peft import PeftConfig, PeftModel

        if quantize:
            raise UserError(
                f"model.path: {path} is a LoRA adapter, which cannot be merged into a base of {quantize}: "
                "train it with model.lora.merge: true"
            )
        adapter = PeftConfig.from_pretrained(path)
        base = load_model(adapter.base_model_name_or_path, dtype=dtype, revision=adapter.revision, **settings)
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


def merged_weights(model) -> Iterator[tuple]:
    """Names and weights of the plain model that a LoRA model amounts to, one at a time; the model stays as it is.

    peft's `merge_adapter` and `unmerge_adapter` round the base's own weights each time, and requantise those of a
    quantised base; here a base is dequantised, and the sum is rounded once, to the dtype that the base was loaded in.

    Args:
        model: A `PeftModel` with one LoRA adapter.
    """
    import torch
    from peft.tuners.lora import LoraLayer
    from peft.utils.integrations import dequantize_module_weight

    base = model.get_base_model()
    quantized = hasattr(base.config, "quantization_config")
    for name, parameter in base.named_parameters():
        if model.prefix in name:
            continue
        layer_name, _, kind = name.replace(".base_layer", "").rpartition(".")
        layer = base.get_submodule(layer_name)
        weight = parameter.detach()
        if kind == "weight":
            weight = dequantize_module_weight(base.get_submodule(name.rpartition(".")[0])).detach()
            if isinstance(layer, LoraLayer):
                with torch.no_grad():
                    for adapter in layer.active_adapters:
                        weight = weight + layer.get_delta_weight(adapter)
        yield f"{layer_name}.{kind}", weight.to(base.config.dtype if quantized else parameter.dtype)


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


def merged(model):
    """A LoRA model with its adapters merged, to be saved; what has no adapter is shared with `model`."""
    import torch

    untie(model)
    base = model.get_base_model()
    config = copy.deepcopy(base.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        plain = type(base)(config)
    plain.load_state_dict(dict(merged_weights(model)), strict=False, assign=True)  # not strict: tied weights are once
    plain.tie_weights()
    plain.generation_config = base.generation_config
    return plain


def untie(model) -> bool:
    """Gives embedding and head of a LoRA model a weight each, where they share one and an adapter changes one use.

    Merged into the shared weight, the adapter of one would change the other. Returns whether they shared one.
    """
    import torch
    from peft.tuners.lora import LoraLayer

    base = model.get_base_model()
    ends = [layer for layer in (base.get_input_embeddings(), base.get_output_embeddings()) if layer is not None]
    plain = [layer.get_base_layer() if isinstance(layer, LoraLayer) else layer for layer in ends]
    if not any(isinstance(layer, LoraLayer) for layer in ends) or len(ends) < 2:
        return False
    if plain[0].weight is not plain[1].weight:
        return False
    plain[1].weight = torch.nn.Parameter(plain[1].weight.detach().clone(), requires_grad=False)
    base.config.tie_word_embeddings = False
    return True
