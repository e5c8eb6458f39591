"""The model card: what it tells of a real run, of a damaged one, and that its code does what the training did."""

import ast
import json
import re
import subprocess
import sys

import pytest
from ruamel.yaml import YAML

from r1lab.errors import UserError
from r1lab.models import loading, prompts
from r1lab.report import card, usage
from r1lab.report.read import Stage
from r1lab.rundir import directory, storage


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A finished run of the quickstart recipe in small."""
    runs = tmp_path_factory.mktemp("runs")
    words = ["run", "quickstart", "--tiny", "--no-check", "--name", "x", "--runs-dir", str(runs)]
    subprocess.run([sys.executable, "-m", "r1lab", *words], check=True, capture_output=True)
    return runs / "x"


def front_matter(text):
    return YAML(typ="safe").load(text.split("---\n")[1])


def blocks(text):
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def hand_made(folder, **stages):
    """A run directory of a pipeline: for each stage its config and, where it has finished, its result."""
    storage.write_yaml(folder / "config.yaml", {"name": "run", "stages": [config for config, _ in stages.values()]})
    for index, (name, (config, result)) in enumerate(stages.items(), start=1):
        path = folder / f"{index:02d}-{name}"
        (path / "model").mkdir(parents=True)
        storage.write_yaml(path / "config.yaml", config)
        if result:
            storage.write_json_atomic(path / "result.json", result)
    return folder


@pytest.mark.slow
def test_card_of_a_real_run(run_dir):
    stage = run_dir / "02-zero"
    path = card.write(run_dir, stage=stage)
    text = path.read_text()
    assert path == stage / "model" / "README.md"
    assert not list(path.parent.glob(".*"))
    assert front_matter(text) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["r1lab", "trl", "grpo"],
    }
    scores = directory.result(run_dir / "03-after")["tasks"]["knights_knaves"]
    assert f"| `after` | `knights_knaves` | {scores['n_questions']} | avg@{scores['n_samples']} |" in text
    assert "`base` → `after`" in text
    assert "made from `embedded:tiny-qwen2` by reinforcement learning" in text
    assert "| 2 steps |" in text
    assert "`r1lab run quickstart --tiny --no-check --name x --runs-dir runs" in text
    assert "> R1-Zero on a CPU" in text
    assert str(run_dir.parent) not in text
    assert "unknown" not in text.lower()


@pytest.mark.slow
def test_transformers_code_runs_as_it_is(run_dir):
    text = card.page(run_dir, stage=run_dir / "02-zero")
    done = subprocess.run(
        [sys.executable, "-c", blocks(text)[0]], cwd=run_dir / "02-zero" / "model", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("template", prompts.TEMPLATES)
@pytest.mark.parametrize("system", [None, 'Say "yes"\nor no'])
def test_code_puts_a_question_as_training_did(tmp_path, tiny_model, template, system):
    if system and template in prompts.PLAIN:
        pytest.skip("these templates have no place for a system prompt, and refuse one")
    tokenizer = loading.load_tokenizer(str(tiny_model))
    question = "Zoey said: 'Ava lies.'  Who \\ is a \"knight\"?" + " And who is not?" * 20
    (tmp_path / "samples").mkdir()
    storage.write_jsonl(tmp_path / "samples" / "step_000001.jsonl", [{"prompt": question}])
    config = {"model": {"path": "a/b"}, "prompt": {"template": template, "system": system}}
    code = blocks(usage.code(Stage("zero", "grpo", tmp_path, config), []))[0]
    names = {"tokenizer": tokenizer}
    exec("\n".join(code.split("dtype=")[1].splitlines()[1:]).split("inputs = ")[0], names)
    rendered, _ = prompts.render(question, tokenizer, template=template, system=system)
    special = "add_special_tokens=True" in code
    ids = tokenizer(names["prompt"], add_special_tokens=special)["input_ids"]
    assert ids == tokenizer(rendered, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("text", ["", "short", "a b  c\n\n" * 60, "x" * 300, 'quote " and \\ and \t and ö' * 9])
def test_literal_is_the_text(text):
    assert ast.literal_eval(usage._literal(text)) == text


def test_line_of_stages_and_nothing_of_the_machine(tmp_path):
    away = "/home/joe/work/run"
    run = hand_made(
        tmp_path,
        cold=({"name": "cold", "stage": "sft", "model": {"path": "Qwen/Qwen2.5-0.5B"},
               "data": {"builder": "rows", "path": "/home/joe/secret/sums.jsonl"}}, {"stage": "sft", "steps": 7}),
        other=({"name": "other", "stage": "sft", "model": {"path": "a/b"}, "data": {}}, {"stage": "sft", "steps": 3}),
        zero=({"name": "zero", "stage": "grpo", "model": {"path": f"{away}/01-cold/model"}}, {"steps": 9}),
        test=({"name": "test", "stage": "eval", "model": {"path": f"{away}/03-zero/model"}},
              {"stage": "eval", "tasks": {"a|b *c*": {"avg": 0.5, "ci95": [0.4, 0.6], "n_questions": 9}}}),
    )  # fmt: skip
    # Stages of a run that was moved are found by the directory in its manifest; their own files hold the paths.
    (run / "config.yaml").unlink()
    command = ["/home/joe/.venv/bin/python", "/home/joe/.venv/bin/r1lab", "run", "/home/joe/my.yaml", "--resume"]
    storage.write_json_atomic(run / "manifest.json", {"directory": away, "command": command})
    text = card.page(run, stage=run / "03-zero")
    assert front_matter(text)["base_model"] == "Qwen/Qwen2.5-0.5B"
    assert "| `zero` | grpo | `@cold/model` |" in text
    assert "path sums.jsonl" in text
    assert "`other`" not in text
    assert "| `test` | `a\\|b *c*` | 9 |" in text
    assert "50.0 [40.0, 60.0]" in text
    assert "`r1lab run my.yaml`" in text
    assert "joe" not in text
    assert "secret" not in text


def trained(folder, *tasks, step=20):
    """A run of one grpo stage that evaluated itself on tasks."""
    config = {"name": "zero", "stage": "grpo", "model": {"path": "a/b"}, "data": {"builder": "knights_knaves"}}
    hard = {"name": "hard", "builder": "knights_knaves"}
    evaluation = {"every": 20, "num_samples": 4, "temperature": 0.5, "tasks": [hard, *tasks]}
    run = hand_made(folder, zero=(config | {"eval": evaluation}, {"stage": "grpo", "steps": 30}))
    scores = {"avg": 0.5, "ci95": [0.4, 0.6], "n_questions": 9, "n_samples": 4}
    row = {"phase": "eval", "step": step, "total": 30, "tasks": dict.fromkeys(("hard", *tasks), scores)}
    storage.append_jsonl(run / "01-zero" / "metrics.jsonl", row)
    return card.page(run, stage=run / "01-zero")


def test_an_evaluation_that_the_training_made_itself(tmp_path):
    text = trained(tmp_path)
    assert "| `zero, step 20` | `hard` | 9 | avg@4 | 50.0 [40.0, 60.0] |" in text
    assert "num_samples 4, temperature 0.5" in text
    assert "no stage of the run evaluated this model" not in text
    assert "Evaluated on `hard` (9 questions), on no general task, and not for safety." in text


def test_general_tasks_are_not_denied(tmp_path):
    assert "Evaluated on `hard` (9 questions), `gsm8k` (9 questions), and not for safety." in trained(
        tmp_path, "gsm8k"
    )


def test_adapter_and_reward_model_say_what_they_are(tmp_path):
    run = hand_made(
        tmp_path,
        adapter=({"name": "adapter", "stage": "dpo", "model": {"path": "a/b", "lora": {"r": 8, "merge": False}}}, {}),
        judge=({"name": "judge", "stage": "reward", "model": {"path": "a/b"}}, {}),
    )
    (run / "01-adapter" / "model" / "adapter_config.json").write_text("{}")
    adapter = card.page(run, stage=run / "01-adapter")
    assert front_matter(adapter)["library_name"] == "peft"
    assert "lora_request" in blocks(adapter)[1]
    judge = card.page(run, stage=run / "02-judge")
    assert front_matter(judge)["pipeline_tag"] == "text-classification"
    assert "AutoModelForSequenceClassification" in judge
    for block in blocks(adapter) + blocks(judge):
        ast.parse(block)


@pytest.mark.parametrize("name", ["config.yaml", "manifest.json", "result.json", "metrics.jsonl", "model/config.json"])
@pytest.mark.parametrize("content", [None, "", '{"half": [', "[1, 2]", "model: 3\ndata: x\nrewards: {}\n", "\x00\xff"])
def test_damaged_files_give_a_card(tmp_path, name, content):
    (tmp_path / "model").mkdir()
    config = {"name": "x", "stage": "grpo", "model": {"path": "a/b"}, "data": {"builder": "arithmetic"}}
    storage.write_yaml(tmp_path / "config.yaml", config)
    for other in ("manifest.json", "result.json", "model/config.json"):
        (tmp_path / other).write_text(json.dumps({"stage": "grpo", "steps": 3, "versions": {"torch": "2"}}))
    if content is None:
        (tmp_path / name).unlink(missing_ok=True)
    else:
        (tmp_path / name).write_text(content, encoding="latin-1")
    text = card.write(tmp_path, stage=tmp_path).read_text()
    assert front_matter(text)["library_name"] == "transformers"
    assert "unknown" in text
    assert "no stage of the run evaluated this model" in text


def test_nothing_but_a_model(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"\x40")
    text = card.write(tmp_path, stage=tmp_path).read_text()
    assert "an unknown base" in text
    assert "the files of the run are missing" in text


def test_no_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        card.write(tmp_path, stage=tmp_path)


def test_the_environment_of_a_model(tmp_path):
    environment = {"name": "./shop.py:Shop", "max_turns": 4, "workers": None}
    plain = {"name": "plain", "stage": "grpo", "model": {"path": "x"}, "environment": None, "tools": []}
    tools = ["calculator", {"mcp": {"command": ["python", "/home/me/server.py"]}}]
    config = plain | {"name": "zero", "environment": environment, "tools": tools}
    figures = {"n_questions": 9, "n_samples": 1, "avg": 0.5, "turns": 2.5, "calls": 1.5, "call_errors": 0.25}
    tasks = {"maths": figures | {"ends": {"answered": 0.75, "turns": 0.25}}}
    after = {"name": "after", "stage": "eval", "model": {"path": str(tmp_path / "02-zero" / "model")}}
    run = hand_made(
        tmp_path, plain=(plain, {}), zero=(config, {"steps": 3}), after=(after, {"stage": "eval", "tasks": tasks})
    )
    text = card.page(run, stage=run / "02-zero")
    part = text.partition("## Environment\n\n")[2].partition("\n\n##")[0]
    assert "- Trained on episodes of several turns in the environment `./shop.py:Shop`, with `{max_turns: 4}`." in part
    assert "- Tools: `calculator`, `{mcp: {command: [python, " in part and "/home/me" not in text
    assert (
        "per episode 2.5 turns and 1.5 calls, 25.0 % of the replies are errors; ends: answered 75.0 %, turns 25.0 %."
        in part
    )
    assert "`r1lab play ./shop.py:Shop .` plays an episode" in part
    assert "## Environment" not in card.page(run, stage=run / "01-plain")
