"""An evaluation that is killed and taken up again ends as one that was not."""

import json
import math

import pytest

from r1lab import engines
from r1lab.engines import transformers
from r1lab.evaluation.comparison import compare
from r1lab.recipe import loading
from r1lab.rundir import directory, storage
from r1lab.stages import eval as evaluation
from r1lab.stages.rows import eval_tasks

TEXT = """
stage: eval
name: e
model: {path: embedded:tiny-qwen2}
data: {builder: knights_knaves, people: [2, 3]}
prompt: {template: r1-zero}
rewards: [{name: knights_knaves, tasks: [knights_knaves]}, {name: exact_match, tasks: [arithmetic]}]
rollout: {engine: transformers, max_completion_length: 48}
eval: {tasks: [knights_knaves, {builder: arithmetic, size: 6}], size: 20, num_samples: 2}
"""

EPISODES = """
stage: eval
name: e
model: {path: embedded:tiny-qwen2}
environment: {name: number_guess, max_turns: 3, max_turn_length: 8, max_reply_length: 32}
prompt: {template: r1-zero}
rewards: [{name: environment}]
rollout: {max_completion_length: 24}
eval: {tasks: [{builder: number_guess, numbers: 16}], size: 6, num_samples: 2}
"""


class Killed(BaseException):
    pass


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    """The recipe, in chunks of three questions."""
    (tmp_path / "e.yaml").write_text(TEXT, encoding="utf-8")
    monkeypatch.setattr(transformers, "BATCH", 6)
    monkeypatch.setattr(evaluation, "CHUNK", 6)
    return loading.load([str(tmp_path / "e.yaml")])


def test_it_ends_the_same_wherever_it_is_killed(loaded, tmp_path, monkeypatch):
    assert evaluation.run(loaded, tmp_path / "whole") == 0
    whole = [storage.read_jsonl(tmp_path / "whole" / "samples" / "questions.jsonl")]
    whole.append(directory.result(tmp_path / "whole")["tasks"])
    assert len(whole[0]) == 26 and not (tmp_path / "whole" / "samples" / "partial.jsonl").exists()
    plain, calls = storage.append_jsonl, 0

    def append(path, row):
        nonlocal calls
        plain(path, row)
        if path.name == "partial.jsonl":
            calls += 1
            if calls in (1, 5, 11, 12, 19, 23):  # within chunks, and where one ends
                with path.open("a") as file:
                    file.write('{"half": ')
                raise Killed

    monkeypatch.setattr(storage, "append_jsonl", append)
    killed = 0
    while True:
        try:
            assert evaluation.run(loaded, tmp_path / "killed") == 0
            break
        except Killed:
            killed += 1
    assert killed == 6
    again = [storage.read_jsonl(tmp_path / "killed" / "samples" / "questions.jsonl")]
    again.append(directory.result(tmp_path / "killed")["tasks"])
    assert json.dumps(again) == json.dumps(whole)


@pytest.mark.slow
def test_an_evaluation_with_budgets_ends_the_same_wherever_it_is_killed(tmp_path, monkeypatch, killed_after):
    text = TEXT[: TEXT.index("eval:")].replace("max_completion_length: 48", "max_completion_length: 160")
    text += "eval: {size: 4, num_samples: 2, greedy: false, budgets: [32, 0, 100], forcing: {extend: 1, wait: But}}\n"
    text = text.replace(", {name: exact_match, tasks: [arithmetic]}", "")
    (tmp_path / "e.yaml").write_text(text, encoding="utf-8")
    loaded = loading.load([str(tmp_path / "e.yaml")])
    monkeypatch.setattr(transformers, "BATCH", 4)
    monkeypatch.setattr(evaluation, "CHUNK", 4)
    assert evaluation.run(loaded, tmp_path / "whole") == 0
    whole = storage.read_jsonl(tmp_path / "whole" / "samples" / "questions.jsonl")
    for is_last in (lambda row: "scores" in row and row["index"] == 2, lambda row: "budgets" in row):
        with killed_after(is_last):
            evaluation.run(loaded, tmp_path / "killed")
    assert evaluation.run(loaded, tmp_path / "killed") == 0
    assert storage.read_jsonl(tmp_path / "killed" / "samples" / "questions.jsonl") == whole
    assert all("groups" not in row and len(row["budgets"]) == 3 for row in whole)
    curve = directory.result(tmp_path / "whole")["tasks"]["knights_knaves"]["budgets"]
    assert [point["budget"] for point in curve] == [0, 32, 100, None]
    assert curve[0]["stopped"] == 1 and "thinks_on" in curve[0]
    texts = [text for row in whole for text in row["budgets"][1]["completions"] if text]
    assert texts and all("</think> <answer>" in text for text in texts)
    settings = json.loads((tmp_path / "whole" / "evaluation.json").read_text())
    assert settings["budgets"]["close"] == " </think> <answer>"
    compared = {row["metric"] for row in compare("a", "b", {"a": tmp_path / "whole", "b": tmp_path / "killed"})}
    assert {"avg", "budget 0", "budget 32", "budget 100"} <= compared


