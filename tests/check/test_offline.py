"""Without a network a pipeline has one line about it, not one for each stage."""

from r1lab.check import check, look


def test_a_hub_that_cannot_be_reached_is_one_line_for_all_stages(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    look.hub_reachable.cache_clear()
    lines = [line for line in check.lines(["eval/greedy", "stages=[{name: a, stage: eval}, {name: b, stage: eval}]",
                                           "compare=[[a, b]]"]) if "the Hub cannot be reached" in line]  # fmt: skip
    look.hub_reachable.cache_clear()
    assert len(lines) == 1 and "could not be checked: check again online" in lines[0]


def test_local_tasks_are_checked_without_those_of_the_hub(found, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    look.hub_reachable.cache_clear()
    lines = found({
        "stage": "eval", "model": {"path": "embedded:tiny-qwen2"}, "rewards": [{"name": "accuracy"}],
        "eval": {"tasks": ["arithmetic", "gsm8k"]},
    })  # fmt: skip
    look.hub_reachable.cache_clear()
    assert [line for line in lines if line.startswith("error")] == []
    assert any("200 rows checked; tasks: arithmetic" in line for line in lines), lines
    (line,) = [line for line in lines if "the Hub cannot be reached" in line]
    assert "r.yaml:1: eval.tasks: openai/gsm8k: the Hub cannot be reached, so these rows were not checked" in line


def test_a_typing_error_in_a_folder_keeps_its_hint_among_several_stages(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "first-policy").mkdir(parents=True)
    look.hub_reachable.cache_clear()
    stages = "stages=[{name: a, stage: eval}, {name: b, stage: eval}]"
    lines = check.lines(["eval/greedy", stages, "compare=[[a, b]]", "model.path=models/first-polcy"])
    look.hub_reachable.cache_clear()
    assert any("(did you mean `models/first-policy`?)" in line for line in lines), lines


def test_a_word_that_may_be_a_mistyped_file_keeps_its_hint(found, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "mydata.jsonl").write_text('{"prompt": "1 + 1", "answer": "2"}\n')
    look.hub_reachable.cache_clear()
    tasks = [{"name": name, "builder": "rows", "path": name} for name in ("mydta", "gsm8k")]
    settings = {"stage": "eval", "model": {"path": "embedded:tiny-qwen2"}, "rewards": [{"name": "accuracy"}]}
    lines = [line for line in found(settings | {"eval": {"tasks": tasks}}) if "the Hub cannot be reached" in line]
    look.hub_reachable.cache_clear()
    why = "the Hub cannot be reached, so these rows were not checked: check again online"
    assert [line.partition("eval.tasks: ")[2] for line in lines] == [
        f"mydta: {why} (did you mean `mydata.jsonl`?)",
        f"gsm8k: {why}",
    ]
