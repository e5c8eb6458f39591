"""The shapes of models, from their configs alone: no weights are read."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from r1lab.errors import UserError
from r1lab.models import gguf, loading, scratch, smollm2

if TYPE_CHECKING:
    from transformers import PretrainedConfig

QWEN, LLAMA = 151_936, 128_256  # vocabularies
# Vocabulary, width, layers, heads, heads of keys and values, width of the MLP, whether head and embedding are tied,
# from each model's config.json on the Hub.
_SIZES = {
    "qwen2": {
        "Qwen/Qwen2.5-0.5B": (QWEN, 896, 24, 14, 2, 4864, True),
        "Qwen/Qwen2.5-1.5B": (QWEN, 1536, 28, 12, 2, 8960, True),
        "Qwen/Qwen2.5-3B": (QWEN, 2048, 36, 16, 2, 11_008, True),
        "Qwen/Qwen2.5-7B": (152_064, 3584, 28, 28, 4, 18_944, False),
        "Qwen/Qwen2.5-14B": (152_064, 5120, 48, 40, 8, 13_824, False),
        "Qwen/Qwen2.5-32B": (152_064, 5120, 64, 40, 8, 27_648, False),
        "Qwen/Qwen2.5-72B": (152_064, 8192, 80, 64, 8, 29_568, False),
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": (QWEN, 1536, 28, 12, 2, 8960, False),
        "agentica-org/DeepScaleR-1.5B-Preview": (QWEN, 1536, 28, 12, 2, 8960, False),
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": (152_064, 3584, 28, 28, 4, 18_944, False),
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B": (152_064, 5120, 48, 40, 8, 13_824, False),
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B": (152_064, 5120, 64, 40, 8, 27_648, False),
    },
    "qwen3": {
        "Qwen/Qwen3-0.6B": (QWEN, 1024, 28, 16, 8, 3072, True),
        "Qwen/Qwen3-1.7B": (QWEN, 2048, 28, 16, 8, 6144, True),
        "Qwen/Qwen3-4B": (QWEN, 2560, 36, 32, 8, 9728, True),
        "Qwen/Qwen3-8B": (QWEN, 4096, 36, 32, 8, 12_288, False),
        "Qwen/Qwen3-14B": (QWEN, 5120, 40, 40, 8, 17_408, False),
        "Qwen/Qwen3-32B": (QWEN, 5120, 64, 64, 8, 25_600, False),
    },
    "qwen3_moe": {"Qwen/Qwen3-30B-A3B": (QWEN, 2048, 48, 32, 4, 6144, False)},
    "llama": {
        "meta-llama/Llama-3.2-1B": (LLAMA, 2048, 16, 32, 8, 8192, True),
        "meta-llama/Llama-3.2-3B": (LLAMA, 3072, 28, 24, 8, 8192, True),
        "meta-llama/Llama-3.1-8B": (LLAMA, 4096, 32, 32, 8, 14_336, False),
        "meta-llama/Llama-3.1-70B": (LLAMA, 8192, 80, 64, 8, 28_672, False),
        "deepseek-ai/DeepSeek-R1-Distill-Llama-8B": (LLAMA, 4096, 32, 32, 8, 14_336, False),
        "deepseek-ai/DeepSeek-R1-Distill-Llama-70B": (LLAMA, 8192, 80, 64, 8, 28_672, False),
    },
}
_FIELDS = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
           "intermediate_size", "tie_word_embeddings")  # fmt: skip
_MORE = {
    "qwen3": {"head_dim": 128},
    "qwen3_moe": {"head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768},
}
# Additions to the name of a base model that do not change its sizes.
_VARIANTS = ("-Instruct", "-Base", "-Math", "-Coder", "-2507", "-Thinking", "-1M", "-RoPE-300k", "Meta-")
_SAME = {"Llama-3-8B": "Llama-3.1-8B", "Llama-3-70B": "Llama-3.1-70B", "Llama-3.3-70B": "Llama-3.1-70B"}


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder that determine its memory and work.

    Attributes:
        parameters, active: All parameters, and those that a token uses (only the chosen ones of a mixture of experts).
        linears: Inputs and outputs of the linear layers except the head, which LoRA's `all-linear` adapts.
        key_dim, value_dim: The sizes of one head.
        latent: Elements per token and layer that vLLM caches for multi-head latent attention (arXiv:2405.04434,
            section 2.1); 0 if keys and values are cached.
        dense_layers: Layers with an ordinary MLP; the others have experts.
        shared_experts: Experts of a layer that every token uses, in addition to the `experts_per_token` chosen ones.
    """

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    key_dim: int
    value_dim: int
    intermediate: int
    tied: bool
    parameters: int
    active: int
    linears: tuple[tuple[str, int, int], ...]
    qk_norm: bool = False
    latent: int = 0
    dense_layers: int = 0
    experts_per_token: int = 0
    shared_experts: int = 0
    expert_intermediate: int = 0

    @property
    def head(self) -> int:
        """The parameters of the head."""
        return self.vocabulary * self.hidden

    @property
    def linear_parameters(self) -> int:
        """The parameters of `linears`."""
        return sum(inputs * outputs for _, inputs, outputs in self.linears)


