"""Each key of the schema has an effect in a kind of stage, or is refused there."""

import ast
from pathlib import Path

import pytest
from ruamel.yaml import YAML

import r1lab
from r1lab.errors import UserError
from r1lab.recipe import loading
from r1lab.recipe.schema import STAGES
from r1lab.recipe.training import Alarms
from r1lab.recipe.values import fields_at, schema_at

SECTIONS = sorted({name for schema in STAGES.values() for name in schema.model_fields} - {"name", "stage", "seed"})
PLAIN = {
    "model": {"path": "some/model"},
    "data": {"builder": "arithmetic"},
    "rewards": [{"name": "exact_match"}],
    "tools": ["calculator"],
}
TEACHER = {"teacher": {"path": "some/teacher"}}
# A value that is not the default, and what else a key needs.
OTHER = {
    "rollout.engine": "transformers",
    "rollout.url": "http://localhost:8000/v1",
    "rollout.tensor_parallel": 2,
    "rollout.sync_folder": "/dev/shm",
    "rollout.top_p": 0.9,
    "rollout.num_generations": 4,
    "rollout.gpu_memory_utilization": 0.7,
    "rollout.dynamic_sampling": {"max_rounds": 2},
    "rollout.async": {"staleness": 1},
    "rollout.biased_sampling": True,
    "model.path": "another/model",
    "model.dtype": "float32",
    "model.attn_implementation": "eager",
    "model.lora": {"r": 4},
    "model.revision": "main",
    "model.trust_remote_code": True,
    "teacher.path": "another/teacher",
    "teacher.dtype": "float32",
    "teacher.attn_implementation": "eager",
    "teacher.revision": "main",
    "teacher.trust_remote_code": True,
    "teacher.url": "http://localhost:8000/v1",
    "distill.exact": False,
    "distill.beta": 0.5,
    "data.builder": "countdown",
    "data.split": "test",
    "data.deduplicate": True,
    "data.decontaminate": {"against": ["math"]},
    "data.pass_rate": {"path": "rows.jsonl"},
    "data.order": "length",
    "data.budget": {"lowest": 4},
    "eval.budgets": [0, 8],
    "eval.forcing": {},
    "prompt.template": "r1-zero",
    "prompt.system": "Be brief.",
    "prompt.text": "Q: {question}",
    "prompt.prefill": "<think>",
    "environment.name": None,
    "environment.on_error": "end",
    "environment.calls": "llama",
    "rollout.options": {"xyz": 1},
    "keep.which": "right",
    "keep.at_least": {"exact_match": 1.0},
    "keep.deduplicate": False,
    "eval.tasks": ["arithmetic"],
    "eval.greedy": False,
    "curriculum.learnability": True,
    "curriculum.min_pass_rate": 0.1,
    "curriculum.max_pass_rate": 0.9,
    "schedule.max_completion_length": {0: 8},
    "schedule.temperature": {0: 0.9},
    "schedule.rewards": {"exact_match": {0: 0.5}},
    "launch.gpus": 1,
    "launch.rollout": "server",
    "launch.rollout_gpus": 1,
    "launch.strategy": "ddp",
    "launch.slurm": {"partition": "main"},
    "scope": "whole",
    "alarms.learning_rate_factor": 0.9,
    "train": {"max_steps": 3},
    "teacher.share_base": False,
} | {f"alarms.{name}": None for name in Alarms().active()}
NEEDS = {
    "rollout.tensor_parallel": {"launch": {"gpus": 4, "rollout": "server", "rollout_gpus": 2}},
    "rollout.sync_folder": {"launch": {"gpus": 2, "rollout": "server"}},
    "launch.rollout": {"launch": {"gpus": 2}},
    "launch.rollout_gpus": {"launch": {"gpus": 2, "rollout": "server"}},
    "rollout.max_concurrent": {"rollout": {"engine": "server", "url": "http://localhost:8000/v1"}},
    "rollout.requests_per_minute": {"rollout": {"engine": "server", "url": "http://localhost:8000/v1"}},
    "rollout.url": {"rollout": {"engine": "server"}},
    "rollout.biased_sampling": {"rollout": {"top_p": 0.9}},
    "rollout.top_p": {"rollout": {"biased_sampling": True}},
    "rollout.top_k": {"rollout": {"biased_sampling": True}},
    "prompt.system": {"prompt": {"template": "chat"}},
    "teacher.url": {"distill": {"exact": False}},
    "eval.budgets": {"prompt": {"template": "r1-zero"}},
}


