"""Reads and merges the sources of a recipe, YAML 1.2 files and `key=value` settings, and records where each key is.

Later sources override earlier ones: maps are merged, lists are replaced. `stages` is a list of named stages. A map of
stages, or a key such as `stages.zero.train.max_steps`, refers to them by name.
"""

import copy
import io
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from r1lab.errors import UserError
from r1lab.lookup import folder
from r1lab.text import did_you_mean, did_you_mean_path

if TYPE_CHECKING:
    from ruamel.yaml.constructor import SafeConstructor

COMMAND_LINE = "command line"
MAX_VALUES = 100_000
"""Maximum number of values in a recipe; values that anchors repeat count each time."""

_SUFFIXES = (".yaml", ".yml")
_STANDARD = "tag:yaml.org,2002:"
_PLAIN = ("map", "seq", "str", "int", "float", "bool", "null", "timestamp")
_ASSIGNMENT = re.compile(r"[A-Za-z_][\w.-]*=")

Scalar = str | int | float | None
Keys = tuple[Scalar, ...]
"""Keys of maps and indices of lists that lead to a value. A key may be any scalar, such as a step of a schedule."""


@dataclass
class Document:
    """Plain data, and where each of its keys was written.

    Attributes:
        data: A map of maps, lists and scalars.
        places: For the keys that lead to a value, `file:line` or `command line`.
        shown: For keys whose value was copied from elsewhere in the document, the keys under which it was written.
        problems: Problems of the text, such as a key that occurs twice.
        depth: The number of keys that were typed with dots. They select the place of the value that is set.
    """

    data: dict
    places: dict[Keys, str] = field(default_factory=dict)
    shown: dict[Keys, Keys] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    depth: int = 0

    def origin(self, keys: Keys) -> Keys:
        """The keys under which a value was written."""
        for length in range(len(keys), 0, -1):
            if keys[:length] in self.shown:
                return self.origin(self.shown[keys[:length]] + keys[length:])
        return keys

    def problem(self, keys: Keys, message: str) -> str:
        """A line for the user, `file:line: key: message`, with the place of the nearest key that was written."""
        keys = self.origin(keys)
        nearest = next((keys[:n] for n in range(len(keys), -1, -1) if keys[:n] in self.places), None)
        place = "" if nearest is None else f"{self.places[nearest]}: "
        return f"{place}{self.label(keys)}: {message}" if keys else f"{place}{message}"

    def label(self, keys: Keys) -> str:
        """Keys as they are typed on the command line: `stages.zero.train.max_steps`, `rewards.0.weight`."""
        labels = [str(key) for key in keys]
        if len(keys) > 1 and keys[0] == "stages" and isinstance(keys[1], int):
            stages = self.data.get("stages")
            stage = stages[keys[1]] if isinstance(stages, list) and keys[1] < len(stages) else None
            if isinstance(stage, dict) and isinstance(stage.get("name"), str):
                labels[1] = stage["name"]
        return ".".join(labels)


def is_assignment(source: str) -> bool:
    """Whether an argument of the command line is `key=value` and not a file.

    >>> is_assignment("train.max_steps=10"), is_assignment("recipes/quickstart.yaml")
    (True, False)
    """
    return bool(_ASSIGNMENT.match(source)) and not os.path.isfile(source)  # isfile: False if too long for a file name


def find(source: str) -> Path:
    """The file of a recipe: a path, or the name of a packaged recipe, with or without `recipes/` and `.yaml`.

    Raises:
        UserError: There is neither.
    """
    path = Path(source)
    if path.is_file():
        return path
    if path.is_dir():
        raise UserError(f"{source}: this is a folder: give a YAML file, for a run {path / 'config.yaml'}")
    name = source.removeprefix("recipes/").removesuffix(".yaml")
    packaged = folder("recipes") / f"{name}.yaml"
    if not Path(name).is_absolute() and ".." not in Path(name).parts and packaged.is_file():
        return packaged
    own = did_you_mean_path(source, lambda file: file.suffix in _SUFFIXES)
    ours = did_you_mean(name, packaged_recipes())
    hint = own or ours if path.suffix in _SUFFIXES else ours or own
    raise UserError(f"{source}: no such file or packaged recipe{hint}; `r1lab ls recipes` lists the recipes")


