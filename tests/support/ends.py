"""How a piece of pure code ended: what it gave, or the `AgentError` it raised; anything else it raises is a fault."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from agents_io.errors import AgentError

T = TypeVar("T")


def end_of(work: Callable[[], T]) -> T | AgentError:
    """One or the other; an error's sentence is short."""
    try:
        return work()
    except AgentError as error:
        if len(error.message) > 300:
            raise AssertionError(f"a sentence of {len(error.message)} characters") from error
        return error
