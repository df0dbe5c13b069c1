"""What kind of callable a user gave: a function, a partial, a bound method, an object with `__call__`. Pure."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any


def function_of(call: Callable[..., Any]) -> Callable[..., Any]:
    """The function whose body runs when `call` is called: it has the type hints, and knows whether it is async.

    >>> function_of(functools.partial(max, 1)) is max
    True
    """
    while isinstance(call, functools.partial):
        call = call.func
    return call if inspect.isroutine(call) else type(call).__call__


def is_async(call: Callable[..., Any]) -> bool:
    """Whether calling it returns a coroutine."""
    return inspect.iscoroutinefunction(function_of(call))


def is_generator(call: Callable[..., Any]) -> bool:
    """Whether calling it returns a generator, also an async one."""
    function = function_of(call)
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
