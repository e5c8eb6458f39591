"""What is checked beyond the schema: TRL's fields, the batch, and the files that a recipe names."""

import json
from pathlib import Path

import pytest

from r1lab.errors import UserError
from r1lab.recipe import checks, loading, trl_fields
from r1lab.recipe.schema import STAGES

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


def check_inputs(recipe) -> list[str]:
    """What is wrong with the files of a recipe that has been loaded."""
    found = loading._check_problems(getattr(recipe, "stages", [recipe]), inputs=True)
    return list(dict.fromkeys(recipe._document.problem(keys, message) for keys, message in found))


def problems(*sources, **options):
    with pytest.raises(UserError) as caught:
        loading.load(list(sources), **options)
    assert caught.value.status == 2
    return caught.value.problems


def problem(*sources, **options):
    (line,) = problems(*sources, **options)
    return line


def changed(old, new):
    assert GRPO.count(old) == 1
    return GRPO.replace(old, new)


# TRL


@pytest.mark.slow
def test_the_generated_fields_are_those_of_the_installed_trl():
    from r1lab.recipe import trl_fields_make

    assert trl_fields_make.TARGET.read_text(encoding="utf-8") == trl_fields_make.generate(), (
        "TRL has changed: python -m r1lab.recipe.trl_fields_make"
    )


@pytest.mark.slow
def test_the_choices_are_those_that_trl_knows():
    import trl

    for stage, fields in checks.CHOICES.items():
        folder = Path(trl.__file__).parent / "trainer"
        config = STAGES[stage].trl
        kind = config.removesuffix("Config").lower()
        source = (folder / f"{kind}_trainer.py").read_text() + (folder / f"{kind}_config.py").read_text()
        for field, choices in fields.items():
            assert field in trl_fields.FIELDS[config]
            for choice in choices:
                assert f'"{choice}"' in source or f"'{choice}'" in source, (field, choice)


def test_fields_set_elsewhere_are_fields_of_trl():
    assert set(checks.ELSEWHERE) <= set(trl_fields.GRPO) | set(trl_fields.SFT)


# The batch


@pytest.mark.parametrize(
    ("train", "words", "message"),
    [
        (
            "per_device_train_batch_size: 12",
            [],
            "12 x 1 GPU x 1 step = 12 completions do not divide into groups of 8: "
            "set train.per_device_train_batch_size to 8 or 16, or rollout.num_generations to 4, 6 or 12",
        ),
        (
            "per_device_train_batch_size: 3",
            ["launch.gpus=4"],
            "3 x 4 GPUs x 1 step = 12 completions do not divide into "
            "groups of 8: set train.per_device_train_batch_size to 2 or 4",
        ),
        ("per_device_train_batch_size: 6", ["train.gradient_accumulation_steps=2"], "6 x 1 GPU x 2 steps = 12"),
        ("per_device_train_batch_size: 6", ["train.steps_per_generation=3"], "6 x 1 GPU x 3 steps = 18"),
        (
            "generation_batch_size: 40",
            ["rollout.num_generations=6"],
            "40 completions do not divide into groups of 6: set train.generation_batch_size to 24 or 48",
        ),
        ("generation_batch_size: 20", [], "20: not a multiple of the 8 completions of one step: set 16 or 24"),
        (
            "generation_batch_size: 16",
            ["train.steps_per_generation=2"],
            "either this or steps_per_generation: remove one of them",
        ),
        ("per_device_train_batch_size: 0", [], "0: should be at least 1"),
        (
            "per_device_train_batch_size: 8",
            ["rollout.num_generations=1"],
            "1: GRPO compares the completions of a group: set at least 2",
        ),
    ],
)
def test_a_batch_that_groups_do_not_fill_is_told_with_sizes_that_would_do(write, train, words, message):
    line = problem(write(changed("per_device_train_batch_size: 16", train)), *words)
    assert message in line


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("logging_steps: 2", "train.logging_steps: not set here: r1lab writes a row of metrics for each step"),
        ("logging_strategy: epoch", "train.logging_strategy: not set here: r1lab writes a row of metrics for each"),
        ("logging_first_step: true", "train.logging_first_step: not set here: r1lab writes a row of metrics for each"),
        ("max_steps: 0", "train.max_steps: 0: there would be no training step: set at least 1"),
        ("max_steps: -3", "train.max_steps: -3: there would be no training step: set at least 1"),
        ("num_train_epochs: 0", "train.num_train_epochs: 0: there would be no training step: set it above 0"),
        ("num_train_epochs: -0.5", "train.num_train_epochs: -0.5: there would be no training step"),
        ("save_only_model: true", "train.save_only_model: not set here: a checkpoint without its optimizer cannot be"),
    ],
)
def test_settings_that_leave_out_steps_their_figures_or_the_optimizer_are_refused(write, train, message):
    assert message in problem(write(changed("per_device_train_batch_size: 16", train)))


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["launch.gpus=2", "train.per_device_train_batch_size=4"],
        ["train.per_device_train_batch_size=2", "train.gradient_accumulation_steps=4"],
        ["train.generation_batch_size=32"],
        ["train.steps_per_generation=3"],
    ],
)
def test_a_batch_that_groups_fill_is_fine(write, words):
    loading.load([write(GRPO), *words])


