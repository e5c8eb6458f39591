"""Shards small models over two ranks, and gathers and saves them again: `python -m tests.models.two_ranks FOLDER`.

The ranks are forks of this process. The vocabulary does not divide by two, so that shards are padded.
"""

import itertools
import os
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace

import peft
import torch
from torch.distributed.fsdp import fully_shard
from transformers import Qwen2Config, Qwen2ForCausalLM

from r1lab.models import shard
from r1lab.models.lora import merged, merged_weights

SIZE = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2}  # fmt: skip


def check(accelerator, folder: Path, *, tied: bool, lora: bool) -> None:
    torch.manual_seed(0)
    base = model = Qwen2ForCausalLM(Qwen2Config(**SIZE, tie_word_embeddings=tied))
    if lora:
        model = peft.get_peft_model(base, peft.LoraConfig(target_modules="all-linear", init_lora_weights=False))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    plain = {name: weight.clone() for name, weight in merged(model).state_dict().items()} if lora else {}
    for layer in base.model.layers:
        fully_shard(layer)
    fully_shard([base.model.norm, base.lm_head, *([base.model.embed_tokens] if tied else [])])
    fully_shard(model)
    for dtype in (torch.float32, torch.bfloat16):
        copy = shard.whole(accelerator, model, dtype)
        assert (copy is not None) == accelerator.is_main_process
        if copy is not None:
            found = copy.state_dict()
            assert found.keys() == before.keys()
            assert all(torch.equal(found[name], before[name].to(dtype)) for name in before)
            ends = copy.get_input_embeddings().weight, copy.get_output_embeddings().weight
            assert (ends[0] is ends[1]) == tied
    if lora:
        assert all(torch.allclose(weight, plain[name], atol=1e-6) for name, weight in merged_weights(model))
        return
    for form in ("SHARDED_STATE_DICT", "FULL_STATE_DICT"):
        accelerator.state.fsdp_plugin.state_dict_type.name = form
        file = folder / f"{tied}-{form}.safetensors"
        shard.save_frozen(accelerator, model, file)
        torch.distributed.barrier()
        assert file.is_file() == (form == "FULL_STATE_DICT") != file.with_suffix("").is_dir()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        shard.load_frozen(model, file)
        assert all(torch.equal(weight.full_tensor(), before[name]) for name, weight in model.state_dict().items())


def rank(number: int, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=number, world_size=2)
    plugin = SimpleNamespace(state_dict_type=SimpleNamespace(name=""))
    accelerator = SimpleNamespace(is_main_process=number == 0, state=SimpleNamespace(fsdp_plugin=plugin))
    for tied, lora in itertools.product((True, False), (True, False)):
        check(accelerator, folder, tied=tied, lora=lora)
    torch.distributed.barrier()


if __name__ == "__main__":
    children = []
    for number in range(2):
        children.append(os.fork())
        if children[-1] == 0:
            try:
                rank(number, Path(sys.argv[1]))
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
    sys.exit(max([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]))
