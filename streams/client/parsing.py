"""Validates a result's answer as the type that the user asks for."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from schemas.messages import explain
from streams.client.errors import InvalidValue
from streams.client.result import TaskResult

T = TypeVar("T")


def parse_value(result: TaskResult[Any], into: type[T]) -> TaskResult[T]:
    """The result with its answer validated as `into`: a pydantic model, dataclass or any annotation. Raises `InvalidValue`."""
    try:
        parsed = TypeAdapter(into).validate_python(result.result)
    except ValidationError as error:
        message = f"task {result.task_id}: the answer is no {getattr(into, '__name__', into)}: {explain(error)}"
        raise InvalidValue(message, result) from None
    return result.with_value(parsed)
