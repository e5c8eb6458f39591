"""What r1lab overrides and reads of TRL is as it was; where it is not, the message says which method moved, and how.

After a look at the difference, `python tests/grpo/test_trl_pinned.py` prints METHODS anew.
"""

import ast
import inspect
import re
import textwrap
from pathlib import Path

import pytest
import trl
from accelerate.state import GradientState
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedConfig, PreTrainedModel
from trl.generation.vllm_generation import VLLMGeneration

ROOT = Path(__file__).parents[2]
OWNERS = {
    "GRPOTrainer": (trl.GRPOTrainer, "r1lab/grpo/trainer.py"),
    "VLLMGeneration": (VLLMGeneration, "r1lab/engines/vllm.py"),
}
# Each method that is overridden: its signature without annotations, and how many values it returns.
METHODS = {
    "GRPOTrainer.__init__":
        "(self, model, reward_funcs=None, args=None, train_dataset=None, eval_dataset=None, "
        "processing_class=None, reward_processing_classes=None, callbacks=None, optimizers=(None, None), "
        "quantization_config=None, peft_config=None, tools=None, rollout_func=None, environment_factory=None) "
        "-> 0",
    "GRPOTrainer._tokenize_prompts": "(self, prompts) -> 3",
    "GRPOTrainer._prepare_inputs": "(self, generation_batch) -> 1",
    "GRPOTrainer._generate_and_score_completions": "(self, inputs) -> 1",
    "GRPOTrainer.log": "(self, logs, start_time=None) -> 0",
    "GRPOTrainer._generate": "(self, prompts) -> 8",
    "GRPOTrainer._generate_single_turn":
        "(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False) -> 2",
    "GRPOTrainer._calculate_rewards": "(self, inputs, prompts, completions, completion_ids_list) -> 1",
    "GRPOTrainer.compute_loss": "(self, model, inputs, return_outputs=False, num_items_in_batch=None) -> 1",
    "GRPOTrainer._compute_loss": "(self, model, inputs) -> 1",
    "GRPOTrainer._get_per_token_logps_and_entropies":
        "(self, model, input_ids, attention_mask, logits_to_keep, batch_size=None, compute_entropy=False, "
        "compute_aux_loss=False, pixel_values=None, image_grid_thw=None, num_images=None, "
        "pixel_attention_mask=None, spatial_shapes=None, num_tiles=None, image_sizes=None, "
        "token_type_ids=None, mm_token_type_ids=None, image_position_ids=None) -> 3",
    "GRPOTrainer._get_train_sampler": "(self, dataset=None) -> 1",
    "GRPOTrainer._save_checkpoint": "(self, model, trial) -> 0",
    "GRPOTrainer._load_optimizer_and_scheduler": "(self, checkpoint) -> 0",
    "VLLMGeneration.__init__":
        "(self, model, accelerator, processing_class, mode='colocate', structured_outputs_regex=None, "
        "server_base_url=None, server_host='0.0.0.0', server_port=8000, server_timeout=240.0, "
        "group_port=51216, tensor_parallel_size=1, gpu_memory_utilization=0.9, max_model_length=None, "
        "max_num_seqs=None, enable_sleep_mode=False, model_impl='auto', trust_remote_code=False, "
        "repetition_penalty=1.0, temperature=1.0, top_p=1.0, top_k=0, min_p=0.0, max_completion_length=16, "
        "logprobs=0, generation_kwargs=None) -> 0",
    "VLLMGeneration._init_vllm": "(self) -> 0",
    "VLLMGeneration._iter_named_params": "(self) -> 0",
    "VLLMGeneration.sync_weights": "(self) -> 0",
}  # fmt: skip
# Names with an underscore that are read of objects of other packages, and whose they are.
PRIVATE = {
    trl.GRPOTrainer: [
        "_buffered_inputs", "_entropy_bonus_enabled", "_get_output_dir", "_is_vlm", "_last_loaded_step", "_log_metric",
        "_metrics", "_pending_metrics", "_step", "_tokenizer",
    ],
    VLLMGeneration: ["_dist", "_fix_param_name_to_vllm", "_llm_weights_sleeping"],
    PreTrainedModel: ["_supports_attention_backend"],
    PreTrainedConfig: ["_attn_implementation"],
    GradientState: ["_set_sync_gradients"],
    LRScheduler: ["_last_lr"],
}  # fmt: skip
OWN = [
    "_C", "_accelerator", "_again", "_background", "_batch", "_begun", "_compared", "_computed", "_decode", "_draws",
    "_early", "_fields", "_finished", "_sums", "_timed",
    "_generated", "_graded", "_idle_since", "_inputs", "_of_sync", "_order", "_outputs", "_over", "_params",
    "_part_loss", "_replayed", "_requests", "_rewards", "_rounds", "_running", "_size", "_spent", "_started",
    "_taken", "_thread", "_used", "_version", "_waiting",
]  # fmt: skip
# Names in TRL's modules that mean something else while one of its methods runs.
REPLACED = {"GRPOTrainer.__init__": "VLLMGeneration", "VLLMGeneration._init_vllm": "LLM"}


