"""GGUF files, written here by the package gguf, become folders with the same logits and tokens."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from r1lab.errors import UserError
from r1lab.models import gguf, loading
from r1lab.plan import shapes
from r1lab.recipe.inputs import model_problems

package = pytest.importorskip("gguf")

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


def vocabulary() -> tuple[list[str], list[str]]:
    """The bytes, as byte-level BPE writes them, and the words `the` and `cat`, with a space before."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    merges = ["Ġ t", "h e", "Ġt he", "Ġ c", "a t", "Ġc at"]
    return [*bytes_to_unicode().values(), *(merge.replace(" ", "") for merge in merges), *SPECIAL], merges


def model(architecture: str, **more):
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        architecture, vocab_size=len(vocabulary()[0]), hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.2,
        tie_word_embeddings=False, **more,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config).eval()


def write(path, model, *, quantization="F32", architecture="", wrong_token=False):
    """Writes a model as llama.cpp's conversion does."""
    config, (tokens, merges) = model.config, vocabulary()
    kind = config.model_type
    writer = package.GGUFWriter(path, architecture or kind)
    writer.add_license("apache-2.0")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([*tokens[:-4], tokens[-4] + "x", *tokens[-3:]] if wrong_token else tokens)
    writer.add_token_types([1] * (len(tokens) - len(SPECIAL)) + [3] * len(SPECIAL))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(len(tokens) - 3)
    writer.add_eos_token_id(len(tokens) - 2)  # <|im_start|>, as in SmolLM2's file
    writer.add_chat_template(TEMPLATE)
    names = package.get_tensor_name_map(package.MODEL_ARCH[kind.upper()], config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        data = tensor.numpy()
        for part, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if kind == "llama" and part in name:
                data = data.reshape(heads, 2, -1, data.shape[1]).swapaxes(1, 2).reshape(data.shape)
        raw = package.GGMLQuantizationType[quantization] if data.ndim > 1 else package.GGMLQuantizationType.F32
        data = package.quants.quantize(data, raw)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), data, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def rounded(model, quantization: str) -> None:
    """Rounds the weights as the file does."""
    raw = package.GGMLQuantizationType[quantization]
    for weight in model.parameters():
        if weight.ndim > 1:
            data = package.quants.dequantize(package.quants.quantize(weight.detach().numpy(), raw), raw)
            weight.data = torch.from_numpy(data)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize(("architecture", "quantization"), [("qwen2", "F32"), ("llama", "F32"), ("llama", "Q8_0")])
def test_a_file_is_converted_once_and_has_the_same_logits(tmp_path, capsys, architecture, quantization):
    made = model(architecture)
    file = write(tmp_path / "small.gguf", made, quantization=quantization)
    assert model_problems(str(file)) == []
    planned = shapes.find(str(file))
    assert not (tmp_path / "cache").exists() and planned.parameters == sum(p.numel() for p in made.parameters())
    if quantization != "F32":
        rounded(made, quantization)
    loaded = loading.load_model(str(file), dtype="float32")
    assert "small.gguf: license apache-2.0" in capsys.readouterr().out
    ids = torch.arange(2 * 40).view(2, 40)
    with torch.inference_mode():
        difference = (loaded(ids).logits - made(ids).logits).abs().max().item()
    assert difference < 1e-4
    folder = loading.local_folder(str(file))
    assert folder and loading.resolve(str(file)) == str(folder) and not capsys.readouterr().out
    assert json.loads((folder / gguf.ORIGIN).read_text())["license"] == "apache-2.0"


def test_the_tokens_are_those_of_the_file_and_a_turn_ends(tmp_path):
    file = write(tmp_path / "small.gguf", model("qwen2"))
    tokenizer = loading.load_tokenizer(str(file))
    tokens, _ = vocabulary()
    ids = tokenizer(" the cat<|im_end|>", add_special_tokens=False)["input_ids"]
    assert [tokens[i] for i in ids] == ["Ġthe", "Ġcat", "<|im_end|>"]
    assert tokenizer.decode(ids) == " the cat<|im_end|>" and tokenizer.eos_token == "<|im_end|>"
    assert loading.load_generation_config(str(file)).eos_token_id == tokens.index("<|im_end|>")


def test_a_changed_file_is_converted_again(tmp_path):
    file = write(tmp_path / "small.gguf", model("qwen2"))
    before = gguf.converted(file)
    write(file, model("qwen2"), quantization="Q8_0")
    assert gguf.converted(file) != before


def test_what_cannot_be_converted_is_refused_in_one_line(tmp_path, monkeypatch):
    other = write(tmp_path / "other.gguf", model("qwen2"), architecture="gemma3")
    with pytest.raises(UserError, match="has the architecture gemma3; r1lab converts llama, mistral, qwen2, qwen3"):
        gguf.convert(other)
    (tmp_path / "text.gguf").write_text("no model")
    assert model_problems(str(tmp_path / "text.gguf")) == [
        f"{tmp_path / 'text.gguf'}: is not a GGUF file: download it again"
    ]
    assert model_problems(str(tmp_path / "none.gguf"))[0].endswith("no such file")
    monkeypatch.setattr(gguf.importlib.util, "find_spec", lambda name: None)
    assert model_problems(str(other))[0].endswith("needs the package gguf: pip install 'r1lab[gguf]'")
    assert not list((tmp_path / "cache").rglob("config.json"))
