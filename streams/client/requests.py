"""The records a client writes: tasks, plans, cancels and registrations, checked before they are sent. Pure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from difflib import get_close_matches
from functools import lru_cache
from math import isfinite
from typing import Any, Literal, TypedDict, Unpack

from pydantic import BaseModel, TypeAdapter, ValidationError

from schemas.exact_json import dumps
from schemas.messages import Control, Message, Task, TaskMetadata, explain
from streams.client.errors import InvalidTask
from streams.client.times import Duration, Moment, duration_ms, moment_text

TaskKind = Literal["agent", "pattern", "http", "function"]

_WIRE_NAMES = {name: str(info.alias) for name, info in TaskMetadata.model_fields.items() if info.alias} | {
    "expires_in": "expiresIn",
    "retry_of": "retryOf",
    "confidence_threshold": "confidenceThreshold",
}
_TIMEOUT_MAX_MS = 7 * 24 * 3600 * 1000
_OPTIONS = ("id", "type", "timeout", "deadline", "expires_in", "not_before", "capabilities", "into", "wait")
_MISSPELT = {name.replace("_", "").lower(): name for name in (*_OPTIONS, *_WIRE_NAMES)} | {
    "retry": "retries",
    "maxretries": "retries",
    "capability": "capabilities",
    "expires": "expires_in",
}
"""Spellings that suggest an option, without case and underscores."""
_SIMILAR = 0.88


class TaskOptions(TypedDict, total=False):
    """Options of a task beside target and payload; None and missing ones are not sent. `timeout`: of one attempt."""

    kind: TaskKind | None
    timeout: Duration | None
    deadline: Moment | None
    expires_in: Duration | None
    not_before: Moment | None
    capabilities: Sequence[str] | None
    metadata: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Request:
    """One record to send. `key`: Kafka's; `agent`: the key is an agent's id, whose partition is worth caching.

    `partition`: None lets the key decide.
    """

    id: str
    key: bytes
    value: bytes
    agent: bool = False
    partition: int | None = None


Send = Callable[[str, Request], Awaitable[None]]
"""Writes a record to a topic and waits until Kafka has it."""


def task_request(task_id: str, target: str | None, payload: Any, **options: Unpack[TaskOptions]) -> Request:
    """A task for `target`. Raises `InvalidTask` naming field and reason.

    >>> task_request("t1", "a1", {"n": 1}, timeout=2, metadata={"pattern_name": "p"}).value
    b'{"id":"t1","type":"agent","target":"a1","payload":{"n":1},"metadata":{"patternName":"p","timeout":2000}}'
    >>> task_request("t1", "function:double", 2).value
    b'{"id":"t1","type":"function","target":"double","payload":2}'
    >>> task_request("t1", None, 2, capabilities=["sum"], metadata={"ordering_key": "chat-7"}).key
    b'chat-7'
    """
    data = task_data(task_id, target, payload, **options)
    check(Task, data)
    addressed = data["type"] == "agent" and target is not None
    # Tasks of one ordering key go to one partition, since only there is an order between them.
    key = target if addressed and target else data.get("metadata", {}).get("orderingKey", task_id)
    return Request(task_id, key.encode(), encode(data), addressed)


def task_data(
    task_id: str,
    target: str | None,
    payload: Any,
    *,
    kind: TaskKind | None = None,
    timeout: Duration | None = None,
    deadline: Moment | None = None,
    expires_in: Duration | None = None,
    not_before: Moment | None = None,
    capabilities: Sequence[str] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A task's JSON object, unchecked."""
    kind, target = address(kind, target)
    data: dict[str, Any] = {"id": task_id, "type": kind}
    if target is not None:
        data["target"] = target
    if capabilities is not None:
        data["capabilities"] = [capabilities] if isinstance(capabilities, str) else list(capabilities)
    data["payload"] = payload
    found = wire_metadata(metadata) if metadata else {}
    if timeout is not None:
        found["timeout"] = _bounded(timeout, "timeout")
    if deadline is not None:
        found["deadline"] = moment_text(deadline, "deadline")
    if expires_in is not None:
        found["expiresIn"] = _bounded(expires_in, "expires_in")
    if not_before is not None:
        found["notBefore"] = moment_text(not_before, "not_before")
    if found:
        data["metadata"] = found
    return data


