"""`r1lab eval`: from what is typed to the recipe that is run."""

import json
import shutil
from types import SimpleNamespace

import pytest

from r1lab import cli
from r1lab.check import check, rows
from r1lab.errors import UserError
from r1lab.evaluation import protocols
from r1lab.recipe import loading
from r1lab.rundir import directory, storage

TINY = "embedded:tiny-qwen2"


def made(*paths, tasks=(), protocol="greedy", **more):
    sources, notes = protocols.sources(list(paths) or [TINY], tasks=list(tasks), protocol=protocol, **more)
    return loading.load(sources), notes


@pytest.mark.parametrize("protocol", protocols.PROTOCOLS)
def test_each_protocol_makes_a_recipe_that_loads(protocol):
    loaded, _ = made(protocol=protocol)
    (stage,) = loaded.stages
    assert stage.name == "tiny-qwen2" and stage.stage == "eval" and stage.model.path == TINY
    assert loaded.compare == []


def test_the_protocol_says_how_it_is_asked():
    (stage,) = made("Qwen/Qwen2.5-7B", tasks=["aime24", "math500"], protocol="r1")[0].stages
    assert (stage.eval.temperature, stage.rollout.top_p, stage.rollout.max_completion_length) == (0.6, 0.95, 32768)
    assert [(task.name, task.builder, task.num_samples) for task in stage.eval.tasks] == [
        ("aime24", "aime", 64),
        ("math500", "math", None),
    ]
    assert stage.eval.num_samples == 4 and not stage.eval.greedy and stage.prompt.template == "chat"
    (stage,) = made("Qwen/Qwen2.5-7B", tasks=["gsm8k"])[0].stages
    assert (stage.eval.temperature, stage.eval.num_samples) == (0.0, 1)
    (stage,) = made("Qwen/Qwen2.5-7B", protocol="logic-rl")[0].stages
    assert stage.prompt.template == "logic-rl" and [task.name for task in stage.eval.tasks][-1] == "8ppl"


def test_a_pipeline_is_a_protocol_that_asks_as_its_own_evaluations_do():
    quickstart = loading.load(["quickstart"])
    (stage,) = made(protocol="quickstart")[0].stages
    asked = stage.eval.tasks[0].model_dump()
    assert asked == quickstart.stages[0].eval.tasks[0].model_dump() | {"name": "knights_knaves"}
    assert asked["people"] == {2: 3, 3: 2}  # numbers as keys, which JSON has not
    assert (stage.eval.size, stage.eval.num_samples, stage.prompt.template) == (400, 4, "r1-zero")
    assert stage.rollout == quickstart.stages[0].rollout and stage.rewards == quickstart.stages[0].rewards


def test_size_and_samples_hold_for_every_task():
    (stage,) = made(tasks=["knights_knaves", "aime24"], protocol="r1", size=7, samples=3)[0].stages
    assert {(task.size, task.num_samples) for task in stage.eval.tasks} == {(7, 3)}


