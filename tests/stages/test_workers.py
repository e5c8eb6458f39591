"""Evaluations and sample stages by several workers end as by one, whoever was killed in between."""

import json
import os
import time
import zlib
from pathlib import Path

import pytest

from r1lab import engines
from r1lab.engines import Completion
from r1lab.errors import UserError
from r1lab.recipe import loading
from r1lab.rundir import directory, storage
from r1lab.stages import eval as evaluation
from r1lab.stages import parts, sample

EVAL = """
stage: eval
name: e
model: {path: embedded:tiny-qwen2}
prompt: {template: r1-zero}
rewards: [{name: exact_match}]
rollout: {engine: transformers, max_completion_length: 48}
eval:
  tasks: [{name: a, builder: arithmetic}, {name: b, builder: arithmetic, seed: 7, size: 7}]
  size: 20
  num_samples: 2
"""
SAMPLE = """
stage: sample
name: s
model: {path: embedded:tiny-qwen2}
data: {builder: arithmetic, size: 20}
prompt: {template: r1-zero}
rewards: [{name: exact_match}]
rollout: {engine: transformers, num_generations: 2, max_completion_length: 32}
keep: all
"""


class Killed(BaseException):
    """Ends a worker where a SIGKILL would: nothing catches it."""


class Numbers:
    """An engine whose answers depend on the seed of a chunk, as those of transformers do."""

    notes = ()

    def __init__(self):
        self.made: list[tuple[str, int]] = []

    def together(self, n):
        return 6 // n

    def stream(self, prompts, sampling, *, done=frozenset()):
        size = self.together(sampling.n)
        for first in range(0, len(prompts), size):
            for i in range(first, min(first + size, len(prompts))):
                if i not in done:
                    self.made.append((f"{sampling.seed} {sampling.n}", i))
                    seed = engines.seed_of(sampling.seed, first)
                    texts = [f"<answer>{zlib.crc32(f'{seed} {prompts[i]} {k}'.encode()) % 9}</answer>"
                             for k in range(sampling.n)]  # fmt: skip
                    yield i, [Completion(text, [1] * (1 + i % 3), False) for text in texts]


@pytest.fixture
def engine(monkeypatch):
    found = Numbers()
    for stage in (evaluation, sample):
        monkeypatch.setattr(stage, "load_engine", lambda *_, **__: found)
        monkeypatch.setattr(stage, "load_tokenizer", lambda *_: None)
        monkeypatch.setattr(stage, "engine_prompts", lambda rows, *_: ([r["prompt"] for r in rows], [""] * len(rows)))
    monkeypatch.setattr(evaluation, "CHUNK", 4)
    monkeypatch.setattr(evaluation, "settings_of", lambda *_: {"model": {"path": "m"}, "seed": 0})
    monkeypatch.setattr(sample, "_origins", lambda recipe, run_dir, rows, texts: [str(text) for text in texts])
    return found


@pytest.fixture
def as_worker(monkeypatch):
    """Makes this process worker `rank` of `of`. The first one runs the others while it waits for them."""

    def become(rank, of):
        for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", of), ("LOCAL_WORLD_SIZE", of)):
            monkeypatch.setenv(name, str(value))
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    return become


@pytest.fixture
def run(as_worker, monkeypatch):
    """Runs a stage with a number of workers in this process: the others run when the first one waits for them."""
    asleep = time.sleep

    def run(recipe, run_dir, of, killed=None):
        stage = evaluation if recipe.stage == "eval" else sample
        others = iter(range(1, of))

        def sleep(seconds):
            if seconds != parts.POLL:
                return asleep(seconds)
            rank = next(others)  # StopIteration: everything is written, and the first one still waits
            as_worker(rank, of)
            assert stage.run(recipe, run_dir) == 0
            as_worker(0, of)

        plain, written = storage.append_jsonl, 0

        def append(path, row):
            nonlocal written
            plain(path, row)
            written += path.name.startswith("partial")
            if written == killed:
                with path.open("a") as file:
                    file.write('{"half": ')
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(time, "sleep", sleep)
            patch.setattr(storage, "append_jsonl", append)
            as_worker(0, of)
            assert stage.run(recipe, run_dir) == 0

    return run


def recipe_of(text, folder):
    (folder / "r.yaml").write_text(text, encoding="utf-8")
    return loading.load([str(folder / "r.yaml")])


