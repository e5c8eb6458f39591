"""From a specification, which is plain data and can be sent to another process, to a session."""

from typing import Any

from r1lab import lookup
from r1lab.environments import tools
from r1lab.environments.toolset import Session


def make(spec: dict[str, Any]) -> Session:
    """A new session.

    Args:
        spec: `environment`, which is None or has a `name` and parameters, and the list `tools`; see `spec_of`.

    Raises:
        UserError: There is no such environment or tool.

    >>> make({"environment": None, "tools": ["calculator"]}).tools.keys()
    dict_keys(['calculator'])
    """
    given = spec["environment"]
    environment = None
    if given is not None:
        parameters = {key: value for key, value in given.items() if key != "name"}
        environment = lookup.function("environments", given["name"])(**parameters)
    return Session(environment, [tool for entry in spec["tools"] for tool in tools.made(entry)])


def spec_of(recipe: Any) -> dict[str, Any]:
    """The specification of a stage's environment and tools, as JSON can hold it.

    Args:
        recipe: A stage with the sections `environment` and `tools`.
    """
    section, environment = recipe.environment, None
    if section is not None and section.name is not None:
        environment = {"name": section.name, **section.parameters}
    return {"environment": environment, "tools": list(recipe.tools)}