def test_size_and_samples_hold_where_a_protocol_has_no_tasks_or_settings_name_others(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text(
        "name: own\nmodel: {path: a/b}\nprompt: {template: r1-zero}\ndata: {builder: knights_knaves, people: [2]}\n"
        "rewards: [{name: knights_knaves}]\neval: {size: 300}\nstages: [{name: base, stage: eval}]\n"
    )
    (stage,) = made(protocol=str(own), size=7, samples=3)[0].stages
    assert (stage.eval.tasks, stage.eval.size, stage.eval.num_samples) == ([], 7, 3)
    (stage,) = made(protocol="r1", size=7, samples=3, assignments=["eval.tasks=[{builder: arithmetic}]"])[0].stages
    assert [task.builder for task in stage.eval.tasks] == ["arithmetic"]
    assert (stage.eval.size, stage.eval.num_samples) == (7, 3)


def test_names_of_models_never_collide():
    loaded, _ = made("x/a", "y/a", "z/a-2", tasks=["countdown"])
    assert len({stage.name for stage in loaded.stages}) == 3


def test_several_models_are_compared_with_the_first():
    loaded, notes = made(TINY, "embedded:tiny-llama", TINY, tasks=["knights_knaves"])
    assert [stage.name for stage in loaded.stages] == ["tiny-qwen2-1", "tiny-llama", "tiny-qwen2-3"]
    assert loaded.compare == [["tiny-qwen2-1", "tiny-llama"], ["tiny-qwen2-1", "tiny-qwen2-3"]]
    assert notes[0].startswith("tiny-qwen2-1, tiny-llama, tiny-qwen2-3: prompt template r1-zero, as it was trained; ")


def test_settings_come_last_and_those_of_model_apply_to_each_model():
    assignments = ["model.dtype=float32", "rollout.engine=transformers", "prompt.template=chat"]
    loaded, notes = made(TINY, "embedded:tiny-llama", tasks=["countdown"], assignments=assignments)
    for stage in loaded.stages:
        assert (stage.model.dtype, stage.rollout.engine) == ("float32", "transformers")
        assert stage.prompt.template == "chat"
    assert not any("prompt" in line for line in notes)


def test_a_short_context_shortens_the_answers_and_says_so():
    loaded, notes = made(tasks=["countdown"], protocol="r1")
    rollout = loaded.stages[0].rollout
    assert (rollout.max_model_length, rollout.max_completion_length) == (1024, 512)
    line = (
        "completions are limited to 512 tokens (protocol: 32,768), because embedded:tiny-qwen2 has a context of 1,024"
    )
    assert line in notes
    loaded, notes = made(tasks=["countdown"], assignments=["rollout.max_completion_length=64"])
    rollout = loaded.stages[0].rollout
    assert (rollout.max_model_length, rollout.max_completion_length) == (1024, 64)
    assert not any("limited" in line for line in notes)


def test_a_model_of_a_run_is_asked_as_it_was_trained(tmp_path):
    stage = tmp_path / "quickstart" / "02-zero"
    (stage / "model").mkdir(parents=True)
    (stage / "model" / "config.json").write_text('{"max_position_embeddings": 1024}')
    (stage / "model" / "model.safetensors").write_bytes(b"")
    storage.write_yaml(stage / "config.yaml", {"prompt": {"template": "open-r1", "system": None}})
    loaded, notes = made(str(stage / "model"), tasks=["countdown"])
    (made_stage,) = loaded.stages
    assert made_stage.name == "quickstart-zero" and made_stage.prompt.template == "open-r1"
    assert "as in 02-zero/config.yaml" in notes[0]
    (stage / "mine.jinja").write_text("{{ question }}")
    for prompt in ({"text": 'Say "it":\n{question} #\n', "prefill": " "}, {"template": str(stage / "mine.jinja")}):
        storage.write_yaml(stage / "config.yaml", {"prompt": {"template": "none"} | prompt})
        (asked,) = made(str(stage / "model"), tasks=["countdown"])[0].stages
        assert prompt.items() <= asked.prompt.model_dump().items()
    storage.write_yaml(stage / "config.yaml", {"prompt": {"template": "open-r1", "system": None}})
    (asked,) = made(str(stage / "model"), protocol="logic-rl")[0].stages
    assert asked.prompt.template == "logic-rl"  # which the protocol fixes
    shutil.copytree(stage / "model", stage / "checkpoints" / "checkpoint-40")
    (asked,) = made(str(stage / "checkpoints" / "checkpoint-40"), tasks=["countdown"])[0].stages
    assert asked.name == "quickstart-zero-checkpoint-40" and asked.prompt.template == "open-r1"


def test_rows_of_ones_own_and_tasks_from_a_path(tmp_path):
    mine = tmp_path / "My Rows.jsonl"
    mine.write_text('{"prompt": "1+1?", "answer": "2"}\n')
    (stage,) = made(tasks=[str(mine), f"gsm8k={mine}"], grader="exact_match")[0].stages
    assert [(task.name, task.model_extra["path"]) for task in stage.eval.tasks] == [
        ("my-rows", str(mine)),
        ("gsm8k", str(mine)),
    ]
    assert [reward.name for reward in stage.rewards] == ["exact_match"]


@pytest.mark.parametrize(
    "settings, line",
    [
        ({"tasks": ["math50"]}, r"--tasks math50: no such task \(did you mean `math500`\?\)"),
        ({"tasks": ["none.jsonl"]}, "--tasks none.jsonl: no such file"),
        ({"tasks": ["{here}/mime.jsonl"]}, r"mime.jsonl: no such file \(did you mean `.*/mine.jsonl`\?\)"),
        ({"tasks": ["{here}/mine.jsonl"]}, r"no grader: add --grader NAME, one of accuracy"),
        ({"tasks": ["gsm8k", "gsm8k"]}, "--tasks gsm8k: given twice"),
        ({"tasks": ["gsm8k"], "grader": "acuracy"}, r"--grader acuracy: no such reward \(did you mean `accuracy`\?\)"),
        ({"tasks": ["gsm8k="]}, "--tasks gsm8k=: a name is missing"),
        ({"tasks": ["gsm8k", " "]}, "a name is missing: write it as in math500,gsm8k=data/gsm8k"),
        ({"tasks": ["gsm8k"], "grader": "mine.py"}, "--grader mine.py: no function given"),
        ({"assignments": ["model.path=a/b"]}, "model.path=a/b: models come before the options"),
        ({"samples": 3}, "--samples 3: greedy has temperature 0, where all answers are the same"),
        ({"protocol": "r2"}, r"--protocol r2: no such protocol or recipe; available: r1, greedy, bfcl, logic-rl"),
        ({"protocol": "tiny/qwen2-base"}, "has no `stages` that share an `eval` section with `tasks`"),
    ],
)
def test_errors_say_what_to_type(tmp_path, settings, line):
    (tmp_path / "mine.jsonl").write_text('{"prompt": "?"}\n')
    if "tasks" in settings:
        settings = settings | {"tasks": [t.replace("{here}", str(tmp_path)) for t in settings["tasks"]]}
    with pytest.raises(UserError, match=line):
        made(**settings)


def test_a_column_of_ones_own_rows_is_named_by_a_setting(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = "".join(f'{{"question": "{n} + 1?", "gold": "{n + 1}"}}\n' for n in range(3))
    (tmp_path / "units.jsonl").write_text(lines)
    sources, _ = protocols.sources([TINY], tasks=["units.jsonl"], protocol="greedy", grader="accuracy")
    with pytest.raises(UserError) as refusal:
        loading.load(sources, inputs=True)
    (problem,) = refusal.value.problems
    assert "command line: eval.tasks.0.path: " in problem and "next to" not in problem
    setting = problem.partition(": add '")[2].removesuffix("'")
    assert setting == "eval.tasks.0.columns={prompt: question, answer: gold}"
    assert loading.load([*sources, setting], inputs=True)


def test_few_questions_are_reported_by_the_options_that_were_typed():
    def reported(sources):
        stage = next(stage for stage in loading.load(sources).stages if stage.stage == "eval")
        (task,) = stage.eval.tasks
        name = task if isinstance(task, str) else task.name
        (finding,) = rows._few(SimpleNamespace(tasks={name: [{}] * 16}), stage)
        return check.line(stage, finding)

    line = reported(protocols.sources([TINY], tasks=[], protocol="quickstart", size=16, samples=1)[0])
    assert line.startswith("warning command line: stages.tiny-qwen2: 16 questions of knights_knaves, 1 sample each")
    assert line.endswith(": use --samples 16 and a larger --size, if there are more questions")
    line = reported(["quickstart", "eval.size=16", "eval.num_samples=1"])
    assert line.endswith(": use eval.num_samples: 16 and more questions")


@pytest.mark.parametrize(
    "argv, line",
    [
        (["eval", "temperature=1"], "temperature=1: no model given"),
        (["eval", TINY, "--size", "0"], "--size 0: should be at least 1"),
        (["eval", TINY, "--task", "x"], "--task: no such option (did you mean `--tasks`?)"),
        (["eval", "./nowhere", "--tasks", "countdown"], "nowhere: no such folder"),
    ],
)
def test_the_command_tells_it_in_one_line(capsys, tmp_path, monkeypatch, argv, line):
    monkeypatch.chdir(tmp_path)
    assert cli.main(argv) == 2
    error = capsys.readouterr().err
    assert line in error and len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_it_runs_compares_and_can_be_run_again_from_its_recipe(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.jsonl").write_text('{"prompt": "1+1?", "answer": "2"}\n{"prompt": "1+2?", "answer": "3"}\n')
    argv = ["eval", TINY, "embedded:tiny-llama", "--tasks", "knights_knaves", "--size", "3", "--samples", "2",
            "--protocol", "r1", "--no-check", "--name", "e", "rollout.engine=transformers",
            "rollout.max_completion_length=16"]  # fmt: skip
    assert cli.main(argv) == 0
    out = capsys.readouterr().out
    assert "difference" in out and "too few questions for a precise score: knights_knaves (3) " in out
    result = directory.result(tmp_path / "runs" / "e")
    assert list(result["stages"]) == ["tiny-qwen2", "tiny-llama"] and len(result["compare"]) >= 1
    manifest = json.loads((tmp_path / "runs/e/01-tiny-qwen2/evaluation.json").read_text())
    assert manifest["model"]["fingerprint"].startswith("sha256:")
    assert manifest["sampling"]["temperature"] == 0.6 and manifest["tasks"]["knights_knaves"]["samples"] == 2
    figures = result["stages"]["tiny-qwen2"]["tasks"]["knights_knaves"]
    assert {"strict", "lenient", "format", "pass@2", "maj@2", "length", "ci95", "strict_ci95"} <= set(figures)
    assert cli.main([*argv, "--resume"]) == 0 and "already finished, skipped" in capsys.readouterr().out
    assert loading.load([str(tmp_path / "runs/e/recipe.yaml")]).stages  # as it was written, it loads


def test_the_prompt_of_an_old_run_is_read_without_what_has_no_effect(tmp_path):
    (tmp_path / "model").mkdir()
    storage.write_yaml(tmp_path / "config.yaml", {"prompt": {"template": "r1-zero", "system": "Be brief."}})
    assert protocols._prompt_of(str(tmp_path / "model"))[0] == {"template": "r1-zero"}
