"""The vLLM engine: its text is that of every other engine, it draws by seed, it sleeps between rollouts."""

from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest

from r1lab import engines
from r1lab.engines.server import ServerEngine
from r1lab.errors import UserError
from tests.engines.conftest import END, PROMPTS, serving

pytest.importorskip("vllm")
LIMIT = 48


@pytest.fixture(scope="module")
def engine(bent_model):
    from r1lab.engines import vllm

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vllm, "LLM", partial(vllm.LLM, enforce_eager=True))  # it starts much faster so
        return engines.load(str(bent_model), engine="vllm", dtype="float32", max_model_length=512)


@pytest.mark.slow
def test_all_engines_write_the_same_text_whatever_the_generation_config_says(engine, bent_model, tmp_path):
    sampling = engines.Sampling(max_tokens=LIMIT, temperature=0.0)
    ours = engines.generate(engines.load(str(bent_model), engine="transformers", dtype="float32"), PROMPTS, sampling)
    theirs = engines.generate(engine, PROMPTS, sampling)
    assert theirs == ours
    assert any(group[0].token_ids[-1] == END and not group[0].truncated for group in ours)
    longest = engines.Sampling(max_tokens=600, temperature=0.0)  # beyond max_model_length
    short = engines.load(str(bent_model), engine="transformers", dtype="float32", max_model_length=512)
    assert engines.generate(engine, PROMPTS[:1], longest) == engines.generate(short, PROMPTS[:1], longest)
    with serving(str(bent_model), "bent", tmp_path / "log.txt") as url:
        served = engines.generate(ServerEngine(url, "bent"), PROMPTS, sampling)
    assert [(c.text, c.truncated) for (c,) in served] == [(c.text, c.truncated) for (c,) in ours]


@pytest.mark.slow
def test_a_prompt_without_room_for_a_completion_is_one_line(engine):
    with pytest.raises(UserError, match=r"^rollout.max_model_length: 512: a prompt of \d+ tokens leaves no room"):
        engines.generate(engine, [PROMPTS[0], "one two three " * 600], engines.Sampling(max_tokens=2))
    assert engines.generate(engine, PROMPTS[:1], engines.Sampling(max_tokens=2))


@pytest.mark.slow
def test_what_is_drawn_for_a_prompt_does_not_depend_on_what_is_done(engine, monkeypatch):
    from r1lab.engines import vllm

    prompts = PROMPTS * 4
    sampling = engines.Sampling(n=2, max_tokens=16, seed=5)
    whole = dict(engine.stream(prompts, sampling))
    assert sorted(whole) == list(range(12)) and len({group[0].text for group in whole.values()}) > 6
    assert all(group[0] != group[1] for group in whole.values())
    monkeypatch.setattr(vllm, "WINDOW", 6)  # three prompts at a time
    assert dict(engine.stream(prompts, sampling, done={0, 1, 5})) == {
        i: group for i, group in whole.items() if i not in (0, 1, 5)
    }
    assert dict(engine.stream(prompts, replace(sampling, seed=6))) != whole
    assert engines.generate(engine, [], engines.Sampling(max_tokens=2)) == []


@pytest.mark.slow
def test_prompts_that_are_read_in_several_steps_draw_what_they_would_alone(engine):
    """On a CPU vLLM 0.31 cannot draw by seed for a prompt that it reads in chunks."""
    prompts = [f"{i} knights: " + "knight " * 300 for i in range(40)]
    sampling = engines.Sampling(max_tokens=2, seed=5)
    whole = dict(engine.stream(prompts, sampling))
    assert dict(engine.stream(prompts, sampling, done=set(range(39)))) == {39: whole[39]}


@pytest.mark.slow
def test_a_caller_who_stops_early_leaves_nothing_behind(engine):
    stream = engine.stream(PROMPTS * 4, engines.Sampling(n=2, max_tokens=64))
    next(stream)
    stream.close()
    assert not engine.llm.llm_engine.has_unfinished_requests()
    assert len(engines.generate(engine, PROMPTS, engines.Sampling(max_tokens=2))) == len(PROMPTS)


@pytest.mark.slow
def test_log_probabilities_are_returned_where_they_are_asked_for(engine, monkeypatch):
    from r1lab.engines import vllm

    asked = []
    plain = vllm.SamplingParams
    monkeypatch.setattr(vllm, "SamplingParams", lambda **settings: asked.append(settings) or plain(**settings))
    (without,) = engines.generate(engine, PROMPTS[:1], engines.Sampling(max_tokens=8, temperature=0.0))[0]
    (with_them,) = engines.generate(
        engine, PROMPTS[:1], engines.Sampling(max_tokens=8, temperature=0.0, logprobs=True)
    )[0]
    assert without.logprobs == [] and asked[0]["logprobs"] is None
    assert with_them.token_ids == without.token_ids and len(with_them.logprobs) == 8
    assert all(-20 < value <= 0 for value in with_them.logprobs)