def packaged_recipes() -> dict[str, Path]:
    """The packaged recipes by name, sorted, such as `quickstart` and `tiny/qwen2-base`."""
    root = folder("recipes")
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in sorted(root.rglob("*.yaml"))}


def read(sources: list[str], change: Callable[[dict], dict] | None = None) -> Document:
    """The merged document of all sources, with all problems of their text.

    Args:
        sources: Files, names of packaged recipes, and `key=value` settings.
        change: Changes the data of the files, before `key=value` settings are merged over it.

    Raises:
        UserError: None of the sources can be read.
    """
    merged, problems = Document({}), []
    if change:
        sources = sorted(sources, key=is_assignment)
    for source in sources:
        if change and is_assignment(source):
            merged.data, change = change(merged.data), None
        try:
            document = parse_assignment(source) if is_assignment(source) else parse_file(find(source))
        except UserError as error:
            problems += error.problems
            continue
        problems += document.problems
        merge(merged, document, problems)
    if problems and not merged.data:
        raise UserError(problems)
    if change:
        merged.data = change(merged.data)
    merged.problems = problems
    return merged


def parse_file(path: Path) -> Document:
    """Reads a YAML file. Values that begin with `./` or `../` are relative to it and become absolute, as `~/` does.

    Raises:
        UserError: It cannot be read, or is not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    shown = path.relative_to(Path.cwd()) if path.is_absolute() and path.is_relative_to(Path.cwd()) else path
    return parse(text, str(shown), base_dir=path.parent)


def parse_assignment(text: str) -> Document:
    """Reads `key=value` from the command line; the key is dotted, the value is YAML.

    >>> parse_assignment("train.max_steps=10").data
    {'train': {'max_steps': 10}}
    """
    dotted, _, text = text.partition("=")
    if text.startswith("@"):  # a reference: YAML needs quotes around it, which a shell removes
        text = json.dumps(text)
    value, below = _value(text, COMMAND_LINE, base_dir=Path("."), label=dotted)
    first, *rest = keys = tuple(dotted.split("."))
    for key in reversed(rest):
        value = {key: value}
    places: dict[Keys, str] = {keys[:length]: COMMAND_LINE for length in range(len(keys) + 1)}
    places |= {keys + tail: COMMAND_LINE for tail in below.places}
    return Document({first: value}, places, problems=below.problems, depth=len(keys))


def parse(text: str, name: str, *, base_dir: Path) -> Document:
    """Reads YAML 1.2 text with a map; a key that occurs twice in a map is a problem.

    Args:
        text: The text.
        name: The file's name, for places.
        base_dir: The folder to which values that begin with `./` or `../` are relative.

    Raises:
        UserError: The text is not YAML, or not a map.
    """
    data, document = _value(text, name, base_dir=base_dir)
    if not isinstance(data, dict):
        what = f"{name}: not a recipe: the file should be a map of keys, as in `stage: grpo`"
        raise UserError([*document.problems, what])
    document.data = data
    return document


def _value(text: str, name: str, *, base_dir: Path, label: str = "") -> tuple[object, Document]:
    """The value of a YAML text, and a document with the places of everything below it, and with its problems.

    `label` is the key of the value, if the text is from the command line.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    yaml = YAML(typ="safe", pure=True)
    start = f"{COMMAND_LINE}: {label}" if name == COMMAND_LINE else name
    try:
        node = yaml.compose(io.StringIO(text))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{start}:{mark.line + 1}" if mark and name != COMMAND_LINE else start
        hint = '; put it in quotes: "@stage/model"' if "'@'" in str(error.problem) else ""
        raise UserError(f"{place}: not YAML: {error.problem or error.context}{hint}") from error
    except YAMLError as error:
        raise UserError(f"{start}: not YAML: {' '.join(str(error).split())}") from error
    except (RecursionError, ValueError) as error:  # ruamel raises ValueError for some invalid characters
        raise UserError(f"{start}: cannot be read as YAML: {_reason(error)}") from error
    value, document = None, Document({})
    if node is not None:
        try:
            value = _Reader(document, yaml.constructor, name, base_dir, start).value(node, ())
        except RecursionError as error:
            raise UserError(f"{start}: cannot be read as YAML: {_reason(error)}") from error
        document.places.setdefault((), name if name == COMMAND_LINE else f"{name}:1")
    return value, document