@pytest.mark.parametrize("engine", ["transformers", pytest.param("vllm", marks=pytest.mark.slow)])
def test_an_evaluation_of_episodes_ends_with_the_same_bytes_wherever_it_is_killed(
    tmp_path, monkeypatch, killed_after, engine
):
    if engine == "vllm":
        pytest.importorskip("vllm")
    (tmp_path / "e.yaml").write_text(EPISODES, encoding="utf-8")
    recipe = loading.load([str(tmp_path / "e.yaml"), f"rollout.engine={engine}"])
    ready = evaluation.load_engine(recipe)
    monkeypatch.setattr(evaluation, "load_engine", lambda *_: ready)
    monkeypatch.setattr(evaluation, "CHUNK", 4)
    assert evaluation.run(recipe, tmp_path / "whole") == 0
    for is_last in (lambda row: "scores" in row, lambda row: "scores" in row, lambda row: "greedy" in row):
        with killed_after(is_last):
            evaluation.run(recipe, tmp_path / "killed")
    rows = storage.read_jsonl(tmp_path / "killed" / "samples" / "partial.jsonl")
    assert 0 < len(rows) < 12 and {"greedy", "scores"} <= {key for row in rows for key in row}
    assert evaluation.run(recipe, tmp_path / "killed") == 0
    whole, killed = (tmp_path / name / "samples" / "questions.jsonl" for name in ("whole", "killed"))
    assert whole.read_bytes() == killed.read_bytes()
    turns = [len(episode["turns"]) for row in storage.read_jsonl(whole) for episode in row["episodes"]]
    assert len(turns) == 12 and max(turns) > 1
    assert directory.result(tmp_path / "whole")["tasks"] == directory.result(tmp_path / "killed")["tasks"]


def test_the_same_seed_gives_the_same_records_and_another_others(loaded, tmp_path):
    engine = engines.load("embedded:tiny-qwen2", engine="transformers")
    tasks = evaluation.prepare(eval_tasks(loaded), loaded, engine.tokenizer, tmp_path)

    def completions(seed):
        _, records = evaluation.evaluate(engine, tasks, loaded, tmp_path, seed=seed)
        return [record["completions"] for record in records]

    first = completions(0)
    assert completions(0) == first
    assert completions(1) != first


def test_evaluations_of_the_same_training_look_at_gold_answers_once(loaded, tmp_path, monkeypatch):
    engine = engines.load("embedded:tiny-qwen2", engine="transformers")
    looked, rows = [], eval_tasks(loaded)["knights_knaves"][:2]
    monkeypatch.setattr(evaluation, "report_gold", lambda *_: looked.append(1))
    tasks = evaluation.prepare({"knights_knaves": rows}, loaded, engine.tokenizer, tmp_path)
    for _ in range(2):
        evaluation.evaluate(engine, tasks, loaded, tmp_path)
    assert len(looked) == 1


def test_progress_counts_all_questions_of_a_task(loaded, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "SECONDS", math.inf)  # a slow machine has smaller chunks
    engine = engines.load("embedded:tiny-qwen2", engine="transformers")
    told = []
    rows = {"knights_knaves": eval_tasks(loaded)["knights_knaves"]}
    tasks = evaluation.prepare(rows, loaded, engine.tokenizer, tmp_path)
    evaluation.evaluate(engine, tasks, loaded, tmp_path, progress=lambda *x: told.append(x))
    sampled, greedy = told[:7], told[7:]
    assert [done for _, done, _, _ in sampled] == [3, 6, 9, 12, 15, 18, 20]
    assert [done for _, done, _, _ in greedy] == [6, 12, 18, 20]
    assert {total for _, _, total, _ in told} == {20}
    for kind, part in (("sampled", sampled), ("greedy", greedy)):
        assert {answers for answers, *_ in part} == {f"knights_knaves ({kind})"}
        assert sorted(part, key=lambda x: x[3]) == part


