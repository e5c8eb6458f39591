"""Functions of other packages with other objects in them, where a package has no parameter for what it creates."""

import types
from collections.abc import Callable


def with_names(function: Callable, **names) -> Callable:
    """Returns a copy of a function that sees other objects under some names of its module; the module is unchanged.

    This is for a function of another package that creates an object and has no parameter for its class.

    Raises:
        AttributeError: If the function does not use one of the names.
    """
    if missing := set(names) - set(function.__code__.co_names):
        raise AttributeError(f"{function.__module__}.{function.__qualname__} does not use {', '.join(missing)}")
    copy = types.FunctionType(
        function.__code__,
        {**function.__globals__, **names},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy
