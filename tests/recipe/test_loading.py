"""Loading recipes: sources merged, every problem told with its place."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from r1lab.errors import UserError
from r1lab.recipe import loading, yaml_source

GRPO = """\
stage: grpo
model: {path: "embedded:tiny-qwen2"}
data: {builder: knights_knaves, people: [2, 3], size: 40}
rewards:
  - {name: knights_knaves, mode: strict}
train:
  learning_rate: 1e-4
  per_device_train_batch_size: 16
"""
PIPELINE = """\
name: two
seed: 5
model: {path: "embedded:tiny-qwen2"}
data: {builder: knights_knaves, people: 2}
rewards: [{name: knights_knaves}]
rollout: {num_generations: 4, temperature: 0.5}
eval: {size: 20}
stages:
  - {name: zero, stage: grpo, train: {max_steps: 2}}
  - {name: keep, stage: sample, keep: right, model: {path: "@zero/model"}}
  - {name: tuned, stage: sft, data: {path: "@keep/samples"}}
  - {name: after, stage: eval, model: {path: "@tuned/model"}, seed: 6}
"""


def problems(*sources, **options):
    with pytest.raises(UserError) as caught:
        loading.load(list(sources), **options)
    return caught.value.problems


def problem(*sources, **options):
    (line,) = problems(*sources, **options)
    return line


def changed(old, new):
    assert GRPO.count(old) == 1
    return GRPO.replace(old, new)


# Loading


def test_a_recipe_is_named_after_its_file_and_filled_with_defaults(write):
    loaded = loading.load([write(GRPO, "my-run.yaml")])
    assert (loaded.name, loaded.stage, loaded.seed, loaded.rollout.num_generations) == ("my-run", "grpo", 0, 8)
    assert loaded.train == {"learning_rate": 1e-4, "per_device_train_batch_size": 16}
    assert loaded.rewards[0].model_extra == {"mode": "strict"}
    assert loaded.data.model_extra == {"people": [2, 3]} and loaded.data.split == "train"
    assert loaded.eval is None


def test_yaml_is_1_2(write):
    loaded = loading.load(
        [write(GRPO + "  save_strategy: no\n  weight_decay: 1e-6\n  run_name: 2026-01-01\n")], check=False
    )
    assert loaded.train["save_strategy"] == "no"
    assert loaded.train["weight_decay"] == 1e-6
    assert loaded.train["run_name"] == "2026-01-01"


def test_what_is_dumped_loads_as_the_same_recipe(write):
    for text in (GRPO, PIPELINE):
        loaded = loading.load([write(text)])
        again = loading.load([write(loading.dumps(loaded), "again.yaml")])
        assert loading.resolved(again) == loading.resolved(loaded)


def test_sources_merge_from_left_to_right_maps_merge_and_lists_replace(write):
    overlay = "rewards: [{name: format}]\ntrain: {max_steps: 3}\ndata: {people: {2: 1, 3: 2}}\n"
    loaded = loading.load([write(GRPO), write(overlay, "overlay.yaml"), "train.max_steps=7", "name=other"])
    assert loaded.train == {"learning_rate": 1e-4, "per_device_train_batch_size": 16, "max_steps": 7}
    assert [reward.name for reward in loaded.rewards] == ["format"]
    assert loaded.data.model_extra["people"] == {2: 1, 3: 2}
    assert loaded.name == "other"


def test_a_word_reaches_into_lists_and_maps_with_numbers_for_keys(write):
    text = changed("people: [2, 3]", "people: {2: 1, 3: 2}")
    loaded = loading.load(
        [write(text), "data.people.3=9", "rewards.0.weight=0.5", "eval.every=5", "eval.tasks=[arithmetic]"]
    )
    assert loaded.data.model_extra["people"] == {2: 1, 3: 9}
    assert loaded.rewards[0].weight == 0.5
    assert loaded.eval.tasks == ["arithmetic"]


def test_a_value_of_a_word_may_replace_a_list_by_a_map(write):
    assert loading.load([write(GRPO), "data.people={2: 1}"]).data.model_extra["people"] == {2: 1}


def test_packaged_recipes_have_names():
    names = ("quickstart", "quickstart.yaml", "recipes/quickstart", "recipes/quickstart.yaml")
    loaded = [loading.resolved(loading.load([name])) for name in names]
    assert all(one == loaded[0] for one in loaded) and loaded[0]["name"] == "quickstart"


def test_paths_with_a_dot_are_relative_to_the_file_they_stand_in(write, tmp_path):
    write("def short(completions, **columns):\n    return [1.0 for _ in completions]\n", "sub/mine.py")
    write('{"prompt": "1+1?", "answer": "2"}\n', "sub/rows.jsonl")
    text = changed("name: knights_knaves, mode: strict", "name: ./mine.py:short")
    text = text.replace("builder: knights_knaves, people: [2, 3], size: 40", "path: ./rows.jsonl")
    loaded = loading.load([write(text, "sub/r.yaml")], check=True)
    assert loaded.rewards[0].name == f"{tmp_path}/sub/mine.py:short"
    assert loaded.data.model_extra["path"] == f"{tmp_path}/sub/rows.jsonl"
    assert loading.load(["sub/r.yaml", "data.path=./here.jsonl"]).data.model_extra["path"] == f"{tmp_path}/here.jsonl"


def test_the_recipe_as_written_keeps_comments_and_what_was_merged(write):
    text = loading.source_text([write("# why\n" + GRPO), write("seed: 1\n", "overlay.yaml"), "seed=2"])
    assert text.startswith("# why\n" + GRPO)
    assert text.endswith(
        "# merged over it, from overlay.yaml:\n#   seed: 1\n\n# merged over it, from the command line: seed=2\n"
    )


# Pipelines


def test_shared_sections_hold_for_stages_that_have_and_do_not_give_them(write):
    loaded = loading.load([write(PIPELINE)])
    stages = {stage.name: stage for stage in loaded.stages}
    assert list(stages) == ["zero", "keep", "tuned", "after"]
    assert stages["zero"].rollout.num_generations == stages["keep"].rollout.num_generations == 4
    assert stages["after"].eval.size == 20 and stages["zero"].eval is None  # which says not how often
    often = {stage.name: stage for stage in loading.load([write(PIPELINE), "eval.every=5"]).stages}
    assert often["zero"].eval.size == 20
    assert stages["tuned"].data.builder == "rows" and not hasattr(stages["tuned"], "rollout")
    assert [stage.seed for stage in stages.values()] == [5, 5, 5, 6]
    assert stages["after"].data.split == "test" and stages["zero"].data.split == "train"


def test_a_resolved_stage_is_a_recipe_of_its_own(write):
    for stage in loading.load([write(PIPELINE)]).stages:
        alone = loading.resolved(stage)
        for section in ("model", "data"):
            alone[section]["path" if "path" in alone[section] else "builder"] = (
                alone[section].get("path", alone[section].get("builder")).replace("@", "/tmp/")
            )
        write(json.dumps(alone), "config.yaml")
        assert loading.resolved(loading.load(["config.yaml"])) == alone


def test_a_word_addresses_a_stage_by_name_and_changes_one_value_of_a_shared_section(write):
    loaded = loading.load([write(PIPELINE), "stages.zero.rollout.temperature=0.9", "stages.after.seed=9"])
    zero, keep, _, after = loaded.stages
    assert (zero.rollout.temperature, zero.rollout.num_generations, keep.rollout.temperature) == (0.9, 4, 0.5)
    assert after.seed == 9


def test_an_overlay_addresses_stages_by_name_too(write):
    loaded = loading.load([write(PIPELINE), write("stages: {zero: {train: {beta: 0.1}}}\n", "overlay.yaml")])
    assert loaded.stages[0].train == {"max_steps": 2, "beta": 0.1}


def test_an_unknown_stage_is_told(write):
    line = problem(write(PIPELINE), "stages.zer.seed=1")
    assert line == "command line: stages.zer: no such stage (did you mean `zero`?)"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("@zero/model", "@tuned/model", "r.yaml:10: stages.keep.model.path: @tuned/model: tuned does not come before"),
        ("@zero/model", "@zer/model", "@zer/model: no such stage (did you mean `zero`?)"),
        ("@zero/model", "@zero/samples", "@zero/samples: should be @STAGE/model"),
        (
            "@keep/samples",
            "@zero/samples",
            "@zero/samples: zero is a stage of kind grpo, which does not produce samples",
        ),
        ("@tuned/model", "@keep/model", "@keep/model: keep is a stage of kind sample, which does not produce a model"),
        ("name: after", "name: zero", "r.yaml:12: stages.zero.name: zero: another stage has the same name"),
        ("name: after", "name: After One", "needs a name of lower-case letters"),
        ("name: after, ", "", "needs a name of lower-case letters"),
        ("seed: 5", "compare: [[zero, after]]", "compare.0: zero: no such eval stage; available: after"),
        ("seed: 5", "stage: grpo", "r.yaml:2: stage: a recipe has either `stage` or `stages`: remove one"),
        (
            "seed: 5",
            "train: {beta: 0}",
            "r.yaml:2: train: each stage of a pipeline has its own: set stages.NAME.train",
        ),
        ("seed: 5", "prompts: {}", "r.yaml:2: prompts: unknown key (did you mean `prompt`?)"),
        ('path: "@tuned/model"', "path: @tuned/model", "r.yaml:12: not YAML: found character '@'"),
        (
            "stage: sft",
            "stage: sfft",
            "r.yaml:11: stages.tuned.stage: 'sfft': no such kind of stage (did you mean `sft`?)",
        ),
        (
            "max_steps: 2",
            "max_stps: 2",
            "r.yaml:9: stages.zero.train.max_stps: unknown key (did you mean `max_steps`?)",
        ),
    ],
)
def test_what_is_wrong_with_a_pipeline_is_told(write, old, new, message):
    assert PIPELINE.count(old) == 1
    assert any(message in line for line in problems(write(PIPELINE.replace(old, new))))


def test_a_problem_of_a_shared_section_is_told_once_where_it_was_written(write):
    text = PIPELINE.replace("temperature: 0.5", "temprature: 0.5")
    assert problem(write(text)) == "r.yaml:6: rollout.temprature: unknown key (did you mean `temperature`?)"


def test_a_shared_section_that_no_stage_has_is_told(write):
    text = "stages: [{name: a, stage: sft, model: {path: x}, data: {builder: knights_knaves}}]\nrollout: {}\n"
    assert problem(write(text)) == "r.yaml:2: rollout: no stage of this pipeline has such a section: remove it"


# What is wrong, and how it is told


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("learning_rate", "learning_rte", "r.yaml:7: train.learning_rte: unknown key (did you mean `learning_rate`?)"),
        ("1e-4", "fast", "r.yaml:7: train.learning_rate: should be a number, not the text 'fast'"),
        ("1e-4", '"1e-4"', "r.yaml:7: train.learning_rate: should be a number, not the text '1e-4'"),
        ("size: 40", "size: 4.5", "r.yaml:3: data.size: should be a whole number, not 4.5"),
        ("size: 40", "size: 0", "r.yaml:3: data.size: should be at least 1, not 0"),
        ("learning_rate", "lr", "r.yaml:7: train.lr: unknown key (did you mean `learning_rate`?)"),
        ("size: 40", "siez: 40", "r.yaml:3: data.siez: unknown parameter (did you mean `size`?)"),
        ("people: [2, 3]", "people: [2, x]", "r.yaml:3: data.people.1: should be a whole number, not the text 'x'"),
        ("mode: strict", "mode: stict", "r.yaml:5: rewards.0.mode: stict: no such choice (did you mean `strict`?)"),
        ("mode: strict", "mood: strict", "r.yaml:5: rewards.0.mood: unknown parameter (did you mean `mode`?)"),
        ("name: knights_knaves", "name: knights", "r.yaml:5: rewards.0.name: knights: no such reward"),
        ("builder: knights_knaves", "builder: knaves", "r.yaml:3: data.builder: knaves: no such builder"),
        (
            "stage: grpo",
            "stage: gpro",
            "r.yaml:1: stage: 'gpro': no such kind of stage (did you mean `grpo`?): set one of sft, grpo",
        ),
        (
            "stage: grpo",
            "seed: 0",
            "r.yaml:1: `stage` is missing: "
            "set it to one of sft, grpo, distill, sample, eval, dpo, reward, or `stages`",
        ),
        ("stage: grpo", "stage: grpo\nstage: sft", "r.yaml:2: stage: occurs twice (also in line 1): remove one"),
        ("stage: grpo", "stage: grpo\nrolout: {}", "r.yaml:2: rolout: unknown key (did you mean `rollout`?)"),
        ("stage: grpo", "stage: grpo\nkeep: all", "r.yaml:2: keep: has no effect in a stage of kind grpo"),
        (
            "learning_rate: 1e-4",
            "loss_type: dr_gpro",
            "train.loss_type: dr_gpro: no such choice (did you mean `dr_grpo`?)",
        ),
        ("learning_rate: 1e-4", "optim: adamw", "train.optim: adamw: no such choice (did you mean `adamw_torch`?)"),
        ("learning_rate: 1e-4", "bf16: yes", "train.bf16: should be true or false, not the text 'yes'"),
        ("learning_rate: 1e-4", "max_steps: true", "train.max_steps: should be a whole number, not true"),
        ("learning_rate: 1e-4", "seed: 1", "train.seed: not set here: set `seed` at the top of the recipe instead"),
        ("learning_rate: 1e-4", "num_generations: 4", "not set here: set `rollout.num_generations` instead"),
        ('path: "embedded:tiny-qwen2"', "path: '@zero/model'", "only a stage of a pipeline can refer to another"),
        (
            'path: "embedded:tiny-qwen2"',
            "path: 'scratch:tiny-qwen2'",
            "only an sft stage can start from random weights",
        ),
        ('path: "embedded:tiny-qwen2"', "pth: x", "r.yaml:2: model.pth: unknown key (did you mean `path`?)"),
    ],
)
def test_a_wrong_recipe_is_told_by_file_line_and_key(write, old, new, message):
    assert any(message in line for line in problems(write(changed(old, new))))


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("learning_rate=1e-5", "learning_rate: unknown key (did you mean `train.learning_rate`?)"),
        ("temperature=0.7", "temperature: unknown key (did you mean `rollout.temperature`?)"),
        ("num_samples=4", "num_samples: unknown key (did you mean `eval.num_samples`?)"),
        ("advantage=rloo", "advantage: unknown key (did you mean `train.advantage`?)"),
        ("weight=2", "weight: unknown key (did you mean `rewards.0.weight`?)"),
        ("model.r=8", "model.r: unknown key (did you mean `model.lora.r`?)"),
        (
            "rollout.max_rounds=2",
            "rollout.max_rounds: unknown key (did you mean `rollout.dynamic_sampling.max_rounds`?)",
        ),
    ],
)
def test_a_key_that_exists_one_level_down_is_suggested(write, setting, line):
    assert problem(write(GRPO), setting) == f"command line: {line}"


def test_a_key_one_level_down_is_suggested_with_its_place_in_the_file(write):
    assert problem(write("learning_rate: 1e-5\n" + GRPO)) == (
        "r.yaml:1: learning_rate: unknown key (did you mean `train.learning_rate`?)"
    )


def test_a_field_of_trl_that_r1lab_sets_elsewhere_is_not_suggested(write):
    assert problem(write(GRPO), "output_dir=x").startswith("command line: output_dir: unknown key: a stage of kind")


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("packing=true", "packing: unknown key (did you mean `stages.tuned.train.packing`?)"),
        ("beta=0.1", "beta: unknown key (did you mean `stages.zero.train.beta`?)"),
        ("learning_rate=1e-5", "learning_rate: unknown key (did you mean `stages.NAME.train.learning_rate`?)"),
        ("temperature=1", "temperature: unknown key (did you mean `rollout.temperature`?)"),
        ("which=best", "which: unknown key (did you mean `stages.keep.keep.which`?)"),
        ("stages.zero.beta=0.1", "stages.zero.beta: unknown key (did you mean `stages.zero.train.beta`?)"),
    ],
)
def test_a_key_of_a_stage_is_suggested_at_the_top_of_a_pipeline(write, setting, line):
    assert problem(write(PIPELINE), setting) == f"command line: {line}"


def test_a_key_one_level_down_in_a_shared_section_is_suggested_once(write):
    text = PIPELINE.replace("temperature: 0.5", "max_rounds: 2")
    suggested = "rollout.dynamic_sampling.max_rounds"
    assert problem(write(text)) == f"r.yaml:6: rollout.max_rounds: unknown key (did you mean `{suggested}`?)"


@pytest.mark.parametrize("section", ["model", "data", "rewards"])
def test_a_missing_section_is_told_with_an_example(write, section):
    start = GRPO.index(f"{section}:")
    text = GRPO[:start] + GRPO[start:].split("\n", 2 if section == "rewards" else 1)[-1]
    line = problem(write(text))
    assert line.startswith(f"r.yaml:1: {section}: missing: a stage of kind grpo needs it, as in `{section}: ")


def test_every_problem_is_told_in_two_rounds_and_none_twice(write):
    text = """\
