"""`rollout.options`: laid over the engine's arguments; unknown ones and those with a key of their own are refused."""

import dataclasses
from types import SimpleNamespace

import pytest

from r1lab import engines
from r1lab.engines import options
from r1lab.engines.transformers import TransformersEngine
from r1lab.errors import UserError
from r1lab.models import loading
from r1lab.recipe import loading as recipes


def problems(tmp_path, rollout: str, kind: str = "sample") -> list[str]:
    (tmp_path / "r.yaml").write_text(
        f"{{stage: {kind}, model: {{path: embedded:tiny-qwen2}}, data: {{builder: arithmetic}}, "
        f"rewards: [{{name: exact_match}}], rollout: {{{rollout}}}}}"
    )
    try:
        recipes.load([str(tmp_path / "r.yaml")], inputs=True)
    except UserError as error:
        return error.problems
    return []


@pytest.mark.parametrize(
    ("rollout", "said"),
    [
        ("engine: vllm, options: {max_num_sequence: 4}", "unknown option (did you mean `max_num_seqs`?)"),
        ("engine: vllm, options: {max_model_len: 4}", "not set here: set `rollout.max_model_length` instead"),
        ("engine: transformers, options: {repetition_penalti: 1.1}", "(did you mean `repetition_penalty`?)"),
        (
            "engine: transformers, options: {xyz: 1}",
            "unknown option: transformers' GenerationConfig has no such f",
        ),
        ("engine: transformers, options: {temperature: 0.5}", "not set here: set `temperature` of rollout or eval"),
        ('engine: server, url: "http://x/v1", options: {max_tokens: 5}', "not set here: set `rollout.max_completion"),
    ],
)
def test_an_option_that_cannot_be_is_one_line(tmp_path, rollout, said):
    if "vllm" in rollout:
        pytest.importorskip("vllm")
    (line,) = problems(tmp_path, rollout)
    assert line.startswith(f"{tmp_path}/r.yaml:1: rollout.options.") and said in line


def test_options_that_there_are(tmp_path):
    assert problems(tmp_path, "engine: vllm, options: {max_num_seqs: 4, enforce_eager: true}", "grpo") == []
    assert problems(tmp_path, "engine: transformers, options: {repetition_penalty: 1.1}", "eval") == []
    assert problems(tmp_path, 'engine: server, url: "http://x/v1", options: {reasoning: {effort: low}}') == []
    recipes.load([str(tmp_path / "r.yaml")], tiny=True)


@pytest.mark.slow
def test_the_names_of_vllms_arguments_are_those_of_its_dataclass():
    pytest.importorskip("vllm")
    from vllm.engine.arg_utils import EngineArgs

    assert options.names("vllm") == sorted(field.name for field in dataclasses.fields(EngineArgs))


def test_transformers_generate_gets_them():
    asked = {"options": {"suppress_tokens": [], "min_new_tokens": 9}}
    engine = engines.load("embedded:tiny-qwen2", engine="transformers", **asked)
    ((completion,),) = engines.generate(engine, ["1 + 1 ="], engines.Sampling(max_tokens=9, temperature=0.0))
    assert isinstance(engine, TransformersEngine) and len(completion.token_ids) == 9


def test_a_server_gets_them_in_the_body(monkeypatch):
    monkeypatch.setattr("r1lab.engines.address.models_served", lambda *_: ["m"])
    engine = engines.connect("http://localhost:1/v1", "m", options={"reasoning_effort": "low"})
    assert engine.extra_body == {"reasoning_effort": "low"}


def test_vllm_gets_them(monkeypatch):
    vllm = pytest.importorskip("r1lab.engines.vllm")
    given = {}

    def started(**arguments):
        given.update(arguments)
        return SimpleNamespace(llm_engine=SimpleNamespace(step=list))

    monkeypatch.setattr(vllm, "LLM", started)
    vllm.start(str(loading.EMBEDDED / "tiny-qwen2"), options={"max_num_seqs": 4, "enable_prefix_caching": False})
    assert given["max_num_seqs"] == 4 and given["enable_prefix_caching"] is False
    synced = object.__new__(vllm.SyncedVLLM)
    synced.options, synced.model = {"max_num_seqs": 4}, loading.load_model("embedded:tiny-qwen2")
    synced.dtype = None
    synced._start(max_num_seqs=256, model="m")
    assert given["max_num_seqs"] == 4 and given["model"] == "m"