@lru_cache(maxsize=32)
def find(path: str, *, revision: str | None = None, trust_remote_code: bool = False, key: str = "model.path") -> Shape:
    """The shape of a model: `embedded:NAME`, `scratch:NAME`, a folder, or a Hub id, which `key` of a recipe names.

    Raises:
        UserError: Its config is neither local nor in the table, and the Hub cannot be reached; or it is not a decoder.
    """
    if path.startswith("scratch:"):
        kind, sizes = scratch.SCRATCH[path.removeprefix("scratch:")]
        return shape(_config(kind, {**sizes, "tie_word_embeddings": True}))
    if kept := smollm2.layers(path):  # created on first use; a plan creates none
        sizes = (49_152, 576, len(kept), 9, 3, 1536, True)
        return shape(_config("llama", dict(zip(_FIELDS, sizes, strict=True))))
    return shape(_read(path, revision, trust_remote_code, key))


def _read(path: str, revision: str | None, trust_remote_code: bool, key: str) -> "PretrainedConfig":
    """The config of a model."""
    from transformers import AutoConfig

    from r1lab.check.look import hub_reachable, is_of_the_hub

    if loading.is_adapter(path):
        import json

        path = json.loads((Path(path) / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
    settings = {"revision": revision, "trust_remote_code": trust_remote_code}
    if gguf.is_gguf(path) and loading.local_folder(path) is None:  # a plan converts nothing
        file = Path(path).expanduser().resolve()
        return AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    if not is_of_the_hub(path):
        return AutoConfig.from_pretrained(loading.resolve(path), **settings)
    if known := table(path):
        return _config(*known)
    online = hub_reachable()
    try:
        return AutoConfig.from_pretrained(path, local_files_only=not online, **settings)
    except (OSError, ValueError) as error:
        why = "its config cannot be loaded from the Hub" if online else "the Hub cannot be reached"
        raise UserError(
            f"{key}: {path}: {why}, and r1lab's table does not list it: put its config.json into a folder and "
            f"type {key}=./FOLDER"
        ) from error


def table(path: str) -> tuple[str, dict] | None:
    """The type and the sizes of a common model on the Hub, by its id.

    >>> table("Qwen/Qwen2.5-Math-1.5B-Instruct")[1]["hidden_size"]
    1536
    """
    owner, _, name = path.partition("/")
    owner = "Qwen" if path.startswith("open-r1/Qwen") else owner
    if "Distill" not in name:
        for more in _VARIANTS:
            name = name.replace(more, "")
        name = _SAME.get(name, name)
    for kind, known in _SIZES.items():
        if f"{owner}/{name}" in known:
            return kind, dict(zip(_FIELDS, known[f"{owner}/{name}"], strict=True)) | _MORE.get(kind, {})
    return None


def _config(kind: str, sizes: dict) -> "PretrainedConfig":
    from transformers import AutoConfig

    return AutoConfig.for_model(kind, **sizes)


def shape(config: "PretrainedConfig") -> Shape:
    """The shape that a transformers config describes, read from the model itself, which is built without memory.

    Raises:
        UserError: It is not the config of a decoder that transformers supports.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (ValueError, KeyError) as error:
        name = type(config).__name__
        raise UserError(f"model.path: {name}: not a causal language model: use another model") from error
    text = config.get_text_config()
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}  # tied ones once
    parameters = sum(sizes.values())
    routed = sum(size for name, size in sizes.items() if ".experts." in name)
    experts = getattr(text, "n_routed_experts", None) or getattr(text, "num_experts", None) or 0
    chosen = getattr(text, "num_experts_per_tok", 0) if experts else 0
    heads = text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    rank = getattr(text, "kv_lora_rank", None)
    linears = tuple(
        (name.rpartition(".")[2], module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not model.get_output_embeddings()
    )
    return Shape(
        vocabulary=text.vocab_size,
        hidden=text.hidden_size,
        layers=text.num_hidden_layers,
        heads=heads,
        kv_heads=heads if rank else getattr(text, "num_key_value_heads", None) or heads,
        key_dim=text.qk_nope_head_dim + text.qk_rope_head_dim if rank else width,
        value_dim=text.v_head_dim if rank else width,
        intermediate=text.intermediate_size,
        tied=bool(config.tie_word_embeddings),
        parameters=parameters,
        active=parameters - routed + (routed * chosen // experts if experts else 0),
        linears=linears,
        qk_norm=any(name.endswith("q_norm.weight") for name in sizes),
        latent=rank + text.qk_rope_head_dim if rank else 0,
        dense_layers=getattr(text, "first_k_dense_replace", 0) if experts else text.num_hidden_layers,
        experts_per_token=chosen,
        shared_experts=getattr(text, "n_shared_experts", None) or 0,
        expert_intermediate=getattr(text, "moe_intermediate_size", 0) if experts else 0,
    )