# Inputs


def grpo_on(write, rows, **model):
    lines = "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
    write(lines, "rows.jsonl")
    return write(changed("builder: knights_knaves, people: [2, 3], size: 40", "path: rows.jsonl"))


def of_data(lines):
    return [line for line in lines if "data" in line]


def test_rows_without_an_answer_are_named_by_file_and_row(write):
    rows = [{"prompt": "1+1?", "answer": "2"}, {"prompt": "1+2?"}, "\n", {"prompt": "1+3?", "answer": None}]
    loaded = loading.load([grpo_on(write, rows)])
    assert of_data(check_inputs(loaded)) == [
        "r.yaml:3: data.path: rows.jsonl:2: this row has no `answer`, for the reward knights_knaves",
        "r.yaml:3: data.path: rows.jsonl:4: this row has no `answer`, for the reward knights_knaves",
    ]


def test_many_rows_without_an_answer_are_counted(write):
    loaded = loading.load([grpo_on(write, [{"prompt": "?", "answer": None}] * 20)])
    lines = of_data(check_inputs(loaded))
    assert len(lines) == 6 and lines[-1].endswith("rows.jsonl: 15 more of 20 rows have no `answer`")


def test_rows_without_a_prompt_and_lines_that_are_no_rows_are_named(write):
    loaded = loading.load([grpo_on(write, [{"answer": "2"}, "{broken\n"])])
    first, second = of_data(check_inputs(loaded))
    assert first.startswith("r.yaml:3: data.path: rows.jsonl: no column `prompt`; there are: answer: write")
    assert second.startswith("r.yaml:3: data.path: rows.jsonl:2: not JSON")


def test_columns_of_the_users_file_are_checked_and_suggested(write):
    text = grpo_on(write, [{"question": "1+1?", "final": "2"}])
    (line,) = of_data(check_inputs(loading.load([text])))
    assert line.endswith("write `columns: {prompt: question, answer: final}` next to `path`")
    assert of_data(check_inputs(loading.load([text, "data.columns={prompt: question, answer: final}"]))) == []
    (line,) = of_data(check_inputs(loading.load([text, "data.columns={prompt: question}"])))
    assert "no column `answer`, for the reward knights_knaves; there are" in line
    assert line.endswith("write `columns: {prompt: question, answer: final}` next to `path`")
    (line,) = of_data(check_inputs(loading.load([text, "data.columns={prompt: [question, final]}"])))
    assert line.endswith("write `columns: {prompt: [question, final], answer: final}` next to `path`")
    with pytest.raises(UserError, match="data.columns.prompt: should be text or a list, not 3"):
        loading.load([text, "data.columns={prompt: 3}"])


def test_a_suggestion_for_sft_keeps_the_columns_that_are_set(write, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"question": "1+1?", "answer": "2"}\n')
    text = "stage: sft\nmodel: {path: hub/model}\ndata: {path: rows.jsonl, columns: {prompt: question}}\n"
    (line,) = of_data(check_inputs(loading.load([write(text)])))
    assert "no column `completion`, for an sft stage" in line
    assert line.endswith("write `columns: {prompt: question, completion: NAME}` next to `path`")


def test_an_answer_is_asked_for_only_if_a_reward_wants_it(write):
    text = grpo_on(write, [{"prompt": "1+1?"}])
    assert of_data(check_inputs(loading.load([text, "rewards=[{name: format}]"]))) == []


