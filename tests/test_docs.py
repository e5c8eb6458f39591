"""The documentation against the program: its commands are accepted, and its links lead somewhere."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from r1lab import cli
from r1lab.errors import UserError
from r1lab.recipe import loading, yaml_source
from tests.pages import PAGES, ROOT, blocks, commands, in_sentences, named_files, write_files

OWN = ("own", "mine", "kk-zero", "my", "broken", "RECIPE", "RUN", "MODEL", "NAME")
"""How files and runs of the reader's own begin."""


@pytest.mark.parametrize("page", [page for page in PAGES if any(n.endswith(".yaml") for n in named_files(page))])
def test_a_recipe_of_the_documentation_loads(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in write_files(page, tmp_path):
        if name.endswith(".yaml"):
            loading.load([name], inputs=True)


STAGE = """
model: {path: embedded:tiny-qwen2}
data: {builder: knights_knaves, people: 2, size: 64}
prompt: {template: r1-zero}
"""
REWARDS = "rewards: [{name: accuracy}, {name: language_consistency, language: en}]\n"
KINDS = {
    "grpo": STAGE + REWARDS + "train: {max_steps: 1, per_device_train_batch_size: 8}",
    "sft": STAGE.replace("size: 64", "size: 64, solution: evaluation"),
    "sample": STAGE + REWARDS,
    "eval": STAGE + REWARDS,
}
"""A stage of each kind, for the parts of recipes that the pages show."""
FUNCTIONS = """
def score(completions, *, answer, tolerance=0, limit=0, **columns):
    return [0.0 for _ in completions]

def rows(*, split="train", size=8, seed=0, length=3):
    return [{"prompt": "a", "answer": "b"}] * size

def advantage(rewards):
    return rewards

def loss(*, ratios, advantages):
    return -ratios * advantages

close, brevity, build = score, score, rows
"""


def parts() -> list[tuple[str, str]]:
    """The parts of recipes that the pages show. In a block that repeats a key, each line is one."""
    found = []
    for page in PAGES:
        for language, block in blocks(page):
            if language == "yaml" and not block.startswith("# "):
                keys = re.findall(r"^(\w+):", block, re.M)
                found += [(page, part) for part in (block.splitlines() if len(set(keys)) < len(keys) else [block])]
    return found


@pytest.mark.parametrize(("page", "part"), parts())
def test_a_part_of_a_recipe_fits_into_a_recipe(page, part, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(FUNCTIONS)
    read = YAML(typ="safe").load(part)
    problems = []
    for kind, base in KINDS.items():
        stage = {"name": "part", "stage": kind} | YAML(typ="safe").load(base)
        if isinstance(read, list):
            stages = [stage, *({"model": stage["model"]} | other for other in read)]
        else:
            merging = {key: stage.get(key, {}) | read[key] for key in ("model", "rollout", "train") if key in read}
            stages = [{"name": "probe", "stage": "sample", "keep": "all"} | YAML(typ="safe").load(STAGE + REWARDS)]
            stages.append(stage | read | merging)
        YAML(typ="safe").dump({"stages": stages}, tmp_path / "part.yaml")
        try:
            loading.load(["part.yaml"])
            return
        except UserError as error:
            problems.append(f"{kind}: {error}")
    raise AssertionError("\n".join(problems))


def headings(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    titles = re.findall(r"^#+ +(.*)$", text, re.MULTILINE)
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title).lower() for title in titles]
    return {re.sub(r"[^\w\- ]", "", title).strip().replace(" ", "-") for title in plain}


def calls() -> list[tuple[str, str]]:
    """Each command of r1lab in a shell block, and in a sentence if it leaves nothing open, with its page."""
    blocks = [(page, command.line) for page in PAGES for command in commands(page)]
    found = [(page, line.partition(" > ")[0]) for page, line in blocks + in_sentences() if line.startswith("r1lab ")]
    return [(page, line) for page, line in found if "--help" not in line]


@pytest.mark.parametrize(("page", "line"), calls())
def test_a_command_of_the_documentation_is_accepted(page, line):
    arguments = cli.parse(shlex.split(line)[1:])
    assert arguments is not None
    if arguments.verb not in ("run", "check", "plan", "show", "cp"):
        return
    for source in [arguments.recipe] if arguments.verb == "cp" else arguments.sources:
        if not yaml_source.is_assignment(source) and not source.startswith(OWN) and not source.startswith("recipes/"):
            assert source in yaml_source.packaged_recipes(), f"{page}: {line}: no recipe {source}"
        if source.startswith("recipes/"):
            assert (ROOT / source).exists(), f"{page}: {line}"


@pytest.mark.parametrize("page", [page for page in PAGES if any(c.words[0] == "make" for c in commands(page))])
def test_the_targets_of_make_exist(page):
    for command in commands(page):
        if command.words[0] == "make":
            done = subprocess.run(["make", "-n", *command.words[1:]], cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0, f"{command.line}\n{done.stderr}"


def programs() -> list[tuple[str, str]]:
    """The commands that call a program of the checkout, with their comments, and their pages."""
    blocks = [(page, f"{command.line}  {command.comment}") for page in PAGES for command in commands(page)]
    return [(page, line) for page, line in blocks + in_sentences() if re.match(r"python (-m )?benchmarks", line)]


@pytest.mark.parametrize(("page", "line"), programs())
def test_a_program_of_the_documentation_exists_with_its_options(page, line):
    name = line.removeprefix("python ").removeprefix("-m ").split()[0]
    program = (ROOT / (name if name.endswith(".py") else name.replace(".", "/") + ".py")).read_text(encoding="utf-8")
    for option in set(re.findall(r"--\w[\w-]*", line)) - {"--help"}:
        assert f'"{option}"' in program, f"{page}: {line}: no {option}"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    file = ROOT / page
    text = re.sub(r"```.*?```", "", file.read_text(encoding="utf-8"), flags=re.S)
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text):
        target = target[0] or target[1]
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        place = (file.parent / path).resolve() if path else file
        if not place.exists():
            broken.append(target)
        elif anchor and place.suffix == ".md" and anchor not in headings(place):
            broken.append(target)
    assert broken == []
