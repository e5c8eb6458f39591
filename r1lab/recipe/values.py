"""Whether values have the correct types, and the messages if they do not."""

import difflib
import re
import typing
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from pydantic import BaseModel, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from r1lab.recipe.yaml_source import Keys
from r1lab.text import did_you_mean, either

Problems = list[tuple[Keys, str]]


def value_problems(value: object, hint: Any, keys: Keys) -> Problems:
    """Whether a value has a type.

    >>> value_problems("fast", float, ("train", "learning_rate"))
    [(('train', 'learning_rate'), "should be a number, not the text 'fast'")]
    """
    try:
        TypeAdapter(hint, config=None).validate_python(value, strict=True)
    except PydanticUserError:  # a user's annotation that pydantic cannot check
        return []
    except ValidationError as error:
        if isinstance(value, list) and _lax(value, hint):  # YAML has no tuples
            return []
        # Of the branches of a union, the one with the deepest problem is most likely the intended one.
        below, message = max(validation_problems(error, value), key=lambda problem: len(problem[0]))
        return [((*keys, *below), message)]
    return []


def _lax(value: object, hint: Any) -> bool:
    try:
        TypeAdapter(hint).validate_python(value)
    except ValidationError:
        return False
    return True


_DESCRIPTIONS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a map of keys",
    "model_type": "a section, a map of keys",
    "none_required": "null",
    "greater_than_equal": "at least {bound}",
    "greater_than": "more than {bound}",
    "less_than_equal": "at most {bound}",
    "less_than": "less than {bound}",
}


def _dotted(keys: Keys) -> str:
    return ".".join(map(str, keys))


def validation_problems(
    error: ValidationError,
    data: object,
    *,
    stage: str = "",
    examples: dict[str, str] | None = None,
    model: type[BaseModel] | None = None,
    others: Iterable[type[BaseModel]] = (),
    train: Collection[str] = (),
    label: Callable[[Keys], str] = _dotted,
) -> Problems:
    """pydantic's errors as r1lab's messages, one for each place in the data.

    Args:
        error: The errors.
        data: What was validated.
        stage: The kind of stage, for sections that are missing or unknown.
        examples: Examples of required sections.
        model: The schema, for suggestions of keys.
        others: Schemas that share sections with it, for suggestions of keys that it does not have itself.
        train: The keys of the section `train`, which the schema does not list.
        label: Keys as the user can type them on the command line.
    """
    grouped: dict[Keys, list[ErrorDetails]] = {}
    for problem in error.errors(include_url=False):
        grouped.setdefault(_keys_in(data, problem), []).append(problem)
    found: Problems = []
    for keys, problems in grouped.items():
        first = problems[0]
        if first["type"] == "missing":
            example = (examples or {}).get(str(keys[-1])) if len(keys) == 1 else None
            text = f"missing: a stage of kind {stage} needs it, as in `{example}`" if example else "missing"
        elif first["type"] == "extra_forbidden":
            schemas = (model, *(others if len(keys) > 1 else ()))  # a section may be shared with stages that have it
            below = next(filter(None, (one_level_down(schema, keys, train) for schema in schemas)), None)
            known = f"unknown key (did you mean `{label(below)}`?)" if below else None
            text = known or _unknown_key(keys, stage, model, others)
        else:
            text = _wrong_value(problems)
        found.append((keys, text))
    return found


def _keys_in(data: object, problem: ErrorDetails) -> Keys:
    """The place of an error in the data: pydantic's location without the names of branches of unions."""
    keys, location = [], problem["loc"]
    for index, key in enumerate(location):
        if isinstance(data, dict) and key in data:
            data = data[key]
            keys.append(key)
        elif isinstance(data, list) and isinstance(key, int):
            data = data[key]
            keys.append(key)
        elif index == len(location) - 1 and problem["type"] == "missing":
            keys.append(key)
    return tuple(keys)