def test_it_begins_again_where_another_model_lies_in_the_folder_by_now(loaded, tmp_path, monkeypatch):
    plain, calls = storage.append_jsonl, 0

    def append(path, row):
        nonlocal calls
        plain(path, row)
        calls += path.name == "partial.jsonl"
        if path.name == "partial.jsonl" and calls == 4:
            raise Killed

    monkeypatch.setattr(storage, "append_jsonl", append)
    with pytest.raises(Killed):
        evaluation.run(loaded, tmp_path)
    said = json.loads((tmp_path / "evaluation.json").read_text())
    storage.write_json_atomic(
        tmp_path / "evaluation.json",
        said | {"model": said["model"] | {"fingerprint": "sha256:0", "path": "/elsewhere"}},
    )
    assert evaluation.run(loaded, tmp_path) == 0
    told = [row["message"] for row in storage.read_jsonl(tmp_path / "metrics.jsonl") if row["phase"] == "note"]
    assert "restarted from the first question: model changed since the interruption" in told
    assert json.loads((tmp_path / "evaluation.json").read_text()) == said
    # A folder that was only moved is no other model.
    storage.write_json_atomic(tmp_path / "evaluation.json", said | {"model": said["model"] | {"path": "/elsewhere"}})
    assert evaluation._changed(tmp_path / "evaluation.json", said) == ""


def test_another_gold_answer_begins_the_evaluation_again(tmp_path, monkeypatch, killed_after):
    rows = [{"prompt": f"{i} + 1?", "answer": str(i + 1)} for i in range(6)]
    storage.write_jsonl(tmp_path / "mine.jsonl", rows)
    text = (
        TEXT[: TEXT.index("data:")]
        + "prompt: {template: r1-zero}\nrewards: [{name: exact_match}]\nrollout: {engine: transformers}\n"
    )
    text += f"eval: {{tasks: [{{name: mine, builder: rows, path: {tmp_path}/mine.jsonl}}], num_samples: 2}}\n"
    (tmp_path / "e.yaml").write_text(text, encoding="utf-8")
    loaded = loading.load([str(tmp_path / "e.yaml")])
    monkeypatch.setattr(transformers, "BATCH", 6)
    monkeypatch.setattr(evaluation, "CHUNK", 6)
    with killed_after(lambda row: row["index"] == 3):
        evaluation.run(loaded, tmp_path / "run")
    storage.write_jsonl(tmp_path / "mine.jsonl", [row | {"answer": "0"} for row in rows])
    assert evaluation.run(loaded, tmp_path / "run") == 0
    questions = storage.read_jsonl(tmp_path / "run" / "samples" / "questions.jsonl")
    assert [question["answer"] for question in questions] == ["0"] * 6


def test_tasks_of_one_builder_keep_their_parts_apart(tmp_path):
    tasks = ("{name: easy, builder: knights_knaves, people: {2: 1, 3: 1}, size: 6}",
             "{name: hard, builder: knights_knaves, people: {3: 1, 4: 1}, size: 4}")  # fmt: skip
    text = TEXT[: TEXT.index("eval:")].replace("data: {builder: knights_knaves, people: [2, 3]}\n", "")
    text += f"eval: {{tasks: [{', '.join(tasks)}], num_samples: 1, greedy: false}}\n"
    (tmp_path / "e.yaml").write_text(text, encoding="utf-8")
    assert evaluation.run(loading.load([str(tmp_path / "e.yaml")]), tmp_path / "run") == 0
    found = {name: scores["n_questions"] for name, scores in directory.result(tmp_path / "run")["tasks"].items()}
    assert found == {"easy": 6, "easy/2ppl": 3, "easy/3ppl": 3, "hard": 4, "hard/3ppl": 2, "hard/4ppl": 2}