def test_files_of_data_that_are_not_there_are_told(write):
    text = write(changed("builder: knights_knaves, people: [2, 3], size: 40", "path: none.jsonl"))
    (line,) = of_data(check_inputs(loading.load([text])))
    assert line.startswith("r.yaml:3: data.path: none.jsonl: no such file")
    write("", "nine.jsonl")
    (line,) = of_data(check_inputs(loading.load([text])))
    assert line == "r.yaml:3: data.path: none.jsonl: no such file or folder (did you mean `nine.jsonl`?)"
    loaded = loading.load([text, "data={builder: rows, path: some-hub/name}"])
    assert of_data(check_inputs(loaded)) == []


def test_a_builder_that_lacks_a_column_is_told(write):
    text = "stage: sft\nmodel: {path: hub/model}\ndata: {builder: knights_knaves}\n"
    (line,) = check_inputs(loading.load([write(text)]))
    assert line.startswith("r.yaml:3: data.builder: knights_knaves has no column `completion`, for an sft stage")
    assert check_inputs(loading.load([write(text), "data.solution=evaluation"])) == []


def model_problem(write, path):
    loaded = loading.load([write(GRPO), f"model.path={path}"])
    lines = check_inputs(loaded)
    assert all(line.startswith("command line: model.path: ") for line in lines)
    return " ".join(line.removeprefix("command line: model.path: ") for line in lines)


def test_a_folder_that_is_no_model_is_told(write, tmp_path):
    folder = tmp_path / "model"
    assert model_problem(write, folder) == f"{folder}: no such folder"
    folder.mkdir()
    assert model_problem(write, f"{folder}s") == f"{folder}s: no such folder (did you mean `{folder}`?)"
    assert model_problem(write, folder) == f"{folder}: it has no config.json, so it is not the folder of a model"
    write("{}", "model/config.json")
    assert model_problem(write, folder).startswith(f"{folder}: it has no weights")
    write('{"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}', "model/model.safetensors.index.json")
    write("", "model/one.safetensors")
    assert model_problem(write, folder).endswith(
        "1 of 2 weight files are missing, such as two.safetensors: copy it again"
    )
    write('{"model_type": "qwen2"}', "model/config.json")
    for name in ("one", "two"):
        write("\x02\0\0\0\0\0\0\0{}", f"model/{name}.safetensors")
    assert model_problem(write, folder) == ""
    assert model_problem(write, "model") == ""


def test_a_lora_adapter_is_no_model(write):
    write("{}", "adapter/adapter_config.json")
    assert "is a LoRA adapter, but vLLM needs a full model" in model_problem(write, "./adapter")


def test_an_unknown_embedded_model_is_told_with_one_like_it(write):
    assert "no such embedded model" in model_problem(write, "embedded:smollm")
    assert "(did you mean `smollm2-135m`?)" in model_problem(write, "embedded:smollm2-135")
    assert model_problem(write, "some-org/some-model") == ""


def test_a_model_from_scratch_has_a_known_architecture(write):
    text = "stage: sft\nmodel: {path: 'scratch:tiny-qwen'}\ndata: {builder: knights_knaves, solution: evaluation}\n"
    (line,) = check_inputs(loading.load([write(text)]))
    assert "scratch:tiny-qwen: no such architecture (did you mean `tiny-qwen2`?)" in line


def test_references_are_not_looked_for_before_the_run(write):
    after = (
        "stages:\n- {name: zero, stage: grpo, train: {}}\n- {name: after, stage: eval, model: {path: '@zero/model'}}\n"
    )
    shared = GRPO.replace("stage: grpo\n", "").partition("train:")[0].replace("embedded:tiny-qwen2", "hub/model")
    assert check_inputs(loading.load([write(shared + after)])) == []


# What is r1lab's own in a grpo stage


