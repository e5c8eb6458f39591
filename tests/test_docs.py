"""The documentation against the program: its commands are accepted, and its links lead somewhere."""

import json
import re
import shlex
from pathlib import Path

import pytest

from r1lab import cli
from r1lab.recipe import loading, yaml_source

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md"))]
OWN = ("own", "mine", "kk-zero", "my", "broken", "RECIPE", "RUN", "MODEL", "NAME")
"""How files and runs of the reader's own begin."""


def commands() -> list[tuple[str, str]]:
    """Each line of a shell block that calls r1lab, with its page."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```(?:bash|console|sh|)\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S):
            for line in block.replace("\\\n", " ").splitlines():
                if called := re.match(r"\s*(?:\$ )?(?:\S*/bin/)?r1lab( .*)", line):
                    found.append((page, called[1].strip()))
    return found


def named_files(page: str) -> dict[str, str]:
    """The files that a page shows: blocks whose first line is a comment with their name."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return dict(re.findall(r"```\w*\n# (\S+\.(?:py|yaml|jinja))\n(.*?)```", text, re.S))


@pytest.mark.parametrize("page", [page for page in PAGES if any(n.endswith(".yaml") for n in named_files(page))])
def test_a_recipe_of_the_documentation_loads(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = named_files(page)
    for name, body in files.items():
        (tmp_path / name).write_text(body, encoding="utf-8")
    rows = ({"question": f"{i} + {i}?", "final": str(2 * i)} for i in range(64))
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in files:
        if name.endswith(".yaml"):
            loading.load([name], inputs=True)


def headings(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    titles = re.findall(r"^#+ +(.*)$", text, re.MULTILINE)
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title).lower() for title in titles]
    return {re.sub(r"[^\w\- ]", "", title).strip().replace(" ", "-") for title in plain}


@pytest.mark.parametrize(("page", "line"), commands())
def test_a_command_of_the_documentation_is_accepted(page, line):
    words = shlex.split(line, comments=True)
    words = [word for word in words[: next((i for i, w in enumerate(words) if w in "|>&&;"), None)] if word != "..."]
    arguments = cli.parse(words)
    assert arguments is not None
    if arguments.verb not in ("run", "check", "plan", "show", "cp"):
        return
    for source in [arguments.recipe] if arguments.verb == "cp" else arguments.sources:
        if not yaml_source.is_assignment(source) and not source.startswith(OWN) and not source.startswith("recipes/"):
            assert source in yaml_source.packaged_recipes(), f"{page}: {line}: no recipe {source}"
        if source.startswith("recipes/"):
            assert (ROOT / source).exists(), f"{page}: {line}"


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
