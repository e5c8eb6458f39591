"""The figures of the Logic-RL study from run directories."""

import importlib.util
import json
from pathlib import Path

import pytest

from r1lab.data import knights_knaves
from r1lab.data.perturbed import knights_knaves_perturbed
from r1lab.errors import UserError
from r1lab.recipe import loading as recipes

ROOT = Path(__file__).parents[2]
PUZZLES = {"people": [3, 4], "size": 12}


@pytest.fixture(scope="module")
def study():
    spec = importlib.util.spec_from_file_location("logic_rl_study", ROOT / "benchmarks" / "logic_rl.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def eval_stage(folder, data, scores):
    """The folder of an evaluation of these puzzles with these scores."""
    (folder / "samples").mkdir(parents=True)
    config = {
        "name": folder.name,
        "stage": "eval",
        "model": {"path": "embedded:tiny-qwen2"},
        "data": data,
        "rewards": [{"name": "knights_knaves"}],
        "eval": {"size": PUZZLES["size"]},
    }
    (folder / "config.yaml").write_text(json.dumps(config))
    recipes.load([str(folder / "config.yaml")])
    questions = [{"prompt": prompt, "scores": scored} for prompt, scored in scores.items()]
    (folder / "samples" / "questions.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions))


def test_the_published_means_are_those_of_the_paper(study):
    published = [0.94, 0.42, 0.81, 0.37, 0.25, 0.08, 0.10, 0.14, 0.19, 0.89]
    for shares, mean in zip(study.PUBLISHED.values(), published, strict=True):
        assert len(shares) == 7 and abs(sum(shares) / 7 - mean) < 0.0051


def test_the_table_puts_measured_below_published(study, tmp_path):
    figures = {"n_questions": 100, "avg": 0.42, "ci95": [0.33, 0.52]}
    tasks = {f"{n}ppl": figures for n in range(2, 9)}
    for name, result in {
        "whole": {"stage": "eval", "tasks": tasks},
        "part": {
            "stage": "pipeline",
            "stages": {
                "base": {"stage": "eval", "tasks": {"3ppl": figures}},
                "grpo": {"stage": "grpo"},
            },
        },
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps(result))
    lines = study.table([str(tmp_path / "whole"), str(tmp_path / "part")]).splitlines()
    assert len(lines) == 2 + len(study.PUBLISHED) + 2
    assert lines[-2] == "| whole | " + "42 [33, 52] | " * 7 + "42.0 |"
    assert lines[-1] == "| part/base |  | 42 [33, 52] |  |  |  |  |  |  |"
    with pytest.raises(UserError, match="there is no result.json"):
        study.table([str(tmp_path)])


def test_memorization_pairs_each_twin_with_its_original(study, tmp_path):
    originals = knights_knaves(**PUZZLES, split="train")
    kind = {"kind": "leaf"}
    twins = knights_knaves_perturbed(**PUZZLES, **kind, split="train")
    assert 3 < len(twins) < len(originals)
    builder = "r1lab.data.perturbed.knights_knaves_perturbed"
    people = {"people": PUZZLES["people"], "split": "train"}
    # Every original is right; of the twins half the samples of the first, and none of the others.
    eval_stage(
        tmp_path / "01-seen", {"builder": "knights_knaves", **people}, {row["prompt"]: [1, 1] for row in originals}
    )
    scores = {row["prompt"]: [i == 0, 0] for i, row in enumerate(twins)}
    eval_stage(tmp_path / "02-seen-leaf", {"builder": builder, **kind, **people}, scores)
    *_, line = study.memorization(str(tmp_path)).splitlines()
    n = len(twins)
    assert line.startswith(f"| seen | leaf | {n} | 100.0 | {100 * 0.5 / n:.1f} | {100 * (1 - 0.5 / n):.1f} [")
    eval_stage(tmp_path / "03-other", {"builder": "knights_knaves", **people}, {"Another puzzle?": [1]})
    (tmp_path / "02-seen-leaf").rename(tmp_path / "04-other-leaf")
    with pytest.raises(UserError, match="none of its puzzles is the twin of a puzzle in"):
        study.memorization(str(tmp_path))


def test_reflection_shows_words_and_lengths_by_step(study, tmp_path):
    (tmp_path / "samples").mkdir()
    for step in (1, 2):
        record = {"completion": "Wait, " * step + "no", "right": step == 2}
        (tmp_path / "samples" / f"step_{step:06d}.jsonl").write_text(json.dumps(record) + "\n")
    assert study.words(str(tmp_path)).splitlines() == [
        "| step | wait | length right | length wrong |",
        "| --- | --- | --- | --- |",
        "| 1 | 1.00 |  | 2 |",
        "| 2 | 2.00 | 3 |  |",
    ]