def outcome(run_dir: Path) -> tuple[bytes, dict]:
    """All that has to be the same: the records byte by byte, and the result without its time."""
    (records,) = [(run_dir / "samples" / f"{n}.jsonl") for n in ("questions", "samples")
                  if (run_dir / "samples" / f"{n}.jsonl").exists()]  # fmt: skip
    assert not directory.partial_files(run_dir)
    result = directory.finished_result(run_dir)
    del result["seconds"]
    return records.read_bytes(), result


@pytest.mark.parametrize("text", [EVAL, SAMPLE], ids=["eval", "sample"])
def test_any_number_of_workers_has_the_same_records_and_figures(tmp_path, engine, run, text):
    recipe = recipe_of(text, tmp_path)
    run(recipe, tmp_path / "1", 1)
    once = sorted(engine.made)
    for of in (2, 3, 5):
        engine.made.clear()
        run(recipe, tmp_path / str(of), of)
        assert outcome(tmp_path / str(of)) == outcome(tmp_path / "1")
        assert sorted(engine.made) == once  # nobody generated what another worker did
        rows = [row for row in storage.read_jsonl(tmp_path / str(of) / "metrics.jsonl") if "done" in row]
        assert rows[-1]["done"] == rows[-1]["total"]
        assert sorted(beat.stem for beat in (tmp_path / str(of) / "ranks").glob("*.beat")) == [
            str(r) for r in range(of)
        ]


@pytest.mark.parametrize("text", [EVAL, SAMPLE], ids=["eval", "sample"])
def test_another_number_of_workers_resumes_what_was_killed(tmp_path, engine, run, text):
    recipe = recipe_of(text, tmp_path)
    run(recipe, tmp_path / "whole", 1)
    once = sorted(engine.made)
    for killed in (1, 6, 13, 17):  # in the first worker, or in one of the others
        engine.made.clear()
        run_dir = tmp_path / f"killed-{killed}"
        for of, after in ((3, killed), (2, 2), (1, 1), (4, None)):
            if after:
                with pytest.raises(Killed):
                    run(recipe, run_dir, of, killed=after)
                assert directory.partial_files(run_dir) and not (run_dir / "result.json").exists()
            else:
                run(recipe, run_dir, of)
        assert outcome(run_dir) == outcome(tmp_path / "whole")
        assert sorted(set(engine.made)) == once


def test_a_worker_waits_until_the_first_one_has_dropped_records_of_other_settings(tmp_path, as_worker, monkeypatch):
    stale = tmp_path / "samples" / "partial.1.jsonl"
    storage.append_jsonl(stale, {"task": "a", "index": 0, "scores": [1]})
    now = {"model": {"path": "m"}, "seed": 1}
    storage.write_json_atomic(tmp_path / "evaluation.json", now | {"seed": 0})
    waited = []

    def first_worker(seconds):
        waited.append(stale.exists())
        as_worker(0, 2)
        evaluation._agree(now, tmp_path)
        as_worker(1, 2)

    monkeypatch.setattr(time, "sleep", first_worker)
    as_worker(1, 2)
    evaluation._agree(now, tmp_path)
    assert waited == [True] and not stale.exists()
    assert json.loads((tmp_path / "evaluation.json").read_text()) == now
    evaluation._agree(now, tmp_path)
    assert waited == [True]  # nothing to wait for


@pytest.mark.parametrize(
    "given, count, rank, own",
    [(None, 1, 0, "0"), (None, 1, 3, "3"), (None, 2, 1, "2,3"), ("4,5,6,7", 2, 1, "6,7"),
     ("GPU-a,GPU-b", 1, 1, "GPU-b"), ("", 1, 1, ""), ("-1", 1, 1, "-1")],
)  # fmt: skip
def test_a_worker_sees_only_its_own_devices(monkeypatch, as_worker, given, count, rank, own):
    as_worker(rank, 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given) if given is not None else monkeypatch.delenv(
        "CUDA_VISIBLE_DEVICES"
    )
    parts.own_devices(count)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == own


def test_too_few_devices_are_one_line(monkeypatch, as_worker):
    as_worker(2, 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(UserError, match=r"^launch.gpus: rank 2 needs 1 of the GPUs in CUDA_VISIBLE_DEVICES=0,1"):
        parts.own_devices()


def test_an_only_process_keeps_all_devices(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    parts.own_devices()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"


def test_the_modules_of_the_stages_import_no_torch_before_the_devices_are_chosen():
    import subprocess
    import sys

    code = "import sys, r1lab.stages.eval, r1lab.stages.sample; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
