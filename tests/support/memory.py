"""What an object keeps in memory, measured from outside: for bounds and leaks, whatever the attributes are called.

In: an object. Out: the objects of a type that it still refers to, directly or through others. Code, modules, what
functions see as globals, the event loop and the tracebacks of errors are not part of it.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType, TracebackType
from typing import Any, TypeVar

T = TypeVar("T")

_LEFT_OUT = (ModuleType, CodeType, type, BuiltinFunctionType, TracebackType, asyncio.AbstractEventLoop)


def _parts(one: Any) -> list[Any]:
    if isinstance(one, FunctionType):  # what it closes over, without its globals
        return [*(one.__closure__ or ()), one.__defaults__]
    return gc.get_referents(one)


def _reached(root: object) -> Iterator[Any]:
    seen, left = {id(root)}, [root]
    while left:
        one = left.pop()
        yield one
        for part in _parts(one):
            if id(part) not in seen and not isinstance(part, _LEFT_OUT):
                seen.add(id(part))
                left.append(part)


def held(root: object, kind: type[T]) -> list[T]:
    """The objects of this type that `root` keeps alive.

    >>> sorted(held({"a": [1.5, (2.5, "x")]}, float))
    [1.5, 2.5]
    """
    return [one for one in _reached(root) if isinstance(one, kind)]
