import ast
import subprocess
import sys
import zipfile
from pathlib import Path
from shutil import copy, copytree, ignore_patterns

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {"r1lab": "r1lab", "rewards": "r1lab/rewards", "data": "r1lab/data", "recipes": "r1lab/recipes"}


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory):
    """The names in a wheel built from a copy of the checkout."""
    source = tmp_path_factory.mktemp("source")
    for folder in FOLDERS:
        copytree(ROOT / folder, source / folder, ignore=ignore_patterns("__pycache__", ".*"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        copy(ROOT / file, source)
    out = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--wheel-dir", out, source], check=True, timeout=120)
    (wheel,) = out.glob("r1lab-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_installs_one_top_level_name(wheel_names):
    assert {name.split("/")[0] for name in wheel_names if ".dist-info/" not in name} == {"r1lab"}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel_names)


def test_the_wheel_holds_all_code_recipes_and_embedded_models(wheel_names):
    wanted = set()
    for folder, inside in FOLDERS.items():
        for path in (ROOT / folder).rglob("*"):
            parts = path.relative_to(ROOT / folder).parts
            packaged = path.suffix in {".py", ".yaml", ".jsonl", ".css", ".js"} or parts[0] == "embedded"
            if path.is_file() and packaged and "__pycache__" not in parts:
                wanted.add("/".join([inside, *parts]))
    assert sorted(wanted - wheel_names) == [], "missing in pyproject.toml: packages or package-data"


def test_the_wheel_holds_no_tests_or_runs(wheel_names):
    assert [name for name in wheel_names if "tests/" in name or "runs/" in name or name.endswith(".pyc")] == []


@pytest.mark.parametrize("name", ["rewards", "data"])
def test_a_folder_answers_to_its_full_name_only(name):
    def python(line):
        done = subprocess.run([sys.executable, "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stderr

    status, error = python(f"import {name}")
    assert status == 1 and f"import r1lab.{name}, not {name}" in error
    assert python(f"import r1lab.{name}") == (0, "")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_pin_is_exact_and_given_once(device):
    lines = (ROOT / "requirements" / f"{device}.txt").read_text().splitlines()
    pins = [line.split(";")[0].strip() for line in lines if line and not line.startswith("#")]
    assert [pin for pin in pins if pin.count("==") != 1] == []
    names = [pin.split("==")[0].lower().replace("_", "-") for pin in pins]
    assert len(names) == len(set(names))
    assert {"torch", "transformers", "trl"} < set(names)


def test_the_pins_lie_within_the_ranges():
    import tomllib

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ranges = project["dependencies"] + project["optional-dependencies"]["dev"]
    for device in ("cpu", "cuda"):
        lines = (ROOT / "requirements" / f"{device}.txt").read_text().splitlines()
        pins = dict(line.split(";")[0].strip().lower().split("==") for line in lines if "==" in line)
        pins = {canonicalize_name(name): version for name, version in pins.items()}
        for requirement in map(Requirement, ranges):
            assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), (
                f"{device}: {requirement}"
            )


def test_every_package_that_is_imported_is_declared():
    import tomllib

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    stated = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    declared = {canonicalize_name(Requirement(line).name) for line in stated}
    # Where the name to import is another than the name to install.
    other = {"ruamel": "ruamel-yaml", "socksio": "httpx"}
    # In requirements/verifiers.txt: pip would not install versions that can be used next to r1lab's requirements.
    declared.add("verifiers")
    missing = {}
    for path in [path for folder in ("r1lab", "rewards", "data") for path in (ROOT / folder).rglob("*.py")]:
        for name in imported(ast.parse(path.read_text(encoding="utf-8"))):
            if name not in sys.stdlib_module_names and other.get(name, canonicalize_name(name)) not in declared | {
                "r1lab"
            }:
                missing.setdefault(name, path.relative_to(ROOT).as_posix())
    assert missing == {}, "missing in pyproject.toml: dependencies or optional-dependencies"


def imported(tree: ast.Module) -> set[str]:
    """The first part of every name that a file imports, by a statement, `import_module` or `find_spec`."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.append(node.module)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "find_spec")):
            names += [node.args[0].value] if isinstance(node.args[0], ast.Constant) else []
    return {name.partition(".")[0] for name in names}
