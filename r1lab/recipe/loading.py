"""Loads recipes from YAML files and `key=value` settings, and reports all problems at once.

A recipe is one stage (`stage: grpo`, or another of `schema.STAGES`) or a pipeline (`stages:`, a list of named stages).
The keys of `train` are TRL's own. The sections in `SHARED` at the top of a pipeline apply to each stage that supports
the section and does not have its own. Sections are shared as a whole and never merged. Values that begin with `./` or
`../` are paths relative to the file that they are in; other paths are relative to the current directory.
"""

import copy
import io
import logging
import re
from pathlib import Path

from pydantic import ValidationError

from r1lab.errors import UserError
from r1lab.recipe import checks, references, yaml_source
from r1lab.recipe.acting import filled
from r1lab.recipe.idle import effective, without_idle
from r1lab.recipe.schema import STAGES, Pipeline, Recipe, StageRecipe, find_kinds, trains
from r1lab.recipe.tiny import scaled_down
from r1lab.recipe.values import one_level_down, validation_problems
from r1lab.recipe.yaml_source import Document, Keys, Scalar
from r1lab.text import did_you_mean

logger = logging.getLogger(__name__)

SHARED = ("model", "data", "prompt", "environment", "tools", "rewards", "rollout", "eval", "launch")
"""Sections that the stages of a pipeline may share."""

EXAMPLES = {
    "model": "model: {path: embedded:tiny-qwen2}",
    "data": "data: {builder: knights_knaves, people: [3, 4, 5], size: 4000}",
    "rewards": "rewards: [{name: knights_knaves}]",
}
_STAGE_NAME = re.compile(r"[a-z0-9_-]+")


def load(
    sources: list[str], *, check: bool = True, inputs: bool = False, tiny: bool = False, quiet: bool = False
) -> Recipe:
    """The recipe of all sources, merged from left to right.

    Args:
        sources: Paths or names of packaged recipes (`quickstart`, `tiny/qwen2-base`), and `key=value` settings.
        check: Also check the values that are not r1lab's own: TRL's fields, the parameters of rewards and builders,
            references between stages, the batch.
        inputs: Also check model folders and the rows of files.
        tiny: Scale the recipe down, see `r1lab.recipe.tiny`; `key=value` settings override the result.
        quiet: Do not log what `tiny` replaced and left out.

    Raises:
        UserError: All problems at once, each as `file:line: key: message`. For a stage with an unknown key or a value
            of the wrong type, only these are reported; the next load reports its other problems.

    >>> load(["quickstart", "stages.zero.train.max_steps=10"]).stages[1].train["max_steps"]
    10
    """
    files = [source for source in sources if not yaml_source.is_assignment(source)]
    name = Path(files[0]).stem if files else "run"
    document = yaml_source.read(sources, (lambda data: _scaled_down({"name": name} | data, quiet)) if tiny else None)
    find_kinds(document.data)
    problems = list(document.problems)
    document.data.setdefault("name", name)
    build = _pipeline if "stages" in document.data else _single
    recipe, stages, found = build(document)
    if check or inputs:
        found += _check_problems(stages, inputs=inputs)
    problems += [document.problem(keys, message) for keys, message in found]
    if problems or recipe is None:
        raise UserError(sorted(dict.fromkeys(problems), key=_place))
    return recipe


def _scaled_down(data: dict, quiet: bool) -> dict:
    find_kinds(data)
    small, changes = scaled_down(data)
    for line in [] if quiet else changes:
        logger.warning("--tiny: %s", line)
    return small


def _place(problem: str) -> tuple[bool, str, int]:
    """The sort key of problems: by file and line, those of the command line last."""
    match = re.match(r"(.+?):(\d+): ", problem)
    return (False, match[1], int(match[2])) if match else (True, "", 0)


def _check_problems(stages: list[StageRecipe], *, inputs: bool) -> list[tuple[Keys, str]]:
    """What the checks of values find in stages with correct keys and types."""
    more = []
    for stage in stages:
        problems = checks.stage_problems(stage)
        if inputs:
            from r1lab.recipe.inputs import input_problems  # reading files imports what reads each format

            problems += input_problems(stage, {str(keys[0]) for keys, _ in problems})
        more += [((*stage._keys, *keys), message) for keys, message in problems]
    return more


