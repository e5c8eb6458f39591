"""From the name of a reward or builder in a recipe to its function, and the facts that are known without importing it.

A name is one of r1lab's own (`knights_knaves`), a dotted path (`my_package.rewards.brevity`), or a file and a function
(`./rewards.py:brevity`). Under `rewards:` the name `knights_knaves` is `r1lab.rewards.knights_knaves_reward`, under
`data:` the builder `r1lab.data.knights_knaves`. An environment is a class: `number_guess` is
`r1lab.environments.NumberGuess`, and `./env.py:Shop` the class Shop of a file; `openenv:URL` is one of another
library (`ADAPTERS`).
"""

import ast
import importlib
import importlib.util
import inspect
import re
import sys
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from r1lab.errors import UserError
from r1lab.text import did_you_mean, did_you_mean_path

KINDS = {"rewards": "reward", "data": "builder", "environments": "environment"}
ADAPTERS = {
    "openenv": "pip install 'r1lab[openenv]'",
    "verifiers": "pip install --no-deps -r requirements/verifiers.txt (docs/environments.md, Of other libraries)",
}
"""Modules of `r1lab.environments` for those of other libraries, as in `openenv:http://localhost:8000`; and the command
that installs what each needs."""
_SUFFIX = {"rewards": "_reward", "data": ""}
_SIGNATURE = r'(?:\((?:.|\n(?=[ )]))*?)?:\n    r?"""(.*)'
"""The rest of a function's or class's signature, in one line or several, and the first line of its docstring."""


def function(kind: str, name: str, base_dir: str | Path | None = None) -> Callable:
    """The function that a name refers to.

    Args:
        kind: A name in `KINDS`. An environment is a class, the others are functions.
        name: r1lab's own name, a dotted path, or `file.py:function`.
        base_dir: The folder that a relative file is relative to. Default: the current directory.

    Raises:
        UserError: There is no such function, or its module cannot be imported. The message does not say where the name
            was written, because only the caller knows.

    >>> function("data", "knights_knaves").__name__
    'knights_knaves'
    """
    library, _, address = name.partition(":")
    if kind == "environments" and library in ADAPTERS:
        return adapter(library).environment(address)
    if "." in name:
        return external(name, base_dir, kind)
    if name not in names(kind):
        raise UserError(_unknown(kind, name))
    return _callable(name, importlib.import_module(f"r1lab.{kind}"), _attribute(kind, name), kind)


def adapter(library: str) -> ModuleType:
    """The module for the environments of another library, a name in `ADAPTERS`.

    Raises:
        UserError: What it needs is not installed.
    """
    _importable(Path.cwd())
    try:
        return importlib.import_module(f"r1lab.environments.{library}")
    except ImportError as error:
        raise UserError(f"{library}: {error}: {ADAPTERS[library]}") from error


def external(name: str, base_dir: str | Path | None = None, kind: str = "") -> Callable:
    """The function of a user's file (`./mine.py:function`) or package (`package.module.function`). See `function`."""
    if name.endswith(".py"):
        what, example = ("class", "Shop") if kind == "environments" else ("function", "score")
        raise UserError(f"{name}: names no {what}: write it as {name}:{example}")
    if ".py:" in name:
        file, _, attribute = name.rpartition(":")
        module = _load_file((Path(base_dir or ".") / Path(file).expanduser()).resolve())
        return _callable(name, module, attribute, kind)
    path, _, attribute = name.rpartition(".")
    return _callable(name, _import(path, name), attribute, kind)


def _callable(name: str, module: ModuleType, attribute: str, kind: str) -> Callable:
    what, fits = ("class", inspect.isclass) if kind == "environments" else ("function", callable)
    found: Any = getattr(module, attribute, None)
    if not fits(found):
        wanted = inspect.isclass if kind == "environments" else inspect.isfunction
        have = [key for key, value in vars(module).items() if wanted(value) and not key.startswith("_")]
        raise UserError(f"{name}: {module.__file__} has no {what} {attribute}{did_you_mean(attribute, have)}")
    return found


def _attribute(kind: str, name: str) -> str:
    """The name in Python of one of r1lab's own, by the name that recipes use."""
    if kind == "environments":
        return "".join(part.capitalize() for part in name.split("_"))
    return name + _SUFFIX[kind]


def names(kind: str) -> list[str]:
    """r1lab's own rewards, builders or environments, by the names that recipes use, sorted.

    >>> "knights_knaves" in names("data")
    True
    """
    exported = _exported(kind)
    if kind == "environments":  # each is in a module of its name
        return sorted(file.stem for name, file in exported.items() if name == _attribute(kind, file.stem))
    suffix = _SUFFIX[kind]
    return sorted(name.removesuffix(suffix) for name in exported if name.endswith(suffix))


