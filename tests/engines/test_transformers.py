"""The transformers engine: its text follows the arguments, its end tokens are the model's, its memory is bounded."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from r1lab import engines
from r1lab.engines.transformers import TransformersEngine, without_generation_config
from r1lab.errors import UserError
from r1lab.models import loading
from r1lab.models.loading import end_token_ids
from r1lab.models.lora import lora_config
from r1lab.recipe.sections import Lora
from tests.engines.conftest import END, PROMPTS

LIMIT = 48


@pytest.fixture(scope="module")
def engine(bent_model):
    return engines.load(str(bent_model), engine="transformers", dtype="float32")


@torch.inference_mode()
def greedy(model, tokenizer, prompt: str, ends: list[int], limit: int) -> list[int]:
    """The tokens of the highest logits, one forward pass per token: what every engine has to write."""
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    written: list[int] = []
    while len(written) < limit and not (written and written[-1] in ends):
        written.append(model(torch.tensor([ids + written])).logits[0, -1].argmax().item())
    return written


def test_the_text_is_that_of_the_weights_whatever_the_generation_config_says(engine):
    found = [
        group[0] for group in engines.generate(engine, PROMPTS, engines.Sampling(max_tokens=LIMIT, temperature=0.0))
    ]
    for prompt, completion in zip(PROMPTS, found):
        expected = greedy(engine.model, engine.tokenizer, prompt, [2, END], LIMIT)
        assert completion.token_ids == expected
        ended = expected[-1] in (2, END)
        assert completion.truncated == (not ended) and completion.logprobs == []
        assert completion.text == engine.tokenizer.decode(expected[:-1] if ended else expected)
    assert any(completion.token_ids[-1] == END for completion in found)  # an end token of the generation config alone


def test_samples_are_those_of_a_model_without_a_generation_config(engine, bent_model):
    (bent_model / "generation_config.json").rename(bent_model / "kept.json")
    try:
        plain = engines.load(str(bent_model), engine="transformers", dtype="float32")
    finally:
        (bent_model / "kept.json").rename(bent_model / "generation_config.json")
    plain.model.generation_config.eos_token_id = [END, 2]
    sampling = engines.Sampling(n=4, max_tokens=LIMIT, temperature=1.0, seed=3)
    first, second = (engines.generate(one, PROMPTS, sampling) for one in (engine, plain))
    assert first == second and len({completion.text for completion in first[0]}) > 1


def test_what_is_drawn_for_a_prompt_does_not_depend_on_what_is_done(engine, monkeypatch):
    monkeypatch.setattr(engine, "batch_size", 4)  # two prompts per batch
    prompts = PROMPTS * 2
    sampling = engines.Sampling(n=2, max_tokens=12, seed=5)
    whole = dict(engine.stream(prompts, sampling))
    assert list(whole) == list(range(6)) and whole[0] != whole[3]
    torch.rand(7)  # the random state is another one by now
    assert dict(engine.stream(prompts, sampling, done={0, 2, 3})) == {i: whole[i] for i in (1, 4, 5)}
    assert dict(engine.stream(prompts, replace(sampling, seed=6))) != whole


def test_the_length_of_the_model_bounds_prompt_and_completion_together(engine, bent_model):
    lengths = [len(engine.tokenizer(prompt)["input_ids"]) for prompt in PROMPTS]
    limit = max(lengths) + 5
    short = engines.load(str(bent_model), engine="transformers", dtype="float32", max_model_length=limit)
    sampling = engines.Sampling(max_tokens=LIMIT, temperature=0.0)
    for length, (cut,), (whole,) in zip(
        lengths, engines.generate(short, PROMPTS, sampling), engines.generate(engine, PROMPTS, sampling)
    ):
        assert cut.token_ids == whole.token_ids[: limit - length]
        assert cut.truncated == (len(whole.token_ids) > limit - length or whole.truncated)
    short.max_length = max(lengths)
    with pytest.raises(
        UserError, match=f"^rollout.max_model_length: {max(lengths)}: a prompt of {max(lengths)} tokens"
    ):
        engines.generate(short, PROMPTS, engines.Sampling())


def test_without_a_length_of_its_own_a_model_writes_no_more_than_it_reads(engine, monkeypatch):
    config = engine.model.config
    monkeypatch.setattr(config, "max_position_embeddings", 20)
    bounded = TransformersEngine(engine.model, engine.tokenizer)
    assert bounded.max_length == 20
    with pytest.raises(UserError, match=r"^rollout.max_model_length: 20: a prompt of \d+ tokens leaves no room"):
        engines.generate(bounded, ["one two three " * 20], engines.Sampling())
    monkeypatch.setattr(config, "rope_parameters", {"rope_type": "yarn", "factor": 4.0})
    assert TransformersEngine(engine.model, engine.tokenizer).max_length is None


def test_the_model_gets_its_generation_config_and_its_mode_back(engine):
    before = engine.model.generation_config.to_dict()
    engine.model.train()
    engines.generate(engine, PROMPTS[:1], engines.Sampling(max_tokens=2))
    assert engine.model.training and engine.model.generation_config.to_dict() == before
    engine.model.eval()
    with pytest.raises(KeyError), without_generation_config(engine.model):
        assert engine.model.generation_config.repetition_penalty is None
        raise KeyError
    assert engine.model.generation_config.to_dict() == before


def test_the_engine_keeps_no_logits(engine):
    """Those of 16 x 64 tokens of a vocabulary of 150,000 would be 600 MB, four times over."""
    seen = []
    plain = engine.model.generate

    def generate(**settings):
        seen.append(plain(**settings))
        return seen[-1]

    engine.model.generate = generate
    try:
        engines.generate(engine, PROMPTS, engines.Sampling(max_tokens=4))
    finally:
        del engine.model.generate
    assert isinstance(seen[0], torch.Tensor) and seen[0].dtype == torch.int64  # the tokens alone


def test_the_attention_implementation_reaches_the_model(bent_model):
    loaded = engines.load(str(bent_model), engine="transformers", attn_implementation="eager")
    assert loaded.model.config._attn_implementation == "eager"


def trainer(folder, output, **settings):
    from datasets import Dataset
    from trl import GRPOConfig

    from r1lab.grpo.trainer import GRPOTrainer

    config = GRPOConfig(
        output_dir=str(output), per_device_train_batch_size=4, num_generations=2, max_completion_length=LIMIT,
        bf16=False, gradient_checkpointing=False, report_to="none", top_k=1,
    )  # fmt: skip
    return GRPOTrainer(
        model=loading.load_model(str(folder), dtype="float32"),
        args=config,
        train_dataset=Dataset.from_dict({"prompt": PROMPTS, "row": [0, 1, 2]}),
        processing_class=loading.load_tokenizer(str(folder)),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        rendered=True,
        **settings,
    )


@pytest.mark.parametrize("lora", [None, Lora(r=4)], ids=["full", "lora"])
def test_rollouts_of_a_training_follow_the_same_rule(bent_model, tmp_path, lora):
    made = trainer(bent_model, tmp_path, peft_config=lora_config(lora))
    made.model.eval()
    prompts = [prompt for prompt in PROMPTS[:2] for _ in range(2)]
    prompt_ids, completion_ids, *_ = made.rollout([{"row": 0}] * 4, prompts)
    ends = end_token_ids(made.processing_class, made.accelerator.unwrap_model(made.model).generation_config)
    assert ends == [2, END] == made.eos_token_ids
    assert completion_ids == [greedy(made.model, made.processing_class, p, ends, LIMIT) for p in prompts]
    with made.engine() as engine:
        groups = engines.generate(engine, prompts, engines.Sampling(max_tokens=LIMIT, temperature=0.0))
    assert [group[0].token_ids for group in groups] == completion_ids
    base = made.model.get_base_model() if lora else made.model
    assert base.generation_config.no_repeat_ngram_size == 2  # what is saved stays as it was


def test_a_reward_stage_loads_its_model_with_the_attention_implementation(bent_model):
    from r1lab.stages.common import load_model

    model = SimpleNamespace(path=str(bent_model), dtype="float32", attn_implementation="eager", lora=None,
                            revision=None, trust_remote_code=False)  # fmt: skip
    loaded = load_model(SimpleNamespace(model=model, train={}), scores=True)
    assert loaded.config._attn_implementation == "eager" and loaded.score.out_features == 1


def test_batches_are_engines_default(engine):
    assert TransformersEngine(engine.model, engine.tokenizer).batch_size == 64