def keys_of_sections() -> list[str]:
    found = []
    for section in SECTIONS:
        below = {key for schema in STAGES.values() for key in fields_at(schema, (section,))}
        found += [f"{section}.{key}" for key in sorted(below)] if below and section != "rewards" else [section]
    return found


def written(kind: str, key: str) -> dict:
    """A recipe of a kind with one key more, and what that key needs where the kind has it."""
    fields = STAGES[kind].model_fields
    data = {"stage": kind} | {name: dict(v) if isinstance(v, dict) else v for name, v in (PLAIN | TEACHER).items()}
    data = {name: value for name, value in data.items() if name in fields}
    section, _, below = key.partition(".")
    for name, more in NEEDS.get(key, {}).items():
        own = fields_at(STAGES[kind], (name,))
        data[name] = data.get(name, {}) | {k: v for k, v in more.items() if k in own}
    value = OTHER.get(key, 3)
    if not below:
        data[section] = (PLAIN | TEACHER).get(key, value)
    else:
        data[section] = data.get(section, {}) | {below: value}
    if STAGES[kind].on_policy and section == "eval":
        data["eval"] = {"every": 5} | data["eval"]
    if key == "eval.budgets":
        data.pop("tools", None)  # an episode has thinking in each of its turns
    if STAGES[kind].on_policy and key == "rollout.url":
        del data["rollout"]["engine"]  # its servers run vLLM
    return data


def problems_of(tmp_path, data: dict, *words: str) -> list[str]:
    with (tmp_path / "r.yaml").open("w") as file:
        YAML(typ="safe", pure=True).dump(data, file)
    try:
        loading.load([str(tmp_path / "r.yaml"), *words])
    except UserError as error:
        return error.problems
    return []


@pytest.mark.parametrize("kind", STAGES)
def test_each_key_belongs_to_a_kind_or_is_refused_there(kind, tmp_path):
    for key in keys_of_sections():
        section, _, below = key.partition(".")
        own = schema_at(STAGES[kind], (section,)) if below else STAGES[kind]
        belongs = section in STAGES[kind].model_fields and (below or section) in own.model_fields
        belongs = belongs and (kind, key) != ("eval", "data.size") and (kind, key) != ("eval", "data.max_tokens")
        found = problems_of(tmp_path, written(kind, key))
        if belongs:
            assert found == [], (kind, key)
        else:
            said = [line for line in found if f"has no effect in a stage of kind {kind}" in line or key in line]
            assert said and "has no effect" in said[0], (kind, key, found)


def consumed(kind: str) -> set[tuple[str, str]]:
    """Attributes that the modules of a stage read, each as the name of what it is read from and its own."""
    root = Path(r1lab.__file__).parent.parent
    others = {f"r1lab.stages.{other}" for other in STAGES if other != kind}
    imported = {"grpo": {"eval"}, "distill": {"grpo", "eval"}, "reward": {"dpo"}}
    others -= {f"r1lab.stages.{other}" for other in imported.get(kind, ())}
    schemas = {f"r1lab.recipe.{module}" for module in ("schema", "sections", "training", "loading")}
    waiting, seen, found = [f"r1lab.stages.{kind}"], set(), set()
    while waiting:
        name = waiting.pop()
        file = root.joinpath(*name.split(".")).with_suffix(".py")
        if name in seen or name in others or name in schemas or not file.is_file():
            continue
        seen.add(name)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("r1lab"):
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Attribute):
                holder = node.value
                found.add((getattr(holder, "attr", getattr(holder, "id", "")), node.attr))
    return found


