"""The command: what it prints, its exit status, and that bad input writes nothing."""

import errno
import os
import re
import subprocess
import sys
import time

import pytest

from r1lab import cli, listing, lookup
from r1lab.recipe import yaml_source
from r1lab.run import pipeline
from r1lab.rundir import directory, storage

GRPO = """\
stage: grpo
model: {path: some-org/some-model}
data: {builder: knights_knaves, people: 2, size: 40}
rewards: [{name: knights_knaves}]
train: {per_device_train_batch_size: 16}
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Every test stands in an empty folder, with a recipe r.yaml in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(GRPO)
    return tmp_path


@pytest.fixture
def ran(monkeypatch):
    """The calls of `pipeline.run`, which runs nothing here."""
    calls = []

    def run(recipe, **settings):
        calls.append((recipe, settings))
        return 1

    monkeypatch.setattr(pipeline, "run", run)
    return calls


def refused(capsys, *argv):
    """The lines of a command that is refused."""
    status = cli.main(list(argv))
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert "Traceback" not in err
    return err.splitlines()


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if "__pycache__" not in path.parts)


# Bad input: one line, exit 2, nothing written


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            "per_device_train_batch_size",
            "per_device_train_batch_sise",
            "r.yaml:5: train.per_device_train_batch_sise: unknown key (did you mean `per_device_train_batch_size`?)",
        ),
        ("size: 40", "size: many", "r.yaml:3: data.size: should be a whole number, not the text 'many'"),
        (
            "model: {path: some-org/some-model}\n",
            "",
            "r.yaml:1: model: missing: a stage of kind grpo needs it, as in `model: {path: embedded:tiny-qwen2}`",
        ),
        (
            "stage: grpo",
            "stage: grpo\nstage: sft",
            "r.yaml:2: stage: occurs twice (also in line 1): remove one of them",
        ),
        (
            "builder: knights_knaves, people: 2, size: 40",
            "path: none.jsonl",
            "r.yaml:3: data.path: none.jsonl: no such file or folder",
        ),
        (
            "name: knights_knaves",
            "name: knight_knaves",
            "r.yaml:4: rewards.0.name: knight_knaves: no such reward (did you mean `knights_knaves`?); "
            "`r1lab ls rewards` lists them, ./file.py:function names your own",
        ),
        (
            "builder: knights_knaves",
            "builder: knight_knaves",
            "r.yaml:3: data.builder: knight_knaves: no such builder (did you mean `knights_knaves`?); "
            "`r1lab ls data` lists them, ./file.py:function names your own",
        ),
        (
            "size: 16",
            "size: 20",
            "r.yaml:5: train.per_device_train_batch_size: 20 x 1 GPU x 1 step = 20 completions do not divide into "
            "groups of 8: set train.per_device_train_batch_size to 16 or 24, "
            "or rollout.num_generations to 4, 5 or 10",
        ),
        (
            "some-org/some-model",
            "./model",
            "r.yaml:2: model.path: {here}/model: it has no weights (*.safetensors): copy it again",
        ),
        (
            "builder: knights_knaves, people: 2, size: 40",
            "path: rows.jsonl",
            "r.yaml:3: data.path: rows.jsonl:2: this row has no `answer`, for the reward knights_knaves",
        ),
    ],
    ids=[
        "unknown key",
        "wrong type",
        "missing section",
        "duplicate key",
        "missing data file",
        "unknown reward",
        "unknown builder",
        "batch",
        "model without weights",
        "row without answer",
    ],
)
def test_bad_input_is_told_in_one_line_and_nothing_is_written(here, capsys, ran, old, new, line):
    (here / "model").mkdir()
    (here / "model" / "config.json").write_text("{}")
    (here / "rows.jsonl").write_text('{"prompt": "a", "answer": "b"}\n{"prompt": "a"}\n')
    assert GRPO.count(old) == 1
    (here / "r.yaml").write_text(GRPO.replace(old, new))
    before = files(here)
    assert refused(capsys, "run", "r.yaml") == [line.replace("{here}", str(here))]
    assert files(here) == before and not ran


def test_a_missing_recipe_is_told(here, capsys, ran):
    assert refused(capsys, "run", "none.yaml") == [
        "none.yaml: no such file or packaged recipe; `r1lab ls recipes` lists the recipes"
    ]
    assert files(here) == ["r.yaml"]


def test_a_used_run_directory_is_refused(here, capsys):
    used = here / "runs" / "r"
    used.mkdir(parents=True)
    (used / "config.yaml").write_text("stage: eval\n")
    before = files(here)
    (line,) = refused(capsys, "run", "r.yaml")
    assert line.startswith("runs/r: already has a run: ")
    assert all(option in line for option in ("--resume", "--overwrite", "--name"))
    assert files(here) == before


def test_a_name_that_is_no_folders_name_is_refused_before_anything_is_read(here, capsys, ran):
    (line,) = refused(capsys, "run", "no-such-recipe.yaml", "--name", "a/b")
    assert line.startswith("--name a/b: ")


def test_problems_of_the_values_and_the_files_are_told_at_once_after_those_of_types(here, capsys, ran):
    text = GRPO.replace("some-org/some-model", "./none").replace("size: 40", "siez: 40")
    (here / "r.yaml").write_text(text + "seed: x\n")
    assert [line.split(": ")[:2] for line in refused(capsys, "run", "r.yaml")] == [["r.yaml:6", "seed"]]
    (here / "r.yaml").write_text(text)
    assert [line.split(": ")[:2] for line in refused(capsys, "run", "r.yaml")] == [
        ["r.yaml:2", "model.path"],
        ["r.yaml:3", "data.siez"],
    ]


def test_the_command_itself_exits_with_2_and_debug_shows_the_traceback(here):
    command = [sys.executable, "-m", "r1lab", "run", "r.yaml", "seed=x"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "command line: seed: should be a whole number, not the text 'x'\n"
    done = subprocess.run([*command, "--debug"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("Traceback")
    assert files(here) == ["r.yaml"]


# Arguments


def test_sources_may_stand_around_options(ran):
    argv = [
        "run",
        "r.yaml",
        "--no-check",
        "--name",
        "one",
        "seed=3",
        "--resume",
        "train.beta=0.1",
        "--runs-dir",
        "elsewhere",
    ]
    assert cli.main(argv) == 1
    ((recipe, settings),) = ran
    assert (recipe.seed, recipe.train["beta"]) == (3, 0.1)
    assert settings.pop("recipe_text").startswith(GRPO)
    assert str(settings.pop("runs_dir")) == "elsewhere"
    assert settings == {"name": "one", "resume": True, "overwrite": False, "together": False}


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["run", "r.yaml", "--nme", "x"], "r1lab run: --nme: no such option (did you mean `--name`?)"),
        (["run", "r.yaml", "--seed=3"], "to set a value of the recipe, write seed=3 without dashes"),
        (["run"], "r1lab run: the following arguments are required: SOURCES; `r1lab run --help` shows"),
        (["rn", "r.yaml"], "r1lab: no such verb: rn (did you mean `run`?)"),
        (["ls", "recipe"], "r1lab ls: recipe: no such list (did you mean `recipes`?)"),
        (["cp", "a", "b", "c"], "r1lab cp: c: unexpected argument"),
        (["run", "r.yaml", "--runs-dir", "r.yaml"], "--runs-dir r.yaml: this is a file: give a folder"),
        (
            ["run", "seed=1"],
            "seed=1: no recipe given: write `r1lab run quickstart seed=1`",
        ),
    ],
)
def test_wrong_arguments_are_told_with_what_to_type(capsys, argv, line):
    (told,) = refused(capsys, *argv)
    assert line in told


def test_no_arguments_print_the_help(capsys):
    assert cli.main([]) == 2
    assert "run a recipe" in capsys.readouterr().err


# show, cp


def test_show_prints_a_recipe_that_loads_again(here, capsys):
    assert cli.main(["show", "r.yaml", "seed=4"]) == 0
    shown = capsys.readouterr().out
    assert "seed: 4\n" in shown and "temperature: 1.0" in shown
    (here / "again.yaml").write_text(shown)
    assert cli.main(["show", "again.yaml"]) == 0
    assert capsys.readouterr().out == shown


def test_show_imports_nothing_heavy():
    code = "import sys; from r1lab import cli; cli.main(['show', 'quickstart']); print('MODULES', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(done.stdout.rpartition("MODULES")[2].split())
    assert not {"torch", "transformers", "trl", "datasets", "vllm", "pandas"} & modules
    assert "r1lab.grading.phrases" not in modules, "its patterns take long to compile"


def test_show_into_a_pipe_that_closes_is_quiet():
    command = f"{sys.executable} -m r1lab show quickstart | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout.startswith("name: quickstart") and done.stderr == ""


def test_cp_copies_a_recipe_out_and_overwrites_nothing(here, capsys):
    original = yaml_source.packaged_recipes()["quickstart"].read_text()
    assert cli.main(["cp", "quickstart", "my.yaml"]) == 0
    assert (here / "my.yaml").read_text() == original
    assert "r1lab run my.yaml" in capsys.readouterr().out
    assert cli.main(["cp", "quickstart"]) == 0
    assert (here / "quickstart.yaml").read_text() == original
    capsys.readouterr()
    (here / "my.yaml").write_text("mine")
    assert refused(capsys, "cp", "quickstart", "my.yaml") == [
        "my.yaml: already exists and is not overwritten: give another file name"
    ]
    assert (here / "my.yaml").read_text() == "mine"
    assert "no such folder" in refused(capsys, "cp", "quickstart", "none/my.yaml")[0]
    assert "(did you mean `quickstart`?)" in refused(capsys, "cp", "quickstrt")[0]


# ls


def test_ls_lists_recipes_rewards_and_builders_with_a_line_each(capsys):
    assert cli.main(["ls"]) == 0
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line and not line.startswith(" ")] == list(listing.SECTIONS)
    assert cli.main(["ls", "recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(yaml_source.packaged_recipes()) + 1, "and a line that explains `--tiny`"
    words = [line.split() for line in lines]
    assert "open-r1/distil/llama-70b sft --tiny 32 x 141 GB R1's".split() in [line[:8] for line in words]
    assert "quickstart pipeline run here 2 CPU cores, 6 GiB, 7 to 12 minutes R1-Zero".split() in [
        w[:14] for w in words
    ]
    assert cli.main(["ls", "rewards"]) == 0
    assert any(line.startswith("knights_knaves  ") for line in capsys.readouterr().out.splitlines())


@pytest.mark.parametrize("section", ["rewards", "data", "environments"])
def test_ls_prints_the_reference_of_every_reward_builder_and_environment(section, capsys):
    for name in lookup.names(section):
        assert cli.main(["ls", section, name]) == 0
        out = capsys.readouterr().out
        function = lookup.function(section, name)
        assert out.startswith(f"{name}: ") and (function.__doc__ or "").splitlines()[0] in out
        listed = [line.split()[0] for line in out.splitlines() if line.startswith("  ") and "  " in line.strip()]
        assert set(lookup.parameters(function)) <= set(listed), name


def test_the_example_of_a_reference_is_a_recipe_section(capsys):
    assert cli.main(["ls", "data", "rows"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "data: {builder: rows, path: ...}"
    assert cli.main(["ls", "rewards", "length"]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == ["rewards:", "  - {name: length}"]


def test_ls_prints_the_keys_of_a_recipe(capsys):
    def printed(*name):
        assert cli.main(["ls", "keys", *name]) == 0
        return capsys.readouterr().out

    assert printed().startswith("sft ")
    assert "rollout" in printed("grpo")
    assert ["temperature", "1.0", "float"] in [line.split() for line in printed("grpo.rollout").splitlines()]
    (line,) = [line for line in printed("grpo.rollout").splitlines() if line.startswith("dynamic_sampling ")]
    assert line.endswith("DynamicSampling | None  keys: r1lab ls keys grpo.rollout.dynamic_sampling")
    for kind in ("sft", "grpo", "eval"):
        for name in re.findall(r"keys: r1lab ls keys (\S+)", printed(kind)):
            assert re.search(r"^\w+ +\S+ +\S+", printed(name), re.MULTILINE), "a row for each key"
            assert "Annotated" not in printed(name)
    assert "keys: r1lab ls keys grpo.train" in printed("grpo")
    assert "max_rounds" in printed("grpo.rollout.dynamic_sampling")
    assert printed("eval.seed") == "eval.seed: int, default: 0\n"
    train = printed("grpo.train")
    assert "share_prompts" in train and "learning_rate" in train
    assert "share_prompts" not in printed("sft.train")
    for kind in ("sft", "grpo", "dpo", "reward"):
        words = " ".join(printed(f"{kind}.train").split())
        assert "global_batch_size null int | None" in words and "of an update over all devices" in words


def test_ls_says_which_reference_there_is(capsys):
    assert "(did you mean `length`?)" in refused(capsys, "ls", "rewards", "lenght")[0]
    assert "write `r1lab ls keys grpo.rollout`" in refused(capsys, "ls", "keys", "rollout")[0]
    assert "(did you mean `rollout`?)" in refused(capsys, "ls", "keys", "grpo.rolout")[0]
    assert "has no keys of its own" in refused(capsys, "ls", "keys", "grpo.seed.value")[0]
    assert "`r1lab report runs/mine`" in refused(capsys, "ls", "runs", "mine")[0]


def test_ls_imports_nothing_heavy(here):
    make_run(here, "finished", result={"stage": "grpo", "steps": 7})
    code = "import sys; from r1lab import cli; cli.main(['ls']); print('MODULES', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(done.stdout.rpartition("MODULES")[2].split())
    assert "r1lab.rundir.directory" in modules, "the run was listed"
    assert not {"torch", "transformers", "trl", "datasets", "numpy", "pydantic", "r1lab.data"} & modules
    assert "ruamel.yaml" not in modules, "slow to import, and the files of a run are JSON"


@pytest.mark.parametrize("columns", [30, 80, 200])
def test_lines_fit_the_width_of_the_terminal(columns):
    lines = listing.page(["data"], runs_dir=None, width=columns).splitlines()
    assert all(len(line) <= columns for line in lines)
    assert any(line.endswith("…") for line in lines) == (columns == 30), "truncated where there is no room to wrap"
    assert any(line.startswith("    ") for line in lines) == (columns == 80), "wrapped below the row"


def make_run(here, name, *, result=None, rows=(), age=0):
    path = here / "runs" / name
    path.mkdir(parents=True)
    storage.write_yaml(path / "config.yaml", {"stage": "eval"})
    if rows:
        storage.write_jsonl(path / "metrics.jsonl", list(rows))
    if result:
        storage.write_json_atomic(path / "result.json", result)
    for file in [*path.iterdir(), path]:
        os.utime(file, (time.time() - age,) * 2)
    return path


def listed(capsys):
    assert cli.main(["ls", "runs"]) == 0
    return {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}


def test_ls_runs_tells_state_and_headline(here, capsys):
    assert cli.main(["ls", "runs"]) == 0
    assert capsys.readouterr().out == "none in runs/\n"
    compare = {"task": "kk", "metric": "avg", "before_value": 0.373, "after_value": 0.59, "diff": 0.217}
    make_run(here, "pipe", result={"stage": "pipeline", "compare": [compare | {"ci95": [0.15, 0.27]}]}, age=60)
    make_run(here, "scored", result={"stage": "eval", "tasks": {"kk": {"avg": 0.5, "ci95": [0.4, 0.6]}}}, age=50)
    train = {"phase": "train", "step": 7, "total": 60, "reward": 0.25}
    make_run(here, "trained", result={"stage": "grpo", "steps": 7}, rows=[train], age=40)
    make_run(here, "sampled", result={"stage": "sample", "sampled": 80, "kept": 31}, age=30)
    make_run(here, "broken", rows=[{"phase": "stage", "status": 1}], age=20)
    make_run(here, "stopped", rows=[{"phase": "stage", "status": 130}], age=10)
    make_run(here, "halfway", rows=[train])
    (here / "runs" / "no-run").mkdir()
    lines = listed(capsys)
    assert list(lines) == ["pipe", "scored", "trained", "sampled", "broken", "stopped", "halfway"]
    assert "finished" in lines["pipe"] and "kk 37.3 → 59.0 % (+21.7 [+15.0, +27.0])" in lines["pipe"]
    assert "kk 50.0 % [40.0, 60.0]" in lines["scored"]
    assert "7 steps, reward 0.25" in lines["trained"]
    assert "31 of 80 samples kept" in lines["sampled"]
    assert "failed" in lines["broken"] and "interrupted" in lines["stopped"]
    assert "unfinished" in lines["halfway"] and "7 of 60" in lines["halfway"]


def test_a_run_that_is_held_is_running_and_one_that_cannot_be_read_does_not_hide_the_others(here, capsys):
    path = make_run(here, "now")
    odd = make_run(here, "odd")
    (odd / "result.json").write_text("{torn")
    with directory.locked(path):
        lines = listed(capsys)
    assert "running" in lines["now"]
    assert "unreadable" in lines["odd"]


def test_the_stages_of_a_pipeline_tell_how_far_it_got(here, capsys):
    path = make_run(here, "pipe")
    stage = path / "02-zero"
    storage.append_jsonl(stage / "metrics.jsonl", {"phase": "train", "step": 3, "total": 60})
    assert "zero (2): 3 of 60" in listed(capsys)["pipe"]
    later = path / "03-after"
    later.mkdir()
    storage.write_yaml(later / "config.yaml", {"stage": "eval"})
    assert "zero (2): 3 of 60" in listed(capsys)["pipe"], "the third stage has a folder, but has not begun"
    storage.write_json_atomic(stage / "result.json", {"stage": "grpo", "steps": 60})
    assert listed(capsys)["pipe"].endswith("after (3)")


def test_a_report_does_not_change_the_time_of_a_run(here):
    path = make_run(here, "old", result={"stage": "grpo", "steps": 7}, age=86_400)
    ((_, _, when, _),) = listing.runs(here / "runs")
    (path / "report.html").write_text("new")
    assert listing.runs(here / "runs")[0][2] == when
    storage.append_jsonl(path / "metrics.jsonl", {"phase": "stage", "status": 0})
    assert listing.runs(here / "runs")[0][2] > when, "a record does"


def test_the_help_does_not_load_the_parts_it_does_not_need():
    code = "import sys; from r1lab import cli; cli.main([]); print('pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/some/file"), "/some/file: Permission denied\n"),
        (OSError(errno.ENOSPC, "No space left on device"), "r1lab: No space left on device\n"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), None),
    ],
)
def test_an_error_of_the_system_is_a_line_where_a_user_can_act_on_it(capsys, monkeypatch, error, line):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(pipeline, "run", fail)
    if line is None:
        with pytest.raises(ConnectionResetError):
            cli.main(["run", "r.yaml", "--no-check"])
    else:
        assert cli.main(["run", "r.yaml", "--no-check"]) == 1
        assert capsys.readouterr().err == line


# Completion in a shell


@pytest.mark.parametrize(
    ("line", "expected"), [("r1lab ru", "run"), ("r1lab run quicks", "quickstart"), ("r1lab check --pro", "--probe")]
)
def test_a_shell_completes_verbs_recipes_and_options(tmp_path, line, expected):
    found = tmp_path / "completions"
    environment = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_STDOUT_FILENAME": str(found), "_ARGCOMPLETE_IFS": "\n"}
    environment |= {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9", "COMP_KEY": "9"}
    done = subprocess.run(
        [sys.executable, "-m", "r1lab"], env=os.environ | environment, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert expected in [word.strip() for word in found.read_text().splitlines()]
