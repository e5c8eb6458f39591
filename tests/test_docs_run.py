"""The commands of the documentation run, page by page, in a folder like a reader's.

The comment of a command says what it needs or how long it takes, where a test cannot run it as it is (`pages.MARK`).
What is changed in the others makes them fast: `run` gets `--tiny`, an evaluation a few questions and transformers'
`generate`, `doctor` `--fast`, and both `run` and `eval` leave out the check, which has commands of its own. The
packaged recipes run in `tests/stages/test_every_recipe.py`; of these only the quickstart runs here, once, for all
pages that speak of the run of `make demo`.
"""

import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from r1lab import cli
from r1lab.recipe import loading, yaml_source
from tests import pages

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
DEMO = ("quickstart", "quickstart-tiny", "r1-tiny", "r1-seed1")
"""The names under which the pages have runs of pipelines: each is a copy of the quickstart here."""
READS = re.compile("r1lab (ls|show) ")
"""The commands in sentences that run here: those that only read."""
FASTER = {
    "run": ["--no-check", "--tiny"],
    "eval": ["--no-check", "--size", "4", "--samples", "1", "rollout.engine=transformers"],
    "doctor": ["--fast"],
}


def sources(words: list[str]) -> list[str]:
    return getattr(cli.parse(words), "sources", [])


def as_run(words: list[str]) -> list[str]:
    """The words of an r1lab command as they run here."""
    more = FASTER.get(words[0], [])
    if "--probe" in words:
        more = ["--tiny"]
    if words[0] == "run" and "--tiny" not in words and "--name" not in words:
        more = [*more, "--name", loading.load(sources(words)).name]
    if any(word.startswith("eval.budgets=") for word in words):  # below the length of a completion
        more = [*more, "rollout.max_completion_length=448"]
    return words + more


def runnable(page: str) -> list[pages.Command]:
    own = [command for command in pages.commands(page) if not command.mark or command.words[0] == "r1lab"]
    own += [pages.Command(page, line, "", "") for at, line in pages.in_sentences() if at == page and READS.match(line)]
    return [command for command in own if command.words[0] != "make" and "needs" not in command.mark]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The folder of the quickstart's run, scaled down."""
    runs = tmp_path_factory.mktemp("demo")
    assert cli.main(["run", "quickstart", "--tiny", "--no-check", "--name", "demo", "--runs-dir", str(runs)]) == 0
    return runs / "demo"


@pytest.mark.parametrize("page", [page for page in pages.PAGES if runnable(page)])
def test_the_commands_of_a_page(page, tmp_path, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("sys.stdin", io.StringIO())  # nobody types
    pages.write_files(page, tmp_path)
    checkout = {name: pages.ROOT / name for name in ("recipes", "benchmarks")}
    for name, folder in {".venv": sys.prefix, **checkout}.items():
        (tmp_path / name).symlink_to(folder)
    text = (pages.ROOT / page).read_text(encoding="utf-8")
    for name in DEMO:
        if f"runs/{name}" in text and any(name in command.line for command in runnable(page)):
            shutil.copytree(request.getfixturevalue("demo"), tmp_path / "runs" / name)
    path = f"{sys.prefix}/bin:{os.environ['PATH']}"
    packaged, have_run = yaml_source.packaged_recipes(), set()
    for command in runnable(page):
        words = command.words[1:]
        if command.words[0] != "r1lab":
            shell = ["bash", "-ec", command.line]
            done = subprocess.run(shell, env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=600)
            assert done.returncode == command.status, f"{command.line}\n{done.stdout}{done.stderr}"
        elif words[0] == "run" and (words[1] in packaged or (command.mark and words[1] in have_run)):
            loading.load(sources(words))
        else:
            statuses = {0, 3} if words[0] == "doctor" else {command.status}  # doctor judges the machine
            assert cli.main(as_run(words)) in statuses, command.line
            have_run |= set(words[1:2]) if words[0] == "run" else set()


@pytest.mark.parametrize(
    ("page", "body"),
    [(p, b) for p in pages.PAGES for kind, b in pages.blocks(p) if kind == "python" and p != "docs/api.md"],
)
def test_the_python_of_a_page_runs(page, body, tmp_path, monkeypatch, request):
    if pages.MARK.search(body.partition("\n")[0]):
        compile(body, page, "exec")
        return
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    pages.write_files(page, tmp_path)
    if "runs/quickstart" in body:
        shutil.copytree(request.getfixturevalue("demo"), Path("runs/quickstart"))
    exec(compile(body, page, "exec"), {"__name__": "page"})
    sys.modules.pop("mine", None)