@pytest.mark.parametrize(
    ("words", "line", "message"),
    [
        (["rollout.top_p=0.9"], "rollout.top_p", "set 1.0, or also set rollout.biased_sampling: true"),
        (["rollout.top_k=20"], "rollout.top_k", "biases the gradient and its importance ratio: set 0"),
        (["train.min_p=0.1"], "train.min_p", "set 0.0"),
        (["train.advantage=rlo"], "train.advantage", "rloo"),
        (["train.advantage=rloo", "train.scale_rewards=none"], "train.advantage", "remove one of them"),
        (["train.max_tokens_per_microbach=10"], "train.max_tokens_per_microbach", "max_tokens_per_microbatch"),
        (["train.max_tokens_per_microbatch=0"], "train.max_tokens_per_microbatch", "at least 1"),
        (["train.pack=1"], "train.pack", "should be true or false"),
        (["curriculum={min_pass_rate: 0.9, max_pass_rate: 0.1}"], "curriculum.min_pass_rate", "no row would be left"),
        (["schedule={rewards: {knight_knaves: {0: 1.0}}}"], "schedule.rewards.knight_knaves", "knights_knaves"),
        (["schedule={temperature: {0: 0.0}}"], "schedule.temperature", "more than 0"),
        (
            ["rollout.dynamic_sampling={max_rounds: 2}", "train.per_device_train_batch_size=4", "launch.gpus=2"],
            "rollout.dynamic_sampling",
            "a GPU has 4 completions per batch, but needs whole groups of 8: set train.per_device_train_batch_size",
        ),
        (
            ["train.vllm_tensor_parallel_size=8", "launch.gpus=4"],
            "train.vllm_tensor_parallel_size",
            "8: 4 GPUs do not divide into engines of 8 GPUs each: set 1, 2 or 4",
        ),
        (
            ["rollout.async={staleness: 1}", "launch.gpus=2"],
            "rollout.async",
            "without servers it is for one rank, and launch has 2: set launch.rollout: server, or launch.gpus to 1",
        ),
        (
            [
                "rollout.async={staleness: 1}",
                "launch={gpus: 3, rollout: server}",
                "train.per_device_train_batch_size=4",
            ],
            "rollout.async",
            "a GPU has 4 completions per batch, but needs whole groups of 8",
        ),
        (
            ["rollout.async={staleness: 1}", "train.vllm_importance_sampling_correction=false"],
            "train.vllm_importance_sampling_correction",
            "remove it",
        ),
        (["rollout.async={staleness: -1}"], "rollout.async.staleness", "0"),
        (["rollout.async={stale: 1}"], "rollout.async.stale", "staleness"),
        (
            ["train.overlap=true", "train.beta=0.01"],
            "train.overlap",
            "needs train.beta=0.0: set it, or remove overlap",
        ),
        (["train.overlap=true", "launch.gpus=2"], "train.overlap", "needs launch.gpus=1"),
        (["train.overlap=true", "train.scale_rewards=batch"], "train.overlap", "needs train.scale_rewards=group"),
        (
            ["train.overlap=true", "train.advantage=reinforce_pp_baseline"],
            "train.overlap",
            "needs train.advantage=grpo",
        ),
        (["train.overlap=true", "train.gradient_checkpointing=true"], "train.overlap", "gradient_checkpointing=false"),
        (["train.overlap=true", "rollout.engine=transformers"], "train.overlap", "needs rollout.engine=vllm"),
        (["train.overlap=true", "rollout.async={staleness: 0}"], "train.overlap", "rollout.async: remove one of them"),
        (["rollout.dynamic_sampling={max_round: 2}"], "rollout.dynamic_sampling.max_round", "max_rounds"),
    ],
)
def test_own_sections_are_checked(write, words, line, message):
    told = problem(write(GRPO), *words)
    assert line in told and message in told, told


def test_rewards_that_ask_a_model_need_one_before_anything_is_loaded(write):
    told = problem(write(GRPO), "rewards=[{name: judge, model: m}]", inputs=True)
    assert "rewards.0: judge needs the parameter `base_url`" in told


def test_biased_sampling_is_allowed_when_asked_for_twice(write):
    loaded = loading.load([write(GRPO), "rollout.top_p=0.9", "rollout.biased_sampling=true"])
    assert loaded.rollout.top_p == 0.9


def test_weights_that_are_a_pickle_alone_are_refused_with_the_way_to_convert_them(write, tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_text("{}")
    (tmp_path / "old" / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    line = model_problem(write, f"{tmp_path}/old")
    assert "pytorch_model.bin: its weights are only a pickle, which may run code" in line and "python -c" in line


def test_an_sft_stage_that_should_evaluate_is_told_of_a_stage_that_does(write):
    text = "stage: sft\nmodel: {path: hub/model}\ndata: {builder: countdown, solution: true}\n"
    with pytest.raises(UserError, match="a stage of kind sft does not evaluate: add an eval stage after it"):
        loading.load([write(text), "train.eval_strategy=steps"])


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("train.per_device_train_batch_size=0", "0: should be at least 1"),
        ("train.gradient_accumulation_steps=0", "0: should be at least 1"),
        ("train.learning_rate=-1.0e-4", "-0.0001: should be at least 0"),
        ("train.assistant_only_loss=true", "not set here: an sft stage trains on the completion alone"),
    ],
)
def test_values_that_trl_refuses_late_or_trains_nothing_with_are_told_when_the_recipe_is_read(write, word, said):
    text = "stage: sft\nmodel: {path: hub/model}\ndata: {builder: countdown, solution: true}\n"
    with pytest.raises(UserError) as caught:
        loading.load([write(text), word])
    assert caught.value.problems == [line for line in caught.value.problems if said in line] != []


