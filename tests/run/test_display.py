"""What is drawn from metrics: the panel, the lines of a log file, the closing tables and the curve."""

import importlib.util
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from r1lab.run import display, summary
from r1lab.run.display import MetricsHistory, StageDisplay, plain_line
from r1lab.rundir import directory, storage
from r1lab.text import sparkline

SPEC = importlib.util.spec_from_file_location("fake_stages", Path(__file__).parent / "fake_stages.py")
fake = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(fake)


def console(**settings):
    return Console(file=io.StringIO(), width=80, **settings)


def text(of):
    return of.file.getvalue()


def grpo_rows(tmp_path, count=None):
    fake.write_grpo(tmp_path, total=60, start=1000.0)
    return storage.read_jsonl(tmp_path / "metrics.jsonl")[:count]


def state(rows, *, kind="grpo", started=1000.0, now=1093.0):
    metrics = MetricsHistory(kind, started)
    metrics.add(rows)
    return metrics.state(doing="loading model, starting vLLM", now=now)


def test_before_the_first_step_it_says_what_it_does():
    assert state([]).doing == "loading model, starting vLLM"
    assert state([{"phase": "load", "time": 1001.0, "message": "filling the cache"}]).doing == "filling the cache"
    probe = [{"phase": "load", "time": 1001.0, "message": "step 1"}, {"phase": "parity", "step": 0, "time": 1002.0}]
    assert state(probe).doing == "step 1", "until the first step has been measured"
    assert state([]).position is None


def test_step_and_time_left(tmp_path):
    now = state(grpo_rows(tmp_path, 32))  # load, 20 steps, an evaluation, 10 steps
    assert (now.position, now.total, now.doing) == (30, 60, None)
    assert now.left == pytest.approx(30 * 3.1)
    assert [row["step"] for row in now.evals] == [20]


def test_a_resumed_run_counts_each_step_once_and_its_own_pace_only(tmp_path):
    old = grpo_rows(tmp_path, 32)
    new = [fake.grpo_row(step, 60, time=5000.0 + 10 * step) for step in range(26, 36)]
    now = state([*old, *new], started=5200.0, now=5350.0)
    assert now.position == 35 and len(now.history) == 35
    assert now.left == pytest.approx(25 * 10)
    assert state(old, started=5200.0, now=5201.0).doing == "loading model, starting vLLM"


@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["train", "eval"])), max_size=80))
def test_the_newest_row_of_each_step_counts_in_the_order_of_the_steps(given):
    rows = [
        {"phase": phase, "step": step, "time": 1001.0, "n": n, "tasks": {}} for n, (step, phase) in enumerate(given)
    ]
    metrics = MetricsHistory("grpo", 1000.0)
    for row in rows:
        metrics.add([row])
    for phase, kept in (("train", metrics.history), ("eval", metrics.evals)):
        newest = {row["step"]: row for row in rows if row["phase"] == phase}
        assert kept == [newest[step] for step in sorted(newest)]


def test_a_long_run_is_drawn_from_a_bounded_number_of_rows(tmp_path):
    class Row(dict):
        asked = 0

        def get(self, key, default=None):
            Row.asked += key == "length"
            return super().get(key, default)

    metrics = MetricsHistory("grpo", 1000.0)
    metrics.add([Row(fake.grpo_row(step, 50_000, time=1000.0 + step)) for step in range(1, 50_001)])
    Row.asked = 0
    assert display.metrics(metrics.state(doing="", now=60_000.0))
    assert Row.asked <= 1100


def test_the_panel_is_drawn_at_most_once_per_second(tmp_path, monkeypatch):
    rows, now, drawn = grpo_rows(tmp_path), [1000.0], []
    screen = console(force_terminal=True, legacy_windows=False, _environ={"TERM": "xterm"})
    panel = StageDisplay.panel
    monkeypatch.setattr(StageDisplay, "panel", lambda self: drawn.append(now[0]) or panel(self))
    with StageDisplay(screen, tmp_path, name="zero", kind="grpo", doing="loading", clock=lambda: now[0]) as it:
        for row in rows[:30]:
            storage.append_jsonl(tmp_path / "metrics.jsonl", row)
            now[0] += 0.25
            it.update()
    assert 7 <= len(drawn) <= 10


def test_evaluation_stages_count_questions():
    rows = [{"phase": "eval", "step": 0, "done": n, "total": 200, "time": 1000.0 + n} for n in (50, 100)]
    now = state(rows, kind="eval", now=1100.0)
    assert (now.position, now.total, now.left) == (100, 200, 100.0)
    assert state([*rows, rows[0] | {"time": 1120.0}], kind="eval").position == 50


