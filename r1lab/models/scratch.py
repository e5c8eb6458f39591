"""Creates small models with random weights, and their tokenizers."""

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
    "topk_method": "noaux_tc",  # V3's bias-corrected routing, which vLLM needs as a key and transformers assumes
    "scoring_func": "sigmoid",
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
SCRATCH = {
    "tiny-qwen2": ("qwen2", _SIZES),
    "tiny-llama": ("llama", _SIZES),
    "tiny-deepseek-v3": ("deepseek_v3", _SIZES | _DEEPSEEK),
}
"""Architectures for `scratch:NAME`, with random weights and a tokenizer trained on the SFT data."""
TAGS = ("<think>", "</think>", "<answer>", "</answer>", "<tool_call>", "</tool_call>")
"""What is one token each, if the data has it."""

CHAT_TEMPLATE = (
    "{% if tools %}<|im_start|>system\nTools:{% for t in tools %} {{ t.function.name }}"
    "({{ t.function.parameters.properties | join(', ') }}){% endfor %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def scratch(name: str, texts: list[str], *, seed: int = 0):
    """Creates a model with random weights, and a byte-level BPE tokenizer trained on `texts`.

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
        # The usual 0.02 suits wide models; here attention would stay flat for hundreds of steps and not learn to copy.
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
    tags = [tag for tag in TAGS if any(tag in text for text in texts)]
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
