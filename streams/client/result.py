"""A task's result as the client returns it: the message on `results`, with its value validated on request."""

from __future__ import annotations

from typing import Any, Generic, TypeVar, cast

from pydantic import PrivateAttr

from schemas.codec import Headers, decode_json, validate
from schemas.exact_json import loads
from schemas.messages import Result

T = TypeVar("T")
V = TypeVar("V")


class TaskResult(Result, Generic[T]):
    """`Result` with `value`: the answer, as JSON or as the model given as `into`. Times in milliseconds, `timestamp` epoch ms."""

    _parsed: Any = PrivateAttr(default=None)

    @property
    def value(self) -> T:
        """The answer."""
        return cast("T", self.result if self._parsed is None else self._parsed)

    def with_value(self, parsed: V) -> TaskResult[V]:
        """The same result with another value."""
        copy = cast("TaskResult[V]", self.model_copy())
        copy._parsed = parsed
        return copy

    @property
    def ok(self) -> bool:
        """Whether the task has an answer."""
        return self.status == "success"


def read_result(value: bytes | None, headers: Headers = ()) -> TaskResult[Any]:
    """A record of `results`. An error code newer than this client becomes part of the message. Raises `Rejected`."""
    try:
        return TaskResult.model_validate(loads(value or b""), by_alias=True, by_name=False)
    except ValueError:
        pass  # rarer forms: structured CloudEvents, results of a newer worker
    data = decode_json(value, headers).data
    if isinstance(data, dict) and isinstance(data.get("error"), dict):
        error = data["error"]
        newer = {"code": "internal", "message": f"{error.get('code')}: {error.get('message')}"}
        data = data | {"error": {"retryable": False} | error | newer}
    return validate(TaskResult, data)