def overridden() -> list[str]:
    """`OWNER.METHOD` for each method of TRL's that a class of r1lab has too."""
    found = []
    for name, (owner, path) in OWNERS.items():
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and any(name in ast.unparse(base) for base in node.bases):
                methods = [part.name for part in node.body if isinstance(part, ast.FunctionDef)]
                found += [f"{name}.{method}" for method in methods if hasattr(owner, method)]
    return found


def method(name: str):
    """A method of TRL's, without its decorators."""
    owner, _, attribute = name.partition(".")
    return inspect.unwrap(getattr(OWNERS[owner][0], attribute))


def called(name: str) -> str:
    """How a method of TRL's is called and how many values it returns, as in `(self, prompts) -> 3`."""
    signature = inspect.signature(method(name))
    bare = [parameter.replace(annotation=parameter.empty) for parameter in signature.parameters.values()]
    tree = ast.parse(textwrap.dedent(inspect.getsource(method(name)))).body[0]
    inner = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)][1:]
    others = {id(node) for function in inner for node in ast.walk(function)}
    values = [node.value for node in ast.walk(tree) if isinstance(node, ast.Return) and id(node) not in others]
    sizes = {len(value.elts) if isinstance(value, ast.Tuple) else int(value is not None) for value in values}
    counts = " or ".join(map(str, sorted(sizes))) or "0"
    return f"{signature.replace(parameters=bare, return_annotation=signature.empty)} -> {counts}"


def test_every_override_is_pinned():
    assert sorted(overridden()) == sorted(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_what_is_overridden_is_called_as_it_was(name):
    assert hasattr(OWNERS[name.partition(".")[0]][0], name.partition(".")[2]), f"TRL has no {name} any more"
    assert called(name) == METHODS[name], f"TRL's {name} moved: was {METHODS[name]}, is {called(name)}"


def test_every_private_name_that_is_read_is_pinned():
    read = set()
    for path in [*(ROOT / "r1lab" / "grpo").glob("*.py"), ROOT / "r1lab" / "engines" / "vllm.py"]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        read |= {name for name in names - defined if name.startswith("_") and not name.startswith("__")}
    methods = {name.partition(".")[2] for name in METHODS}
    pinned = {name for names in PRIVATE.values() for name in names}
    assert read - set(OWN) - methods <= pinned, "pin them in PRIVATE, or name them in OWN"


@pytest.mark.parametrize("owner", PRIVATE, ids=lambda owner: owner.__name__)
def test_private_names_that_are_read_are_still_there(owner):
    classes = [cls for cls in owner.__mro__ if cls is not object]
    source = "".join(inspect.getsource(cls) for cls in classes)
    gone = [name for name in PRIVATE[owner] if not hasattr(owner, name) and f"self.{name}" not in source]
    assert not gone, f"{owner.__module__}.{owner.__name__} has no {', '.join(gone)} any more"


@pytest.mark.parametrize("name", REPLACED)
def test_names_that_are_replaced_are_still_used(name):
    used = method(name).__code__.co_names
    assert REPLACED[name] in used, f"TRL's {name} makes no {REPLACED[name]} any more"


def test_the_order_of_a_step_is_that_of_its_description(tiny_model, tmp_path, monkeypatch):
    from datasets import Dataset

    from r1lab.grpo.trainer import GRPOTrainer

    picture = inspect.getdoc(GRPOTrainer).partition("training_step\n")[2].partition("\nArgs:")[0]
    described = re.findall(r"^ +(?:\* )?(\w+)(?:$| {2})", picture, re.MULTILINE)
    seen = []

    def watched(name, plain):
        def method(self, *args, **kwargs):
            seen.append(name)
            return plain(self, *args, **kwargs)

        return method

    for name in set(described):
        monkeypatch.setattr(GRPOTrainer, name, watched(name, getattr(GRPOTrainer, name)))
    trainer = GRPOTrainer(
        str(tiny_model),
        lambda completions, **_: [float(i % 2) for i in range(len(completions))],
        trl.GRPOConfig(
            output_dir=str(tmp_path), per_device_train_batch_size=4, num_generations=4, max_completion_length=4,
            max_steps=1, beta=0.1, bf16=False, use_cpu=True, report_to="none", save_strategy="no",
        ),
        Dataset.from_dict({"prompt": ["a", "b"]}),
    )  # fmt: skip
    trainer.train()
    assert list(dict.fromkeys(seen)) == list(dict.fromkeys(described))


if __name__ == "__main__":
    for name in overridden():
        print(f'    "{name}":\n        "{called(name)}",')