def test_a_reference_needs_a_penalty(write):
    with pytest.raises(UserError, match="train.sync_ref_model: without a KL penalty there is no reference model"):
        loading.load([write(GRPO), "train.sync_ref_model=true"])


def test_lora_has_no_reference_to_be_synchronized(write):
    with pytest.raises(UserError, match="train.sync_ref_model: with LoRA the reference is the base model"):
        loading.load([write(GRPO), "model.lora={r: 4}", "train.sync_ref_model=true", "train.beta=0.1"])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("report_to: foo", "train.report_to: "),
        ("report_to: [tensorbord]", "train.report_to: tensorbord: no such choice (did you mean `tensorboard`?)"),
        (
            "save_strategy: best",
            "train.save_strategy: best: no evaluation during training selects a best checkpoint: set steps",
        ),
        ("push_to_hub: true", "train.push_to_hub: not set here: r1lab uploads nothing"),
        ("ignore_data_skip: true", "train.ignore_data_skip: not set here: "),
        ("per_device_eval_batch_size: 4", "train.per_device_eval_batch_size: has no effect: training does not use it"),
    ],
)
def test_what_trl_would_take_without_an_effect_or_fail_on_late_is_refused(write, line, said):
    (problem,) = problems(write(f"{GRPO}  {line}\n"))
    assert said in problem


def test_settings_of_vllm_are_refused_beside_another_engine(write):
    (problem,) = problems(write(f"{GRPO}  vllm_enable_sleep_mode: true\nrollout: {{engine: transformers}}\n"))
    assert "train.vllm_enable_sleep_mode: has no effect with rollout.engine: transformers" in problem


# Workers and servers of an evaluation

EVALUATION = """\
stage: eval
model: {path: "embedded:tiny-qwen2"}
data: {builder: arithmetic}
rewards: [{name: exact_match}]
"""


def test_workers_have_whole_numbers_of_gpus(tmp_path):
    path = tmp_path / "e.yaml"
    path.write_text(EVALUATION)
    for gpus, split in ((4, 2), (4, 4), (3, 1)):
        loaded = loading.load([str(path), f"launch.gpus={gpus}", f"rollout.tensor_parallel={split}"])
        assert loaded.rollout.tensor_parallel == split
    said = "rollout.tensor_parallel: 4: launch.gpus is 6, which is not a multiple of it: set launch.gpus to 8"
    assert said in problem(str(path), "launch.gpus=6", "rollout.tensor_parallel=4")
    said = "rollout.tensor_parallel: has no effect with rollout.engine: transformers"
    settings = ["launch.gpus=2", "rollout.tensor_parallel=2"]
    assert said in problem(str(path), *settings, "rollout.engine=transformers")
    said = "not set here: set `rollout.tensor_parallel` instead"
    assert said in problem(str(path), "rollout.engine=vllm", "rollout.options={tensor_parallel_size: 2}")


def test_servers_are_a_list_and_need_no_workers(tmp_path):
    path = tmp_path / "e.yaml"
    path.write_text(EVALUATION)
    urls = "rollout.url=[http://a:8000/v1, http://b:8000/v1]"
    loaded = loading.load([str(path), "rollout.engine=server", urls])
    assert loaded.rollout.url == ["http://a:8000/v1", "http://b:8000/v1"]
    assert "needs `rollout.url`" in problem(str(path), "rollout.engine=server", "rollout.url=[]")
    said = "launch.gpus: has no effect with rollout.engine: server: a list of servers in rollout.url"
    assert said in problem(str(path), "rollout.engine=server", urls, "launch.gpus=2")


@pytest.mark.parametrize("more", [["stage=eval"], ["stage=grpo", "eval.every=5"]])
def test_an_evaluation_by_majority_vote_is_refused(more):
    words = [
        *more,
        "name=t",
        "model.path=embedded:tiny-qwen2",
        "data.builder=arithmetic",
        "rewards=[{name: majority}]",
    ]
    with pytest.raises(UserError, match="majority reads no gold answer, so an evaluation by it measures agreement"):
        loading.load([*words, "rewards=[{name: majority}]"], inputs=True)
