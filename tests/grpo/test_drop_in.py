"""r1lab's trainer in the place of TRL's: it takes the same, and trains to the same loss and weights."""

import io
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import trl
from datasets import Dataset, Image, IterableDataset
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    Qwen2ForCausalLM,
    TrainerCallback,
)
from trl import GRPOConfig

import r1lab
from r1lab.errors import UserError
from r1lab.models import loading
from r1lab.recipe.sections import DynamicSampling

TINY = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 4096,
}  # fmt: skip
SAYINGS = ["Zoey said that Luke is a knave", "who is a knight", "Luke said so", "Ann is a knight and Luke is not"]
TEXTS = Dataset.from_dict({"prompt": SAYINGS, "wanted": [3, 5, 7, 9]})
MESSAGES = Dataset.from_dict({"prompt": [[{"role": "user", "content": text}] for text in SAYINGS]})


def distinct(completions, **_):
    """Of texts."""
    return [len(set(text)) / 10 for text in completions]


def said(completions, **_):
    """Of messages."""
    assert all(message["role"] == "assistant" for (message,) in completions)
    return [len(message["content"]) / 10 for (message,) in completions]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of a tiny model whose completions differ, with its tokenizer."""
    made = tmp_path_factory.mktemp("model")
    tokenizer = loading.load_tokenizer("embedded:tiny-qwen2")
    config = AutoConfig.for_model("qwen2", vocab_size=len(tokenizer), initializer_range=0.2, **TINY)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(made)
    tokenizer.save_pretrained(made)
    return str(made)


@pytest.fixture
def config(tmp_path):
    """TRL's config for two steps, in which weights follow the gradient itself."""

    def make(**settings):
        settings = {
            "per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 6, "max_steps": 2,
            "optim": "sgd", "learning_rate": 0.1, "lr_scheduler_type": "constant", "logging_steps": 1, "bf16": False,
            "gradient_checkpointing": False, "use_cpu": True, "save_strategy": "no", "report_to": "none",
            "disable_tqdm": True,
        } | settings  # fmt: skip
        return GRPOConfig(output_dir=str(tmp_path), **settings)

    return make


def trained(cls, *args, **kwargs):
    """A trainer after its training, and what its trainable weights were before and are now."""
    made = cls(*args, **kwargs)
    before = {name: p.detach().clone() for name, p in made.model.named_parameters() if p.requires_grad}
    made.train()
    after = {name: p.detach() for name, p in made.model.named_parameters() if name in before}
    return made, before, after


def same(*args, steps: int = 2, **kwargs):
    """Trains r1lab's trainer and TRL's; they must log the same losses and end in the same weights.

    What trains may be a function without arguments, so that each trainer gets an object of its own.
    """
    runs = []
    for cls in (r1lab.GRPOTrainer, trl.GRPOTrainer):
        some = [x() if getattr(x, "__name__", "") == "fresh" else x for x in args]
        more = {name: x() if getattr(x, "__name__", "") == "fresh" else x for name, x in kwargs.items()}
        runs.append(trained(cls, *some, **more))
    (ours, before, after), (theirs, _, expected) = runs
    for key in ("loss", "reward", "completions/mean_length", "kl", "eval_loss", "eval_reward"):
        # Where a step trains on an earlier rollout, r1lab repeats the metrics of that rollout.
        rows = [[row for row in made.state.log_history if key in row] for made in (ours, theirs)]
        logged = [[row[key] for row in some if key in ("loss", "kl") or "rollout" not in row] for some in rows]
        assert logged[0] == pytest.approx(logged[1], rel=1e-3, abs=1e-5), key
    assert len([row for row in ours.state.log_history if "loss" in row]) == steps
    assert after.keys() == expected.keys()
    moved = torch.cat([(after[name] - before[name]).flatten() for name in after])
    apart = torch.cat([(after[name] - expected[name]).flatten() for name in after])
    assert moved.norm() > 0 and apart.norm() <= 1e-3 * moved.norm()
    return ours