def _reason(error: Exception) -> str:
    return "its lists or maps are nested too deeply" if isinstance(error, RecursionError) else str(error)


@dataclass
class _Reader:
    """Turns the nodes of a YAML text into plain data and records the place of each key.

    Attributes:
        document: Gets the places and problems.
        constructor: ruamel's constructor of scalars.
        name: The file's name, for places.
        base_dir: The folder of relative paths.
        start: The start of a message without a line.
        around: The identities of the nodes around the current one, because an anchor may contain itself.
        count: The number of values read so far, including those that anchors repeat.
    """

    document: Document
    constructor: "SafeConstructor"
    name: str
    base_dir: Path
    start: str
    around: set[int] = field(default_factory=set)
    count: int = 0

    def value(self, node, keys: Keys) -> object:
        self._check(node)
        if node.id == "scalar":
            return self._scalar(node)
        if id(node) in self.around:
            raise self._error(node, "this anchor contains itself: write the value out")
        self.around.add(id(node))
        try:
            return self._map(node, keys) if node.id == "mapping" else self._list(node, keys)
        finally:
            self.around.remove(id(node))

    def _check(self, node) -> None:
        """Refuses tags that are not plain data, and anchors that multiply each other without limit."""
        self.count += 1
        if self.count > MAX_VALUES:
            raise self._error(node, f"more than {MAX_VALUES:,} values: check for anchors that repeat each other")
        tag = node.tag or ""
        if tag.removeprefix(_STANDARD) not in _PLAIN or not tag.startswith(_STANDARD):
            shown = f"!!{tag.removeprefix(_STANDARD)}" if tag.startswith(_STANDARD) else tag
            raise self._error(node, f"the tag {shown} is not plain data: remove it and write the value itself")

    def _error(self, node, what: str) -> UserError:
        return UserError(f"{self.start if self.name == COMMAND_LINE else self._place(node)}: {what}")

    def _list(self, node, keys: Keys) -> list:
        items = []
        for index, item in enumerate(node.value):
            self.document.places[(*keys, index)] = self._place(item)
            items.append(self.value(item, (*keys, index)))
        return items

    def _scalar(self, node) -> Scalar:
        if node.tag == f"{_STANDARD}timestamp":  # YAML 1.2 has no dates
            return node.value
        try:
            value = self.constructor.construct_object(node)
        except (ValueError, KeyError, IndexError) as error:  # such as `!!int many`, or `!!int` without a value
            kind = node.tag.removeprefix(_STANDARD)
            raise self._error(node, f"{node.value[:40]!r} cannot be read as {kind}") from error
        if isinstance(value, str) and value.startswith("~/") and "\n" not in value:
            return os.path.expanduser(value)
        if isinstance(value, str) and value.startswith(("./", "../")) and "\n" not in value:
            return str((self.base_dir / value).resolve())
        return value

    def _map(self, node, keys: Keys) -> dict:
        data, lines = {}, {}
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # of YAML 1.1
                what = "`<<` is not YAML 1.2: write the keys out; `*NAME` alone repeats a whole section"
                self.document.problems.append(f"{self._place(key_node)}: {what}")
                continue
            self._check(key_node)
            if key_node.id != "scalar":
                raise self._error(key_node, "a key should be text or a number, not a list or a map")
            key = self._scalar(key_node)
            below = (*keys, key)
            if key in data:
                first = f" (also in line {lines[key]})" if self.name != COMMAND_LINE else ""
                twice = f"occurs twice{first}: remove one of them"
                place = self._place(key_node)
                self.document.problems.append(f"{place}: {'.'.join(map(str, below))}: {twice}")
                continue
            lines[key] = key_node.start_mark.line + 1
            self.document.places[below] = self._place(key_node)
            data[key] = self.value(value_node, below)
        return data

    def _place(self, node) -> str:
        return self.name if self.name == COMMAND_LINE else f"{self.name}:{node.start_mark.line + 1}"