# Names under which a section is passed on, and keys that are passed on with their whole section.
ALIASES = {
    "keep": {"settings"},
    "alarms": {"alarms", "self"},
    "curriculum": {"self", "settings"},
    "eval": {"evaluation", "settings"},
}
WHOLE = {"alarms", "rewards", "train", "launch", "prompt", "environment"}


@pytest.mark.parametrize("kind", STAGES)
def test_each_key_of_a_kind_is_read_by_its_stage(kind):
    read = consumed(kind)
    for section in set(SECTIONS) & set(STAGES[kind].model_fields) - WHOLE:
        holders = {section} | ALIASES.get(section, set())
        for key in fields_at(STAGES[kind], (section,)):
            name = {"async": "asynchronous"}.get(key, key)  # a keyword of Python
            assert any((holder, name) in read for holder in holders), (kind, f"{section}.{key}")


@pytest.mark.parametrize(
    ("kind", "given", "key", "why"),
    [
        ("eval", {"rollout": {"temperature": 0.1}}, "rollout.temperature", "set eval.temperature"),
        ("eval", {"rollout": {"num_generations": 2}}, "rollout.num_generations", "set eval.num_samples"),
        ("eval", {"data": {"builder": "arithmetic", "size": 4}}, "data.size", "set eval.size"),
        ("eval", {"rewards": [{"name": "exact_match", "weight": 0.5}]}, "rewards.0.weight", "does not add rewards"),
        ("eval", {"eval": {"tasks": ["math"]}}, "data", "with eval.tasks"),
        ("sample", {"rollout": {"max_concurrent": 4}}, "rollout.max_concurrent", "without rollout.engine: server"),
        ("eval", {"rollout": {"url": "http://x/v1"}}, "rollout.url", "without rollout.engine: server"),
        (
            "sample",
            {"rollout": {"engine": "transformers", "max_model_length": 512}},
            "rollout.max_model_length",
            "with rollout.engine: transformers",
        ),
        (
            "grpo",
            {"rollout": {"engine": "transformers", "gpu_memory_utilization": 0.5}},
            "rollout.gpu_memory_utilization",
            "with rollout.engine: transformers",
        ),
        (
            "eval",
            {"model": {"path": "m", "dtype": "float16"}, "rollout": {"engine": "server", "url": "http://x/v1"}},
            "model.dtype",
            "with rollout.engine: server",
        ),
        (
            "eval",
            {"model": {"path": "m", "attn_implementation": "eager"}, "rollout": {"engine": "vllm"}},
            "model.attn_implementation",
            "with rollout.engine: vllm",
        ),
        ("sft", {"model": {"path": "scratch:tiny-qwen2", "revision": "main"}}, "model.revision", "random weights"),
        ("sft", {"model": {"path": "embedded:tiny-qwen2", "revision": "main"}}, "model.revision", "not from the Hub"),
        ("sft", {"prompt": {"system": "Be brief."}}, "prompt.system", "with prompt.template: none"),
        (
            "grpo",
            {"prompt": {"system": "Hi", "template": "r1-zero"}},
            "prompt.system",
            "with prompt.template: r1-zero",
        ),
        ("sample", {"keep": {"which": "best", "per_prompt": 2}}, "keep.per_prompt", "keeps one per prompt"),
        ("grpo", {"eval": {"size": 10}}, "eval", "without eval.every"),
        ("reward", {"model": {"path": "m", "lora": {"r": 4}}}, "model.lora", "trains all weights"),
    ],
)
def test_keys_that_other_keys_leave_without_an_effect(kind, given, key, why, tmp_path):
    (line,) = problems_of(tmp_path, written(kind, "seed") | {"seed": 1} | given)
    assert f": {key}: has no effect" in line and why in line and line.startswith(f"{tmp_path}/r.yaml:")


PIPELINE = {
    "model": {"path": "some/model", "dtype": "bfloat16"},
    "data": {"builder": "arithmetic", "size": 50},
    "rewards": [{"name": "exact_match", "weight": 0.5}],
    "rollout": {"num_generations": 4, "temperature": 0.9, "top_p": 1.0},
    "stages": [{"name": "zero", "stage": "grpo"}, {"name": "after", "stage": "eval"}],
}