def address(kind: TaskKind | None, target: str | None) -> tuple[TaskKind, str | None]:
    """Type and target. Without a type, `function:NAME`, `pattern:NAME` and URLs imply theirs; any other target is an
    agent's id.

    >>> address(None, "https://example.org/x"), address(None, "pattern:sum"), address("function", "double")
    (('http', 'https://example.org/x'), ('pattern', 'sum'), ('function', 'double'))
    """
    if kind is not None or target is None:
        return kind or "agent", target
    if not isinstance(target, str):
        raise InvalidTask(f"target: must be text, not {type(target).__name__}")
    if target.startswith(("http://", "https://")):
        return "http", target
    if target.startswith("function:"):
        return "function", target.removeprefix("function:")
    if target.startswith("pattern:"):
        return "pattern", target.removeprefix("pattern:")
    return "agent", target


def wire_metadata(given: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata with the pipeline's names in wire spelling; other names stay unchanged.

    Raises `InvalidTask` for one that resembles an option; `metadata={...}` accepts every name.

    >>> wire_metadata({"pattern_name": "p", "my_tag": 1, "metadata": {"other": 2}})
    {'patternName': 'p', 'my_tag': 1, 'other': 2}
    """
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name == "metadata" and isinstance(value, Mapping):
            found |= {_WIRE_NAMES.get(str(own), str(own)): inner for own, inner in value.items() if inner is not None}
            continue
        _refuse_misspelt(name)
        if value is not None:
            found[_WIRE_NAMES.get(name, name)] = value
    return found


@lru_cache(maxsize=1024)
def _meant(name: str) -> str | None:
    """The option that a misspelt name resembles. Cached: comparing takes 30 us, and programs use the same few names."""
    if name in _WIRE_NAMES or name in _WIRE_NAMES.values():
        return None
    similar = get_close_matches(name.replace("_", "").lower(), _MISSPELT, n=1, cutoff=_SIMILAR)
    return _MISSPELT[similar[0]] if similar else None


def _refuse_misspelt(name: str) -> None:
    if known := _meant(name):
        found = "is no option here." if name == known else f"is no option; did you mean {known}?"
        raise InvalidTask(f"{name}: {found} Your own metadata may have any name in metadata={{{name!r}: ...}}")


def _bounded(value: Duration, name: str) -> int:
    ms = duration_ms(value, name)
    if not 1 <= ms <= _TIMEOUT_MAX_MS:
        raise InvalidTask(f"{name}: must be between 1 ms and 7 days")
    return ms


def check(model: type[Message], data: Mapping[str, Any]) -> None:
    """Raises `InvalidTask` when the pipeline would not accept the message."""
    try:
        model.model_validate(data, by_alias=True, by_name=False)
    except ValidationError as error:
        raise InvalidTask(explain(error)) from None


def encode(data: Any) -> bytes:
    """JSON of plain values, pydantic models and dataclasses. Raises `InvalidTask` for types that JSON lacks; they never
    become null.
    """
    try:
        raw = dumps(data, default=_plain)
    except (TypeError, RecursionError) as error:
        raise InvalidTask(f"payload: is not JSON: {error}") from None
    if b"null" in raw and (where := _not_finite(data)):
        raise InvalidTask(f"{where}: NaN and infinity are not JSON")
    return raw


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, (set, frozenset)):
        return list(value)
    if is_dataclass(value) and not isinstance(value, type):
        return TypeAdapter(type(value)).dump_python(value, mode="json")
    raise TypeError(f"Type is not JSON serializable: {type(value).__name__}")


def _not_finite(value: Any) -> str:
    """The path of a float that JSON lacks; empty without one."""
    pending: list[tuple[str, Any]] = [("", value)]
    while pending:
        path, node = pending.pop()
        if isinstance(node, float) and not isfinite(node):
            return path or "value"
        if isinstance(node, Mapping):
            pending += [(f"{path}.{name}" if path else str(name), inner) for name, inner in node.items()]
        elif isinstance(node, (list, tuple)):
            pending += [(f"{path}[{place}]", inner) for place, inner in enumerate(node)]
    return ""


def cancel_requests(name: str, reason: str | None, fields: Sequence[str] = ("taskId", "planId")) -> list[Request]:
    """The records that cancel the task, the plan, or both of this id."""
    given = {} if reason is None else {"reason": reason}
    found = [{"type": "cancel", field: name} | given for field in fields]
    for data in found:
        check(Control, data)
    return [Request(name, name.encode(), encode(data)) for data in found]