def test_each_round_of_an_evaluation_is_named_because_it_counts_from_0_again():
    row = {"phase": "eval", "step": 0, "answers": "kk (greedy)", "done": 1, "total": 400, "time": 1000.0}
    line = plain_line("base", state([row], kind="eval"), 1001.0, 1000.0)
    assert line == "base    1/400  answering kk (greedy)"
    train = {"phase": "train", "step": 1, "total": 2, "time": 1000.0}
    assert state([train, row | {"time": 1001.0}]).doing == "evaluating kk (greedy), 1/400"


def test_the_time_left_of_a_round_follows_the_pace_of_that_round():
    rows = [
        {"phase": "eval", "step": 0, "answers": answers, "done": done, "total": 200, "time": time}
        for answers, done, time in [("a", 10, 10.0), ("a", 200, 2000.0), ("b", 50, 2050.0), ("b", 100, 2100.0)]
    ]
    assert state(rows, kind="eval", now=2100.0).left == 100.0


def test_the_time_of_what_a_stage_does_is_said_to_be_that_of_the_stage():
    load = {"phase": "load", "time": 1001.0, "message": "step 1, the first of this process"}
    line = plain_line("zero", state([load]), 1392.0, 1000.0)
    assert line == "zero  step 1, the first of this process (6m32s since the stage started)"


@pytest.mark.parametrize(
    "row", [{}, {"reward": None, "rewards": {"a": None}, "length": None}, {"loss": 1.0}, {"reward_errors": {"a": 2}}]
)
def test_figures_that_are_missing_do_not_matter(row, tmp_path):
    storage.append_jsonl(tmp_path / "metrics.jsonl", {"phase": "train", "step": 1, "total": 2, "time": 1001.0} | row)
    for terminal in (True, False):
        screen = console(force_terminal=terminal, color_system=None)
        with StageDisplay(screen, tmp_path, name="zero", kind="grpo", doing="loading", clock=lambda: 1000.0):
            pass
        assert "zero" in text(screen)


def test_the_panel_fits_80_columns_and_shows_what_matters(tmp_path):
    grpo_rows(tmp_path)
    screen = console()
    shown = StageDisplay(
        screen, tmp_path, name="zero", kind="grpo", doing="loading", place="stage 2 of 3", clock=lambda: 1100.0
    )
    shown.started = shown.metrics.started = 1000.0
    shown.metrics.add(grpo_rows(tmp_path, 47))
    screen.print(shown.panel())
    lines = text(screen).splitlines()
    assert max(map(len, lines)) <= 80
    for piece in ("zero · grpo · stage 2 of 3", "step 44/60", "left", "reward", "knights_knaves", "format",
                  "tokens", "% of groups", "3,457 tokens/s", "held out", "43.7 → 50.3 % [41.3, 59.3]"):  # fmt: skip
        assert piece in text(screen)
    assert not any(len(figure) > 12 for figure in lines[2].split()[2:3])


def test_a_log_file_gets_a_line_now_and_then(tmp_path):
    rows, now, screen = grpo_rows(tmp_path), [1000.0], console()
    (tmp_path / "metrics.jsonl").unlink()
    with StageDisplay(screen, tmp_path, name="zero", kind="grpo", doing="loading model", clock=lambda: now[0]) as it:
        for _ in range(320):  # 32 s of loading, ten looks a second
            now[0] += 0.1
            it.update()
        for row in rows:
            storage.append_jsonl(tmp_path / "metrics.jsonl", row | {"time": now[0]})
            for _ in range(31):
                now[0] += 0.1
                it.update()
    lines = text(screen).splitlines()
    assert lines[0] == f"zero  grpo: loading model; log in {tmp_path / 'log.txt'}"
    assert lines[1] == "zero  loading model (30s since the stage started)"
    assert 15 <= len(lines) <= 24
    assert "held out: knights_knaves 43.7 % [34.7, 52.7] (step 20)" in text(screen)
    assert lines[-1].startswith("zero  60/60  reward 0.816  knights_knaves 0.616  format 1.000  length 76")
    assert "\x1b" not in text(screen)


def test_a_terminal_gets_a_panel_that_goes_away(tmp_path):
    grpo_rows(tmp_path)
    screen = console(force_terminal=True, legacy_windows=False, _environ={"TERM": "xterm"})
    with StageDisplay(screen, tmp_path, name="zero", kind="grpo", doing="loading model"):
        pass
    assert "\x1b[2K" in text(screen) and "60/60" in text(screen)