stage: grpo
seed: -1
seed: 2
data: {builder: knights_knave, size: x}
rewards: [{name: formt}, {wight: 1}]
rollout: {engine: vlm}
train: {learning_rte: 1e-4, max_steps: many}
eval: {every: 0, tasks: [knights_knaves, {builder: rows}]}
"""
    found = problems(write(text))
    assert [line.split(": ")[:2] for line in found] == [
        ["r.yaml:1", "model"],
        ["r.yaml:2", "seed"],
        ["r.yaml:3", "seed"],
        ["r.yaml:4", "data.size"],
        ["r.yaml:5", "rewards.1.name"],
        ["r.yaml:6", "rollout.engine"],
        ["r.yaml:8", "eval.every"],
    ]
    right = {"seed: -1\n": "model: {path: m}\n", "size: x": "size: 9", "{wight: 1}": "{name: format}", "vlm": "vllm"}
    for old, new in (right | {"every: 0": "every: 1"}).items():
        text = text.replace(old, new)
    assert [line.split(": ")[:2] for line in problems(write(text))] == [
        ["r.yaml:4", "data.builder"],
        ["r.yaml:5", "rewards.0.name"],
        ["r.yaml:7", "train.learning_rte"],
        ["r.yaml:7", "train.max_steps"],
        ["r.yaml:8", "eval.tasks.1.builder"],
    ]


def test_words_of_the_command_line_are_told_as_such(write):
    assert problem(write(GRPO), "train.beta=big") == (
        "command line: train.beta: should be a number, not the text 'big'"
    )
    assert problem(write(GRPO), "train.beta=[").startswith("command line: train.beta: not YAML: ")
    assert problem(write("seed: 3\n" + GRPO), "seed.x=1").startswith("command line: seed: is 3 in the recipe")
    assert "rewards.3: no such item: this list has 1" in problem(write(GRPO), "rewards.3.weight=1")


def test_a_recipe_that_is_not_there_is_told_with_one_like_it():
    assert problem("quickstrt") == (
        "quickstrt: no such file or packaged recipe (did you mean `quickstart`?); `r1lab ls recipes` lists the recipes"
    )


def test_files_that_are_no_recipes_are_told(write, tmp_path):
    assert "not a recipe" in problem(write(""))
    assert "not a recipe" in problem(write("- a\n- b\n"))
    assert problem(write("a: [1,\n")).startswith("r.yaml:2: not YAML: ")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00a")
    assert "cannot be read" in problem("binary.yaml")
    assert "this is a folder: give a YAML file" in problem(str(tmp_path))


def test_merge_keys_are_told(write):
    text = GRPO.replace("train:\n", "train:\n  <<: {beta: 0.1}\n")
    assert (
        problem(write(text))
        == "r.yaml:7: `<<` is not YAML 1.2: write the keys out; `*NAME` alone repeats a whole section"
    )


def test_keep_needs_rewards(write):
    text = "stage: sample\nmodel: {path: x}\ndata: {builder: knights_knaves}\nkeep: right\n"
    assert problem(write(text)).startswith("r.yaml:4: keep.which: right: needs `rewards`")


def test_a_builder_says_what_it_needs_and_what_it_does_not_take(write):
    text = "stage: sft\nmodel: {path: x}\ndata: {size: 3}\n"
    assert problem(write(text)) == "r.yaml:3: data.builder: rows needs the parameter `path`"
    write("def fixed(*, split='train'):\n    return []\n", "mine.py")
    text = "stage: sft\nmodel: {path: x}\ndata: {builder: './mine.py:fixed', size: 3}\n"
    assert problem(write(text)).endswith("mine.py:fixed has no parameter size: remove it")


def test_a_set_to_decontaminate_against_does_not_have_the_parameters_of_the_data(write):
    text = "stage: sft\nmodel: {path: x}\ndata: {path: rows.jsonl, decontaminate: {against: [rows]}}\n"
    assert problem(write(text)) == "r.yaml:3: data.decontaminate.against.0: rows needs the parameter `path`"


def test_an_eval_recipe_has_tasks_or_data(write):
    text = "stage: eval\nmodel: {path: x}\nrewards: [{name: knights_knaves}]\n"
    loaded = loading.load([write(text + "eval: {tasks: [{name: two, builder: knights_knaves, people: 2}]}\n")])
    assert loaded.data is None and loaded.eval.tasks[0].name == "two"
    loaded = loading.load([write(text + "data: {builder: knights_knaves}\n")])
    assert loaded.data.split == "test" and loaded.eval.tasks == []
    assert problem(write(text)) == (
        "r.yaml:1: data: missing: an evaluation needs questions: set eval.tasks, as in `eval: {tasks: [math]}`, "
        "or data, as in `data: {builder: knights_knaves}`"
    )
    line = problem(write(text + "eval: {tasks: [knaves]}\n"))
    assert line.startswith("r.yaml:4: eval.tasks.0: knaves: no such builder")


def test_an_eval_recipe_of_an_earlier_version_repeats_its_first_task_as_data():
    asked = {"stage": "eval", "name": "e", "model": {"path": "x"}, "rewards": [{"name": "knights_knaves"}]}
    asked |= {"eval": {"tasks": [{"builder": "knights_knaves", "people": 2}]}}
    before = asked | {"data": {"builder": "knights_knaves", "people": 2, "split": "test"}}
    assert loading.reread(before) == loading.reread(asked) and loading.reread(asked)["data"] is None


# Whatever is in the file


junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.floats(allow_nan=False)
    | st.sampled_from(["", "grpo", "x", "@a/model"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["name", "path", "x", 1]), inner, max_size=2)
    ),
    max_leaves=4,
)
KEYS = [
    "stage",
    "name",
    "seed",
    "model",
    "data",
    "prompt",
    "rewards",
    "rollout",
    "train",
    "eval",
    "launch",
    "stages",
    "compare",
]


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), junk, min_size=1, max_size=3), st.sampled_from([GRPO, PIPELINE]))
def test_no_recipe_ends_in_anything_but_a_recipe_or_lines_for_its_user(tmp_path_factory, overlay, base):
    folder = tmp_path_factory.mktemp("junk")
    (folder / "base.yaml").write_text(base)
    (folder / "overlay.yaml").write_text(json.dumps(overlay))
    try:
        loading.load([str(folder / "base.yaml"), str(folder / "overlay.yaml")])
    except UserError as error:
        assert error.problems and all(line and "\n" not in line for line in error.problems)


def test_is_assignment_prefers_a_file_of_that_name(write):
    assert yaml_source.is_assignment("a=b.yaml")
    write(GRPO, "a=b.yaml")
    assert not yaml_source.is_assignment("a=b.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "x: !!python/object/apply:os.system [id]",
            "r.yaml:2: the tag !!python/object/apply:os.system is not plain data",
        ),
        ("x: !env HOME", "r.yaml:2: the tag !env is not plain data"),
        ("x: !include f.yaml", "r.yaml:2: the tag !include is not plain data"),
        ("x: &a [*a]", "r.yaml:2: this anchor contains itself"),
        ("x: &a\n  b: *a", "r.yaml:2: this anchor contains itself"),
        ("x: !!int many", "r.yaml:2: 'many' cannot be read as int"),
        ("? [a, b]\n: c", "r.yaml:2: a key should be text or a number, not a list or a map"),
        (
            "x: " + "[" * 3000 + "]" * 3000,
            "r.yaml: cannot be read as YAML: its lists or maps are nested too deeply",
        ),
        (
            "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
            + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi")),
            "r.yaml:2: more than 100,000 values",
        ),
    ],
)
def test_yaml_that_is_no_plain_data_is_told_by_its_line(write, text, said):
    assert problems(write(f"stage: grpo\n{text}\n"))[0].startswith(said)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.sampled_from("a b: [ ] { } , - & * &a *a !x !!int ' \" | > ? : \n # % @ ~ << null 1e9 0x \t".split(" "))
    )
)
def test_any_text_is_read_or_refused_in_lines(words):
    try:
        yaml_source.parse(" ".join(words), "r.yaml", base_dir=Path("."))
    except UserError as error:
        assert all(line.startswith("r.yaml") and "\n" not in line for line in error.problems)


def test_the_home_folder_is_filled_in_wherever_a_path_stands(write, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    text = changed('path: "embedded:tiny-qwen2"', "path: ~/models/x")
    assert loading.load([write(text)]).model.path == "/home/someone/models/x"
    assert yaml_source.parse_assignment("data.path=~/rows.jsonl").data == {
        "data": {"path": "/home/someone/rows.jsonl"}
    }