def test_the_package_gives_the_trainer_and_stays_quick_without_it():
    code = (
        "import sys, r1lab\nfrom r1lab.cli import main\n"
        "for line in (['ls'], ['--help']):\n    try: main(line)\n    except SystemExit: pass\n"
        "assert 'GRPOTrainer' in r1lab.__all__ and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=300)
    assert issubclass(r1lab.GRPOTrainer, trl.GRPOTrainer)
    with pytest.raises(AttributeError, match="no attribute 'GRPO'"):
        r1lab.GRPO  # noqa: B018


def test_arguments_by_position_and_a_model_by_its_name(folder, config):
    made = same(folder, distinct, config(), TEXTS)
    assert made.packs


def test_no_arguments_at_all(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trl.trainer.grpo_trainer, "GRPOConfig", partial(GRPOConfig, use_cpu=True))  # it wants a GPU
    runs = []
    for cls in (r1lab.GRPOTrainer, trl.GRPOTrainer):
        made = cls(folder, distinct, train_dataset=TEXTS.select([0]))
        made.generation_config.max_new_tokens, made.args.max_steps = 4, 1
        made.train()
        runs.append(made.state.log_history[-1]["train_loss"])
    assert runs[0] == pytest.approx(runs[1], abs=2e-3)  # TRL's default is bfloat16


def test_messages_go_through_the_chat_template_as_in_trl(folder, config):
    made = same(folder, said, config(), MESSAGES)
    found, *_ = made._tokenize_prompts([MESSAGES[0]["prompt"]])
    expected = made.processing_class.apply_chat_template(MESSAGES[0]["prompt"], add_generation_prompt=True)
    assert found == [expected["input_ids"]]


def test_arguments_of_the_chat_template_reach_it(folder, config):
    tokenizer = loading.load_tokenizer(folder)
    tokenizer.chat_template = "{{ shout }} {{ messages[0]['content'] }}"
    settings = config(chat_template_kwargs={"shout": "hey"})
    made = same(folder, said, settings, MESSAGES, processing_class=tokenizer)
    found, *_ = made._tokenize_prompts([MESSAGES[1]["prompt"]])
    assert tokenizer.decode(found[0]) == "hey who is a knight"


def test_prompts_that_are_rendered_get_no_second_special_token(folder, config):
    tokenizer = loading.load_tokenizer(folder)
    plain = tokenizer.__class__.__call__

    class Begins(tokenizer.__class__):
        def __call__(self, text=None, *args, add_special_tokens=True, **kwargs):
            text = [f"<|im_start|>{x}" for x in text] if add_special_tokens else text
            return plain(self, text, *args, add_special_tokens=add_special_tokens, **kwargs)

    tokenizer.__class__ = Begins
    start = tokenizer.convert_tokens_to_ids("<|im_start|>")
    for rendered, count in ((False, 2), (True, 1)):
        made = r1lab.GRPOTrainer(folder, distinct, config(), TEXTS, processing_class=tokenizer, rendered=rendered)
        ((ids),), *_ = made._tokenize_prompts(["<|im_start|>who"])
        assert ids.count(start) == count


def test_several_rewards_with_weights(folder, config):
    def column(completions, wanted, **_):
        return [-abs(len(text) - n) / 10 for text, n in zip(completions, wanted)]

    async def later(completions, **_):
        return [float("e" in text) for text in completions]

    def never(completions, **_):
        return [None] * len(completions)

    def fresh():
        return [distinct, column, later, never]

    made = same(folder, fresh, config(reward_weights=[0.7, 0.2, 0.1, 1.0]), TEXTS)
    logged = made.state.log_history[0]
    assert {f"rewards/{name}/mean" for name in ("distinct", "column", "later", "never")} <= logged.keys()
    same(folder, fresh, config(multi_objective_aggregation="normalize_then_sum", scale_rewards="batch"), TEXTS)


def test_a_reward_model_by_its_name_and_as_an_object(folder, config, tmp_path):
    tokenizer = loading.load_tokenizer(folder)
    sizes = {"vocab_size": len(tokenizer), "num_labels": 1, "initializer_range": 0.2, **TINY}
    torch.manual_seed(1)
    scorer = AutoModelForSequenceClassification.from_config(AutoConfig.for_model("qwen2", **sizes))
    scorer.save_pretrained(tmp_path / "scorer")
    tokenizer.save_pretrained(tmp_path / "scorer")

    def fresh():
        return [str(tmp_path / "scorer"), said]

    made = same(folder, fresh, config(max_steps=1), MESSAGES, steps=1)
    assert made.state.log_history[0]["rewards/scorer/std"] > 0
    one = r1lab.GRPOTrainer(folder, scorer, config(), TEXTS, reward_processing_classes=tokenizer)
    assert one.reward_processing_classes == [tokenizer]
    with pytest.raises(ValueError, match="must match"):
        r1lab.GRPOTrainer(folder, [scorer, distinct], config(), TEXTS, reward_processing_classes=tokenizer)


def test_callbacks_and_an_evaluation_set(folder, config):
    class Count(TrainerCallback):
        def __init__(self):
            self.steps, self.evaluated = 0, []

        def on_step_end(self, *args, **kwargs):
            self.steps += 1

        def on_evaluate(self, args, state, control, metrics, **kwargs):
            self.evaluated.append(state.global_step)

    count = Count()
    settings = {"eval_strategy": "steps", "eval_steps": 1, "eval_on_start": True, "num_generations_eval": 2}
    same(
        folder, distinct, config(per_device_eval_batch_size=2, **settings), TEXTS,
        eval_dataset={"few": TEXTS.select([1])}, callbacks=[count],
    )  # fmt: skip
    assert count.steps == 4 and count.evaluated == [0, 1, 2] * 2  # of both trainers


def test_an_iterable_data_set(folder, config):
    def rows():
        yield from ({"prompt": text} for text in SAYINGS)

    same(folder, distinct, config(), IterableDataset.from_generator(rows), eval_dataset=TEXTS)


def test_what_chooses_prompts_is_refused_where_it_cannot(folder, config):
    data = IterableDataset.from_generator(lambda: iter([{"prompt": "a", "row": 0}]))
    with pytest.raises(UserError, match="remove tools, images, rollout_func and iterable data sets") as error:
        r1lab.GRPOTrainer(folder, distinct, config(), data, dynamic_sampling=DynamicSampling())
    assert len(str(error.value).splitlines()) == 1


def test_an_adapter_from_its_config_and_a_model_that_has_one(folder, config):
    lora = LoraConfig(r=4, target_modules="all-linear", init_lora_weights="gaussian", task_type="CAUSAL_LM")
    made = same(folder, distinct, config(learning_rate=10.0), TEXTS, peft_config=lora)
    assert made.packs

    def fresh():
        torch.manual_seed(3)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder, dtype="float32"), lora)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(std=0.1)
        return model

    same(fresh, distinct, config(beta=0.1), TEXTS)