def summaries(kind: str) -> dict[str, str]:
    """The first line of each function's docstring, by name, read from the source without importing it.

    The text is searched, because parsing all of the modules would take longer than the rest of `r1lab ls`.
    """
    exported, lines = _exported(kind), {}
    for name in names(kind):
        attribute = _attribute(kind, name)
        source = exported[attribute].read_text(encoding="utf-8")
        found = re.search(rf"^(?:def|class) {attribute}{_SIGNATURE}", source, re.MULTILINE)
        lines[name] = found[1].removesuffix('"""') if found else ""
    return lines


def parameters(function: Callable) -> dict[str, inspect.Parameter]:
    """The parameters that a recipe may set: those of a builder or class, or those of a reward that have a default.

    A reward's parameters without a default are the completions and the columns of the data that it needs.

    >>> "people" in parameters(function("data", "knights_knaves"))
    True
    """
    return {name: parameter for name, parameter in _named(function).items() if not _is_column(function, parameter)}


def columns(function: Callable) -> list[str]:
    """The columns of the data that a reward requires: its parameters without a default that no grader provides."""
    provided = ("completions", "prompts", "completion_ids", "groups", "right", "episode", "turns")
    required = [name for name, parameter in _named(function).items() if _is_column(function, parameter)]
    return [name for name in required if name not in provided]


def needs_episodes(function: Callable) -> bool:
    """Whether a reward requires episodes of several turns."""
    named = _named(function)
    return any(key in named and named[key].default is inspect.Parameter.empty for key in ("episode", "turns"))


def folder(kind: str) -> Path:
    """The folder of rewards, builders (`data`), environments or packaged recipes: next to the package, or in it."""
    package = Path(__file__).parent
    outside = package.parent / kind
    return outside if (package.parent / "pyproject.toml").is_file() and outside.is_dir() else package / kind


def _named(function: Callable) -> dict[str, inspect.Parameter]:
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {n: p for n, p in inspect.signature(function).parameters.items() if p.kind not in variadic}


def _is_column(function: Callable, parameter: inspect.Parameter) -> bool:
    """Whether a parameter is filled from the rows: rewards take `completions` first, builders take settings only."""
    named = _named(function)
    return "completions" in named and (parameter.default is parameter.empty or parameter.name == "completions")


def _unknown(kind: str, name: str) -> str:
    what, have, own = KINDS[kind], names(kind), "Class" if kind == "environments" else "function"
    hint = did_you_mean(name, have, otherwise=f"; there are: {', '.join(have)}")
    return f"{name}: no such {what}{hint}; `r1lab ls {kind}` lists them, ./file.py:{own} names your own"


@cache
def _exported(kind: str) -> dict[str, Path]:
    """The names in `__all__` of `r1lab.rewards`, `r1lab.data` or `r1lab.environments`, each with its file."""
    init = folder(kind) / "__init__.py"
    offered, files = [], {}
    for node in ast.parse(init.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(f"r1lab.{kind}."):
            parts = node.module.split(".")[2:]
            file = folder(kind).joinpath(*parts).with_suffix(".py")
            files |= {alias.asname or alias.name: file for alias in node.names}
        elif isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            offered = ast.literal_eval(node.value)
    return {name: files[name] for name in offered if name in files}


def _import(path: str, name: str) -> ModuleType:
    _importable(Path.cwd())
    try:
        return importlib.import_module(path)
    except ImportError as error:
        raise UserError(f"{name}: cannot import {path}: {error}") from error


def _importable(folder: Path) -> None:
    """Lets a user's code import from its own folder; last in the path, so that no file there shadows a library."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _load_file(path: Path) -> ModuleType:
    """A user's file as a module, loaded once."""
    module_name = f"r1lab_user_file_{path.stem}_{zlib.crc32(str(path).encode()):x}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    if not path.is_file():
        hint = did_you_mean_path(path, lambda file: file.suffix == ".py")
        raise UserError(f"{path}: no such file{hint}")
    _importable(path.parent)
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None  # true for every file that ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a user's file may raise anything; the cause is kept for --debug
        del sys.modules[module_name]
        raise UserError(f"{path}: does not load: {type(error).__name__}: {error}") from error
    return module


def reward_names(given: list[str]) -> list[str]:
    """The names of rewards in results and schedules; the second one of the same name is NAME_2.

    >>> reward_names(["format", "./mine.py:score", "format"])
    ['format', 'score', 'format_2']
    """
    names: list[str] = []
    for name in given:
        plain = unused = name.rpartition(":")[2].rpartition(".")[2].removesuffix("_reward")
        count = 1
        while unused in names:
            count += 1
            unused = f"{plain}_{count}"
        names.append(unused)
    return names