def test_a_shared_section_may_hold_what_only_some_stages_use(tmp_path):
    assert problems_of(tmp_path, PIPELINE) == []
    loaded = loading.load([str(tmp_path / "r.yaml"), "stages.after.rollout.top_k=5"])
    assert loaded.stages[1].rollout.top_k == 5 and loaded.stages[0].rollout.temperature == 0.9
    assert "temperature" not in loading.resolved(loaded)["stages"][1]["rollout"]
    only = PIPELINE | {"stages": [{"name": "after", "stage": "eval"}]}
    found = problems_of(tmp_path, only)
    assert [line.split(": ")[1] for line in found] == [
        "data.size", "rewards.0.weight", "rollout.num_generations", "rollout.temperature",
    ]  # fmt: skip
    (line,) = problems_of(tmp_path, PIPELINE, "stages.after.rollout.temperature=0.1")
    assert line == (
        "command line: stages.after.rollout.temperature: has no effect in a stage of kind eval: set eval.temperature"
    )


def test_an_anchor_may_hold_what_only_some_of_its_stages_use(tmp_path):
    text = (
        "model: {path: m}\ndata: {builder: arithmetic}\nrewards: [{name: exact_match}]\nstages:\n"
        "  - name: some\n    stage: sample\n    rollout: &all\n      temperature: 0.9\n"
        "  - name: after\n    stage: eval\n    rollout: *all\n"
    )
    (tmp_path / "r.yaml").write_text(text)
    loading.load([str(tmp_path / "r.yaml")])
    (tmp_path / "r.yaml").write_text(text.replace("stage: sample", "stage: eval"))
    with pytest.raises(UserError, match=r"r.yaml:8: stages.some.rollout.temperature: has no effect in a stage"):
        loading.load([str(tmp_path / "r.yaml")])


def test_a_key_that_a_later_source_leaves_without_an_effect_is_dropped(tmp_path):
    data = PIPELINE | {"rollout": {"gpu_memory_utilization": 0.4, "engine": "vllm"}}
    assert problems_of(tmp_path, data, "rollout.engine=transformers") == []
    assert loading.load([str(tmp_path / "r.yaml"), "rollout.engine=transformers"]).stages[0].rollout.engine
    (line,) = problems_of(tmp_path, data, "rollout.engine=transformers", "rollout.gpu_memory_utilization=0.5")
    assert line.startswith("command line: rollout.gpu_memory_utilization: has no effect with rollout.engine")


def test_the_resolved_form_of_a_recipe_in_small_loads_as_it_is(tmp_path):
    first = loading.load(["r1/pipeline"], tiny=True)
    (tmp_path / "config.yaml").write_text(loading.dumps(first))
    assert loading.resolved(loading.load([str(tmp_path / "config.yaml")])) == loading.resolved(first)


def test_the_share_of_the_gpu_is_that_of_a_stage_alone_or_of_one_beside_a_trainer(tmp_path):
    problems_of(tmp_path, PIPELINE)
    zero, after = loading.load([str(tmp_path / "r.yaml")]).stages
    assert (zero.rollout.gpu_memory_utilization, after.rollout.gpu_memory_utilization) == (0.3, 0.9)


def test_a_saved_recipe_may_hold_keys_without_an_effect_which_are_named_in_one_line(tmp_path, caplog):
    eval_recipe = PLAIN | {"name": "e", "stage": "eval", "rollout": {"temperature": 0.3}}
    for name in ("config.yaml", "r.yaml"):
        YAML(typ="safe", pure=True).dump(eval_recipe, tmp_path / name)
    with pytest.raises(UserError, match="rollout.temperature: has no effect"):
        loading.load([str(tmp_path / "config.yaml")])  # no run's
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "recipe.yaml").write_text("")
    assert "temperature" not in loading.resolved(loading.load([str(tmp_path / "config.yaml")]))["rollout"]
    assert caplog.messages == [f"{tmp_path / 'config.yaml'}: ignored because it has no effect: rollout.temperature"]
    with pytest.raises(UserError, match="rollout.temperature: has no effect"):
        loading.load([str(tmp_path / "r.yaml")])