def test_an_adapter_with_tokens_of_its_own_is_computed_as_in_trl(folder, config, capsys):
    prompt = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    made = same(folder, distinct, config(), TEXTS, peft_config=prompt)
    assert not made.packs
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "as TRL does" in line]
    assert line.endswith("as TRL does: PROMPT_TUNING adds its own tokens before each prompt")


def test_a_model_that_packed_rows_do_not_fit_is_computed_as_in_trl(folder, config, capsys):
    def fresh():
        kind = AutoConfig.for_model("granite", vocab_size=768, logits_scaling=4.0, initializer_range=0.2, **TINY)
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(kind)

    made = same(fresh, distinct, config(), TEXTS, processing_class=loading.load_tokenizer(folder))
    assert not made.packs and "as TRL does: GraniteForCausalLM scales its logits" in capsys.readouterr().out


SETTINGS = [
    *({"loss_type": kind, "max_steps": 1} for kind in ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "vespo")),
    {"loss_type": "luspo", "importance_sampling_level": "sequence", "max_steps": 1},
    {"num_iterations": 2, "importance_sampling_level": "sequence", "loss_type": "grpo", "max_steps": 3},
    {"num_iterations": 2, "off_policy_mask_threshold": 0.5, "delta": 2.0, "epsilon_high": 0.3},
    {"beta": 0.1, "use_bias_correction_kl": True, "num_iterations": 2},
    {"beta": 0.1, "use_bias_correction_kl": False, "sync_ref_model": True, "ref_model_sync_steps": 1},
    {"gradient_accumulation_steps": 2, "loss_type": "grpo", "pad_to_multiple_of": 8},
    {"gradient_checkpointing": True, "scale_rewards": "none", "max_steps": 1},
    {"top_entropy_quantile": 0.2, "entropy_coef": 0.05},
    {"top_p": 0.9, "top_k": 10, "repetition_penalty": 1.1, "temperature": 0.7, "cast_lm_head_to_fp32": True},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: "-".join(f"{k}={v}" for k, v in settings.items()))