def _unknown_key(keys: Keys, stage: str, model: type[BaseModel] | None, others: Iterable[type[BaseModel]]) -> str:
    known = fields_at(model, keys[:-1])
    elsewhere = [field for other in others for field in fields_at(other, keys[:-1])]
    close = did_you_mean(keys[-1], known) or did_you_mean(keys[-1], elsewhere)
    if len(keys) == 1 and not close:
        return f"unknown key: a stage of kind {stage} has {', '.join(known)}"
    return f"unknown key{close}" if close or not known else f"unknown key; available: {', '.join(known)}"


def one_level_down(model: type[BaseModel] | None, keys: Keys, train: Collection[str] = ()) -> Keys | None:
    """The keys of the field that has the name of an unknown key, in a section one level below it; None if none has.

    Args:
        model: The schema.
        keys: The keys that lead to the unknown key, and the key itself.
        train: The keys of the section `train`, which the schema does not list.

    >>> from r1lab.recipe.schema import GrpoRecipe
    >>> one_level_down(GrpoRecipe, ("temperature",)), one_level_down(GrpoRecipe, ("model", "r"))
    (('rollout', 'temperature'), ('model', 'lora', 'r'))
    """
    *above, name = keys
    schema = schema_at(model, tuple(above))
    fields = schema.model_fields if schema else {}
    # The first section counts, and a list of sections, such as `rewards`, only after the others.
    for key in sorted(fields, key=lambda key: typing.get_origin(fields[key].annotation) is list):
        section, at = _section_in(fields[key].annotation), (*above, key)
        if name in (section.model_fields if section else train if at == ("train",) else ()):
            return (*at, 0, name) if typing.get_origin(fields[key].annotation) is list else (*at, name)
    return None


def schema_at(model: type[BaseModel] | None, keys: Keys) -> type[BaseModel] | None:
    """The schema of the section at a place below a schema; None if there is no section."""
    for key in keys:
        if model is None:
            return None
        if isinstance(key, int):
            continue
        model = _section_in(model.model_fields[key].annotation) if key in model.model_fields else None
    return model


def _section_in(hint: object) -> type[BaseModel] | None:
    """The first schema that an annotation names, such as that of a list's items."""
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return hint
    return next((found for part in typing.get_args(hint) if (found := _section_in(part))), None)


def fields_at(model: type[BaseModel] | None, keys: Keys) -> list[str]:
    """The keys that a schema has at a place."""
    found = schema_at(model, keys)
    return list(found.model_fields) if found else []


def _wrong_value(problems: list[ErrorDetails]) -> str:
    value, expected = problems[0]["input"], []
    for problem in problems:
        if problem["type"] in ("literal_error", "enum"):
            return not_a_choice(value, re.findall(r"'([^']*)'", problem.get("ctx", {})["expected"]))
        if problem["type"] in ("too_short", "string_too_short"):
            return "is empty"
        bound = next(iter(problem.get("ctx", {}).values()), "")
        text = _DESCRIPTIONS.get(problem["type"]) or problem["msg"].removeprefix("Input should be ")
        expected.append(text.format(bound=bound))
    expected = [
        text.removeprefix("a ").replace("valid ", "a ") if text.startswith("a valid") else text for text in expected
    ]
    return f"should be {either(list(dict.fromkeys(expected)))}, not {_shown(value)}"


def not_a_choice(value: object, choices: Sequence[str]) -> str:
    """The message for a value that is not one of the choices."""
    close = [choice for choice in choices if value and choice.startswith(str(value))]
    close += difflib.get_close_matches(str(value), choices, n=1)
    if close:
        return f"{value}: no such choice (did you mean `{close[0]}`?)"
    listed = choices if len(choices) <= 16 else [*choices[:16], "..."]
    return f"should be one of {', '.join(listed)}, not {_shown(value)}"


def _shown(value: object) -> str:
    text = {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)
    text = "null" if value is None else text if len(text) <= 60 else f"{text[:57]}..."
    return f"the text {text}" if isinstance(value, str) else text