def resolved(recipe: Recipe) -> dict:
    """A recipe as plain data with all defaults filled in, which `load` accepts.

    >>> resolved(load(["quickstart"]))["stages"][0]["rollout"]["top_p"]
    1.0
    """
    return copy.deepcopy(recipe.model_dump())


def reread(config: dict) -> dict:
    """A stage's resolved recipe, possibly of an earlier version, as `resolved` returns it now.

    Keys without effect are removed, and keys that are missing get their defaults.

    >>> reread({"stage": "grpo", "prompt": {"template": "r1-zero", "system": "Be brief."}})["prompt"]
    {'template': 'r1-zero'}
    """
    kind = _kind(config)
    if kind not in STAGES:
        return config
    data = {key: value for key, value in effective(kind, config).items() if value is not None}
    try:
        return STAGES[kind].model_validate(data).model_dump()
    except ValidationError:  # it has keys or values that no longer exist, which is a change
        return data


def dumps(recipe: Recipe) -> str:
    """A resolved recipe as YAML 1.2; short maps and lists on one line."""
    from ruamel.yaml import YAML
    from ruamel.yaml.nodes import ScalarNode
    from ruamel.yaml.representer import SafeRepresenter

    class Representer(SafeRepresenter):
        def represent_mapping(self, tag, mapping, flow_style=None):
            node = super().represent_mapping(tag, mapping, flow_style)
            node.flow_style = short([part for pair in node.value for part in pair])
            return node

        def represent_sequence(self, tag, sequence, flow_style=None):
            node = super().represent_sequence(tag, sequence, flow_style)
            node.flow_style = short(node.value)
            return node

    def short(parts: list) -> bool:
        plain = all(isinstance(part, ScalarNode) for part in parts)
        return plain and sum(len(part.value) + 2 for part in parts) < 80

    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = Representer
    yaml.sort_base_mapping_type_on_output = False  # pyright: ignore[reportAttributeAccessIssue]  # declared as None
    yaml.width = 1_000
    stream = io.StringIO()
    yaml.dump(resolved(recipe), stream)
    return stream.getvalue()


def source_text(sources: list[str]) -> str:
    """The text of a recipe as it was written, followed by the other sources as comments."""
    first, *rest = sources
    text = f"# command line: {first}\n" if yaml_source.is_assignment(first) else _text(first)
    for source in rest:
        if yaml_source.is_assignment(source):
            text += f"\n# merged over it, from the command line: {source}\n"
        else:
            lines = "".join(f"#   {line}\n" for line in _text(source).splitlines())
            text += f"\n# merged over it, from {source}:\n{lines}"
    return text


def _text(source: str) -> str:
    return yaml_source.find(source).read_text(encoding="utf-8")


# Building


def _single(document: Document) -> tuple[StageRecipe | None, list[StageRecipe], list[tuple[Keys, str]]]:
    (data,), idle = _used(document, [((), document.data)])
    stage, found = _stage(document, data, ())
    return (None if idle else stage), [stage] if stage else [], idle + found


def _pipeline(document: Document) -> tuple[Pipeline | None, list[StageRecipe], list[tuple[Keys, str]]]:
    """The pipeline, None if it has a problem; the stages that could be read; and the problems."""
    data = document.data
    found: list[tuple[Keys, str]] = []
    parts = []
    entries = data["stages"] if isinstance(data["stages"], list) else []
    if not entries:
        found.append((("stages",), "should be a list of stages, each with a name and a stage"))
    given = []
    for index, entry in enumerate(entries):
        keys = ("stages", index)
        if isinstance(entry, dict):
            given.append((keys, _with_shared(document, entry, keys)))
        else:
            found.append((keys, "should be a stage, as in `- {name: base, stage: eval}`"))
    cleaned, idle = _used(document, given)
    found += _problems_at_the_top(document, given) + idle
    for (keys, _), entry in zip(given, cleaned):
        stage, more = _stage(document, entry, keys)
        parts += [stage] if stage else []
        found += more
    if found:
        return None, parts, found
    try:
        # The stages are passed as objects, which keeps the places where they were written.
        pipeline = Pipeline.model_validate({**{k: data[k] for k in data if k not in SHARED}, "stages": parts})
    except ValidationError as error:
        return None, parts, found + validation_problems(error, data)
    pipeline._document = document
    return pipeline, parts, references.pipeline_problems(pipeline)