def test_the_settings_of_trl(folder, config, settings):
    settings = config(**settings)
    same(folder, distinct, settings, TEXTS, steps=settings.max_steps)


def test_tokens_that_a_tool_has_written_are_read_and_not_trained(folder, config):
    """TRL's `tool_mask`, here from a rollout function: 2 tokens of each completion are a tool's; some are cut off."""

    def rollout(prompts, trainer):
        tokenizer = trainer.processing_class
        ids = tokenizer(text=prompts)["input_ids"]
        g = torch.Generator().manual_seed(trainer.state.global_step)
        written = [torch.randint(5, len(tokenizer), (3 + i,), generator=g).tolist() for i in range(len(prompts))]
        written[2:] = [[*some[:-1], tokenizer.eos_token_id] for some in written[2:]]
        masks = [[1, 0, 0] + [1] * i for i in range(len(prompts))]
        return {
            "prompt_ids": ids,
            "completion_ids": written,
            "logprobs": None,
            "env_mask": masks,
            "more": [1] * len(ids),
        }

    def reward(completions, more, **_):
        return [len(text) * n / 10 for text, n in zip(completions, more)]

    for settings in (
        {"loss_type": "bnpo", "num_iterations": 2},
        {"loss_type": "dr_grpo", "mask_truncated_completions": True, "max_steps": 1},
    ):
        made = config(**settings)
        same(folder, reward, made, TEXTS, rollout_func=rollout, steps=made.max_steps)


def test_tools_are_called_in_the_middle_of_a_rollout(folder, config, monkeypatch):
    """Two of four completions ask for the tool, one of them wrongly; then all are done."""
    template = (Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja").read_text()

    def times(a: int, b: int) -> int:
        """Multiplies two numbers.

        Args:
            a: The first.
            b: The second.

        Returns:
            The product.
        """
        return a * b

    def fresh():
        tokenizer = loading.load_tokenizer(folder)
        tokenizer.chat_template = template
        return tokenizer

    tokenizer = fresh()

    def generate(self, input_ids, **_):
        call = '<tool_call>\n{"name": "times", "arguments": {"a": 3, "%s": 4}}\n</tool_call><|im_end|>'
        texts = [call % "b", call % "c", "no tool for this<|im_end|>", "none<|im_end|>"]
        texts = texts if len(input_ids) == 4 else ["twelve it is<|im_end|>", "who knows<|im_end|>"]
        ids = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")["input_ids"]
        return torch.cat([input_ids, ids], dim=1)

    def reward(completions, **_):
        assert completions[0][1] == {"role": "tool", "name": "times", "content": "12"}
        return [float(len(messages)) for messages in completions]

    monkeypatch.setattr(Qwen2ForCausalLM, "generate", generate)
    settings = config(max_completion_length=200)
    made = same(folder, reward, settings, MESSAGES, processing_class=fresh, tools=[times])
    assert made.state.log_history[0]["tools/call_frequency"] == 0.5
    assert made.state.log_history[0]["tools/failure_frequency"] == 0.5


def test_images_are_computed_as_in_trl(folder, config, capsys):
    image = pytest.importorskip("PIL.Image")
    tokenizer = loading.load_tokenizer(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    template = (
        "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>"
        "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"
    )
    side = {"height": 16, "width": 16}
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size=side, crop_size=side), tokenizer, patch_size=8, chat_template=template,
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
    )  # fmt: skip
    data = MESSAGES.add_column("image", [{"path": None, "bytes": _png(image, shade)} for shade in range(4)])
    data = data.cast_column("image", Image())

    def fresh():
        seen = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
        torch.manual_seed(0)
        return LlavaForConditionalGeneration(
            LlavaConfig(
                vision_config=CLIPVisionConfig(image_size=16, patch_size=8, projection_dim=32, **seen),
                text_config=AutoConfig.for_model("qwen2", vocab_size=len(tokenizer), initializer_range=0.2, **TINY),
                image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
            )
        )

    made = same(fresh, said, config(num_iterations=2), data, processing_class=processor)
    assert not made.packs and "as TRL does: prompts may have images" in capsys.readouterr().out


def _png(image, shade: int) -> bytes:
    file = io.BytesIO()
    image.new("RGB", (16, 16), (60 * shade, 0, 0)).save(file, "png")
    return file.getvalue()
