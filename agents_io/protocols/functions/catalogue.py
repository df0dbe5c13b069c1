"""Functions that tasks may name: how a user marks them, and how a worker finds them.

In: modules named in the settings and the entry-point group `parallax.functions`. Out: `Functions`, by name. Nothing is ever
imported because a message says so, and there is no global list: what is marked lies in the modules that were named.

    @function("word-count")
    def word_count(payload):                  # what the task's payload is, plus `context` in a plan
        return len(payload["text"].split())   # or (value, confidence), or {"value": ..., "confidence": ...}

`async def` runs on the worker's loop and must not block it; a plain function runs in a thread. To say that another try is
useless raise `Refused`; anything else that is raised counts as a failure of the function and is tried again.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any, TypeVar

from agents_io.rules.callables import describe_import_error, is_async, is_generator

F = TypeVar("F", bound=Callable[..., Any])

GROUP = "parallax.functions"
MAX_NAME = 200
_MARK = "__parallax_function__"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]*")


class FunctionsError(Exception):
    """Functions that cannot be offered; one line that names module or entry point."""


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """The call under way, for functions that ask for it. `timeout_s`: the time left when it began, seconds.
    `context_id`: its conversation, empty without one.
    """

    task_id: str
    idempotency_key: str
    timeout_s: float
    context_id: str = ""


@dataclass(frozen=True, slots=True)
class Function:
    """A callable under its name. `is_async`: it is awaited on the worker's loop; else it runs in a thread."""

    name: str
    call: Callable[[Any], Any]
    is_async: bool

    @property
    def where(self) -> str:
        """Module and name of the callable."""
        return f"{getattr(self.call, '__module__', '?')}.{getattr(self.call, '__qualname__', type(self.call).__qualname__)}"


CURRENT: ContextVar[FunctionCall] = ContextVar("parallax_function_call")


def current_call() -> FunctionCall:
    """The call that this function serves, also within its thread. Raises LookupError outside of a call."""
    return CURRENT.get()


def function(name: str) -> Callable[[F], F]:
    """Mark a callable as the function of that name: letters, digits and `._:/-`, at most 200. Raises ValueError.

    >>> @function("double")
    ... def double(payload): return payload * 2
    >>> Functions.of([double]).names
    ('double',)
    """
    _check(name)

    def mark(made: F) -> F:
        setattr(made, _MARK, name)
        return made

    return mark


class Functions:
    """The functions of a worker, by name."""

    def __init__(self, found: Iterable[Function] = ()) -> None:
        """Raises `FunctionsError` when two have one name."""
        self._by_name: dict[str, Function] = {}
        for one in found:
            known = self._by_name.setdefault(one.name, one)
            if known.call is not one.call:
                raise FunctionsError(f"two functions are named {one.name!r}: {known.where}, {one.where}")

    @classmethod
    def of(cls, marked: Iterable[Callable[..., Any]]) -> Functions:
        """The callables among these that are marked with `@function`."""
        return cls(_made(getattr(one, _MARK), one) for one in marked if hasattr(one, _MARK))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._by_name))

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def get(self, name: str) -> Function | None:
        """The function of that name."""
        return self._by_name.get(name)


def load_functions(modules: Iterable[str] = ()) -> Functions:
    """Import the modules and the entry points and return the functions in them. Raises `FunctionsError`."""
    return Functions([one for name in modules for one in _of_module(name)] + list(_of_entry_points()))


def _of_module(name: str) -> Iterator[Function]:
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise FunctionsError(f"functions.modules: {name} cannot be imported: {describe_import_error(error)}") from error
    found = list(_marked(module))
    if not found:
        raise FunctionsError(f"functions.modules: {name} holds no callable marked with @function")
    yield from found


def _marked(module: ModuleType) -> Iterator[Function]:
    for one in list(vars(module).values()):
        name = getattr(one, _MARK, None)
        if isinstance(name, str) and callable(one):
            yield _made(name, one)


def _of_entry_points() -> Iterator[Function]:
    for point in entry_points(group=GROUP):
        try:
            loaded = point.load()
            if isinstance(loaded, ModuleType):
                yield from _marked(loaded)
            elif callable(loaded):
                yield _made(getattr(loaded, _MARK, point.name), loaded)
            else:
                raise TypeError("is neither a module nor a callable")
        except (Exception, SystemExit) as error:
            raise FunctionsError(
                f"entry point {point.name} of {GROUP} ({point.value}): {describe_import_error(error)}"
            ) from error


def _made(name: str, one: Callable[..., Any]) -> Function:
    _check(name)
    if is_generator(one):
        raise FunctionsError(f"function {name!r}: a function returns its answer; a generator yields several")
    return Function(name, one, is_async(one))


def _check(name: str) -> None:
    if not isinstance(name, str):
        raise TypeError(f'a function needs a name, not {name!r}: @function("word-count")')
    if len(name) > MAX_NAME or not _NAME.fullmatch(name):
        raise ValueError(
            f"a function cannot be named {name[:80]!r}: letters, digits and ._:/- only, at most {MAX_NAME}"
        )