def _problems_at_the_top(document: Document, stages: list[tuple[Keys, dict]]) -> list[tuple[Keys, str]]:
    """Keys that do not belong at the top of a pipeline, and shared sections that no stage supports."""
    found, known = [], [*Pipeline.model_fields, *SHARED]
    used = {field for _, data in stages if _kind(data) in STAGES for field in STAGES[_kind(data)].model_fields}
    for key in document.data:
        if key in ("train", "keep"):
            found.append(((key,), f"each stage of a pipeline has its own: set stages.NAME.{key}"))
        elif key == "stage":
            found.append(((key,), "a recipe has either `stage` or `stages`: remove one of them"))
        elif key not in known:
            hint = did_you_mean(key, known, otherwise=f"; a pipeline has {', '.join(known)}")
            meant = _key_of_a_stage(document, stages, key)
            found.append(((key,), f"unknown key (did you mean `{meant}`?)" if meant else f"unknown key{hint}"))
        elif key in SHARED and used and key not in used:
            found.append(((key,), "no stage of this pipeline has such a section: remove it"))
    return found


def _key_of_a_stage(document: Document, stages: list[tuple[Keys, dict]], name: Scalar) -> str:
    """The full key of the field with this name one level down in a stage; empty if no stage has one.

    It is a key of a shared section where the stage uses one. Stages that train come first, and `NAME` is the stage if
    several are possible.
    """
    found: list[tuple[bool, str, Keys]] = []
    for keys, data in stages:
        kind = _kind(data)
        if kind in STAGES and (below := one_level_down(STAGES[kind], (name,), checks.train_fields(kind))):
            found.append((trains(kind), document.label(document.origin((*keys, *below))), below))
    found = [each for each in found if each[0]] or found
    if len({label for _, label, _ in found}) > 1:
        return document.label(("stages", "NAME", *found[0][2]))
    return found[0][1] if found else ""


def _kind(entry: dict) -> str:
    return str(entry.get("stage"))


def _with_shared(document: Document, entry: dict, keys: Keys) -> dict:
    """A stage of a pipeline with the seed and the shared sections that it does not set itself."""
    top, kind = document.data, _kind(entry)
    fields = STAGES[kind].model_fields if kind in STAGES else ()
    entry = {**entry}
    for section in ("seed", *SHARED):
        if section in top and section in fields and section not in entry:
            entry[section] = copy.deepcopy(top[section])
            document.shown[(*keys, section)] = (section,)
    return entry


def _used(document: Document, given: list[tuple[Keys, dict]]) -> tuple[list[dict], list[tuple[Keys, str]]]:
    """Stages without the keys that have no effect in them, and the problems for keys that no stage uses."""
    known = [(keys, _kind(data), data) for keys, data in given if _kind(data) in STAGES]
    cleaned, found = without_idle(document, known)
    by_keys = {keys: data for (keys, _, _), data in zip(known, cleaned)}
    return [by_keys.get(keys, data) for keys, data in given], found


def _stage(document: Document, data: dict, keys: Keys) -> tuple[StageRecipe | None, list[tuple[Keys, str]]]:
    """A stage, None if a key or a type in it is wrong, and its problems."""
    found: list[tuple[Keys, str]] = []
    kinds, kind = ", ".join(STAGES), _kind(data)
    if data.get("stage") is None:
        several = "" if keys else ", or `stages` for a pipeline"
        return None, [(keys, f"`stage` is missing: set it to one of {kinds}{several}")]
    if kind not in STAGES:
        hint = did_you_mean(kind, STAGES)
        return None, [((*keys, "stage"), f"{kind!r}: no such kind of stage{hint}: set one of {kinds}")]
    if keys and not (isinstance(data.get("name"), str) and _STAGE_NAME.fullmatch(data["name"])):
        message = "a stage of a pipeline needs a name of lower-case letters, digits, - and _"
        found.append(((*keys, "name") if "name" in data else keys, message))
        data = {**data, "name": f"stage-{keys[1]}"}
    # An empty section counts as not given.
    data = filled({key: value for key, value in data.items() if value is not None})
    try:
        stage = STAGES[kind].model_validate(data)
    except ValidationError as error:
        wrong = validation_problems(
            error,
            data,
            stage=kind,
            examples=EXAMPLES,
            model=STAGES[kind],
            others=STAGES.values(),
            train=checks.train_fields(kind),
            label=lambda below: document.label(document.origin((*keys, *below))),
        )
        return None, found + [((*keys, *below), message) for below, message in wrong]
    stage._document, stage._keys = document, keys
    return stage, found