class Sleeper:
    """Stands for vLLM in sleep mode, on a GPU, and writes down what it is told."""

    def __init__(self):
        self.calls = []

    def wake_up(self, tags):
        self.calls.append(f"wake up {tags[0]}")

    def sleep(self, level):
        self.calls.append(f"sleep {level}")

    def get_tokenizer(self):
        return None


@contextmanager
def sleeping(monkeypatch, *, mode: bool):
    """A trainer whose vLLM sleeps, where sleep mode is on, and the calls that vLLM receives."""
    from r1lab.engines import vllm

    monkeypatch.setattr(vllm, "load_weights", lambda llm, weights: llm.calls.append("load weights"))
    monkeypatch.setattr(vllm.SyncedVLLM, "_iter_named_params", lambda self: iter(()))
    generation = object.__new__(vllm.SyncedVLLM)
    generation.mode, generation.enable_sleep_mode, generation.llm = "colocate", mode, Sleeper()
    generation._llm_weights_sleeping = mode
    trainer = SimpleNamespace(
        use_vllm=True, vllm_generation=generation, state=SimpleNamespace(global_step=0), _last_loaded_step=-1
    )
    yield trainer, generation.llm.calls


def test_sleep_mode_wakes_all_of_vllm_and_puts_it_to_sleep_again(monkeypatch):
    from r1lab.grpo.trainer import GRPOTrainer

    awake = ["wake up weights", "load weights", "wake up kv_cache"]
    with sleeping(monkeypatch, mode=True) as (trainer, calls):
        with GRPOTrainer.engine(trainer):
            assert calls == awake and not trainer.vllm_generation._llm_weights_sleeping
        assert calls == [*awake, "sleep 2"] and trainer.vllm_generation._llm_weights_sleeping
        calls.clear()
        with GRPOTrainer.engine(trainer):  # in the same step: sleep has discarded the weights all the same
            assert calls == awake
        calls.clear()
        with pytest.raises(KeyError), GRPOTrainer.engine(trainer):
            raise KeyError
        assert calls == [*awake, "sleep 2"]


def test_without_sleep_mode_weights_are_synced_once_per_step(monkeypatch):
    from r1lab.grpo.trainer import GRPOTrainer

    with sleeping(monkeypatch, mode=False) as (trainer, calls):
        for _ in range(2):
            with GRPOTrainer.engine(trainer):
                assert calls == ["load weights"]
        trainer.state.global_step = 1
        with GRPOTrainer.engine(trainer):
            assert calls == ["load weights"] * 2


def test_completions_are_heard_of_as_soon_as_they_are_finished(monkeypatch):
    from r1lab.engines import vllm

    def output(request: str, finished: bool):
        return SimpleNamespace(request_id=request, finished=finished, outputs=[SimpleNamespace(token_ids=[7, 8])])

    steps = iter([[output("12", True), output("10", False)], [output("10", True)], [output("13", True)]])
    engine = SimpleNamespace(step=lambda: next(steps))
    monkeypatch.setattr(vllm, "LLM", lambda **settings: SimpleNamespace(llm_engine=engine, settings=settings))
    generation = object.__new__(vllm.SyncedVLLM)
    generation.mode, generation.tensor_parallel_size, generation._finished = "colocate", 1, None
    generation.options, generation.dtype = {}, None
    generation.model = SimpleNamespace(config=SimpleNamespace(), dtype="float32")
    generation.llm = generation._start(quantization="bitsandbytes")
    assert generation.llm.settings == {"quantization": None, "dtype": "float32", "enable_prefix_caching": True}
    generation.llm.request_counter = SimpleNamespace(counter=10)
    heard = []
    with generation.watched(lambda i, token_ids, output: heard.append((i, token_ids))):
        engine.step()
        assert heard == [(2, [7, 8])]
        engine.step()
    assert len(engine.step()) == 1 and heard == [(2, [7, 8]), (0, [7, 8])]


def test_a_function_sees_other_names_and_its_module_keeps_its_own():
    from trl.generation import vllm_generation

    from r1lab.models.patched import with_names

    made = []

    class Stub(vllm_generation.VLLMGeneration):
        def _init_vllm(self):
            with_names(vllm_generation.VLLMGeneration._init_vllm, LLM=lambda **settings: made.append(settings))(self)

    before = vllm_generation.LLM
    accelerator = SimpleNamespace(
        num_processes=1, process_index=0, local_process_index=0, wait_for_everyone=lambda: None,
        state=SimpleNamespace(deepspeed_plugin=None, fsdp_plugin=None), distributed_type="NO",
    )  # fmt: skip
    model = SimpleNamespace(name_or_path="here", named_modules=lambda: [])
    Stub(model, accelerator, None, max_model_length=64)
    assert made[0]["model"] == "here" and made[0]["max_model_len"] == 64 and vllm_generation.LLM is before
    with pytest.raises(AttributeError, match="VLLMGeneration._init_vllm does not use Engine"):
        with_names(vllm_generation.VLLMGeneration._init_vllm, Engine=None)