@pytest.mark.parametrize("values", [[], [1.0], [2.0, 2.0, 2.0], [-1.0, 0.5, float(3)], list(range(1000))])
def test_sparklines_are_never_wider_than_asked(values):
    assert len(sparkline(values, 28)) <= 28


def pipeline_run(tmp_path):
    from r1lab.run import pipeline

    names = [("base", "eval"), ("zero", "grpo"), ("final", "eval")]
    stages = [
        pipeline.StageRun(name, tmp_path / f"{i:02d}-{name}", {"stage": kind})
        for i, (name, kind) in enumerate(names, 1)
    ]
    fake.write_eval(stages[0].path, 0.37)
    fake.write_grpo(stages[1].path)
    fake.write_eval(stages[2].path, 0.6, seed=1)
    result = pipeline.pipeline_result(tmp_path, stages, {})
    return [(stage.name, stage.kind, stage.path) for stage in stages], result


def test_the_end_of_a_pipeline_shows_before_and_after_completions_and_places(tmp_path):
    stages, result = pipeline_run(tmp_path)
    screen = console()
    summary.show(screen, tmp_path, stages, result)
    told = text(screen)
    assert max(len(line) for line in told.splitlines() if str(tmp_path) not in line) <= 80
    for piece in ("difference", "knights_knaves · 200 questions", "avg@4", "greedy", "pass@4", "+21.5 [+17.6, +25.4]",
                  "zero: completions at step 1 ", "zero: completions at step 60 ", "Bob is wrong",
                  "curve.png", "02-zero/model/"):  # fmt: skip
        assert piece in told
    assert told.count("<answer>") == 6
    assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG"


def test_the_end_of_single_stages(tmp_path):
    stages, _ = pipeline_run(tmp_path)
    for name, kind, path in stages:
        screen = console()
        summary.show(screen, path, [(name, kind, path)], directory.result(path))
        assert ("39.9 [34.9, 44.9]" in text(screen)) == (name == "base")
        assert ("0.618 → 0.859" in text(screen)) == (kind == "grpo")
        assert "difference" not in text(screen)
    (tmp_path / "sample").mkdir()
    storage.write_json_atomic(tmp_path / "sample" / "result.json", {"stage": "sample", "seconds": 2.0, "kept": 1200})
    screen = console()
    summary.show(screen, tmp_path / "sample", [("x", "sample", tmp_path / "sample")], {"seconds": 2.0})
    assert "1,200" in text(screen)


def test_a_finished_stage_is_told_in_a_line(tmp_path):
    stages, _ = pipeline_run(tmp_path)
    told = [summary.stage_line(*stage, directory.result(stage[2]), 187.0) for stage in stages]
    assert told[0] == "base  eval in 3m07s  knights_knaves 39.9 [34.9, 44.9] %, greedy 37.5"
    assert told[1] == "zero  grpo 60 steps in 3m07s  reward 0.62 → 0.86  length 83 → 76"
    kept = {"stage": "sample", "sampled": 4000, "kept": 1200}
    assert summary.stage_line("x", "sample", tmp_path, kept, 5) == "x  sample in 5s  1,200 of 4,000 samples kept"


def test_an_sft_curve_shows_the_loss(tmp_path):
    rows = [{"phase": "train", "step": n, "total": 40, "time": n, "loss": 2 / n} for n in range(1, 41)]
    storage.write_jsonl(tmp_path / "metrics.jsonl", rows)
    assert summary.curve(tmp_path, [("cold", "sft", tmp_path)], []) == tmp_path / "curve.png"
    (tmp_path / "metrics.jsonl").unlink()
    assert summary.curve(tmp_path, [("cold", "sft", tmp_path)], []) is None


def test_completions_are_the_first_ones_of_different_prompts(tmp_path):
    fake.write_samples(tmp_path, 7)
    [(step, rows)] = summary.completions(tmp_path)
    assert step == 7 and len({row["prompt"] for row in rows}) == 3
    assert summary.completions(tmp_path / "none") == []


def test_a_narrow_chat_prompt_is_shown_by_its_last_message(tmp_path):
    row = {"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "2 + 2?"}], "completion": "4"}
    storage.write_jsonl(tmp_path / "samples" / "step_000001.jsonl", [row | {"rewards": {"a": None}, "reward": None}])
    screen = console()
    summary.show_completions(screen, "zero", tmp_path)
    assert "> 2 + 2?" in text(screen) and "a -" in text(screen)
