"""Tells kinds of callables apart (function, partial, bound method, object) and describes a failed import. Pure."""

from __future__ import annotations

import functools
import inspect
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

_OURS = str(Path(__file__).parents[1])
"""The directory of our own code; its frames are never the place of a fault in a user's module."""


def function_of(call: Callable[..., Any]) -> Callable[..., Any]:
    """The function whose body runs when `call` is called; it carries the type hints and the async flag.

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


def describe_import_error(error: BaseException) -> str:
    """One line on what a user's module raised while it was imported, with the place in its code.

    >>> try: exec(compile("1 / 0", "mine.py", "exec"))
    ... except ZeroDivisionError as error: print(describe_import_error(error))
    ZeroDivisionError: division by zero (mine.py, line 1)
    """
    text = " ".join(f"{type(error).__name__}: {error}".split())
    frames = [one for one in traceback.extract_tb(error.__traceback__) if not one.filename.startswith(_OURS)]
    if isinstance(error, (SyntaxError, ModuleNotFoundError)) or not frames:
        return text  # names the place, or needs none
    return f"{text} ({frames[-1].filename}, line {frames[-1].lineno})"