def merge(base: Document, new: Document, problems: list[str]) -> None:
    """Merges a document into another one, in place: maps are merged, everything else is replaced."""
    if () in new.places:
        base.places.setdefault((), new.places[()])
    _merge_map(base, base.data, (), new, new.data, (), problems)


def _merge_map(base: Document, into: dict, at: Keys, new: Document, data: dict, keys: Keys, problems: list[str]):
    for key, value in data.items():
        source = (*keys, key)
        key = _same_key(into, key)
        target = (*at, key)
        old = into.get(key)
        addressed = len(source) < new.depth  # the value only selects a place in the old one
        if isinstance(old, list) and isinstance(value, dict) and (addressed or target == ("stages",)):
            _merge_list(base, old, target, new, value, source, problems)
        elif isinstance(old, dict) and isinstance(value, dict) and (value or addressed):
            _merge_map(base, old, target, new, value, source, problems)
        elif addressed and old is not None:
            what = f"is {old!r} in the recipe and has no keys below it: set the whole value"
            problems.append(new.problem(source, what))
        else:
            into[key] = value
            _move_places(base, target, new, source)


def _merge_list(base: Document, old: list, at: Keys, new: Document, value: dict, keys: Keys, problems: list[str]):
    """Merges a map into a list: its keys are names of stages, or indices from 0."""
    named = {item.get("name"): i for i, item in enumerate(old) if isinstance(item, dict)} if at == ("stages",) else {}
    for key, item in value.items():
        index = named.get(key, int(key) if str(key).isdigit() else None)
        if index is None or index >= len(old):
            what = "no such stage" if at == ("stages",) else f"no such item: this list has {len(old)} (the first is 0)"
            hint = did_you_mean(key, named, otherwise=f"; available: {', '.join(map(str, named))}" if named else "")
            problems.append(new.problem((*keys, key), f"{what}{hint}"))
        elif isinstance(old[index], dict) and isinstance(item, dict):
            if at == ("stages",) and new.depth > len(keys) + 2:
                _copy_shared(base, old[index], (*at, index), item)
            _merge_map(base, old[index], (*at, index), new, item, (*keys, key), problems)
        else:
            old[index] = item
            _move_places(base, (*at, index), new, (*keys, key))


def _copy_shared(base: Document, stage: dict, at: Keys, item: dict) -> None:
    """Gives a stage its own copy of a shared section before one key of it is set, so that the other keys stay."""
    for section in item:
        shared = base.data.get(section)
        if section not in stage and isinstance(shared, (dict, list)):
            stage[section] = copy.deepcopy(shared)
            _move_places(base, (*at, section), base, (section,))


def _same_key(into: dict, key: Scalar) -> Scalar:
    """The key of a map that the command line means: `people.2` may mean the number 2."""
    number = int(key) if isinstance(key, str) and key.isdigit() else None
    return number if key not in into and number in into else key


def _move_places(base: Document, target: Keys, new: Document, source: Keys) -> None:
    """Moves the places of a value that replaces another one."""
    for keys in [keys for keys in base.places if keys[: len(target)] == target]:
        del base.places[keys]
    for keys, place in list(new.places.items()):
        if keys[: len(source)] == source:
            base.places[target + keys[len(source) :]] = place
