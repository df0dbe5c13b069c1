"""A2A's streams (`message/stream`, `SendStreamingMessage`, `POST /message:stream`), read for one of two ends. Pure.

Both readers take a function that gives the JSON of an event the form of JSON-RPC (`bindings.py`).
`TaskStream`: how a task goes: its id, its end, or an error. The answer itself is fetched when the task has ended; the stream says
when. A task whose stream ends before it does has no executor any more (a2a-sdk 0.3 leaves it `submitted` for ever when that
raises).
`StreamedTask`: the task itself, put together from its events, for agents that answer in no other way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agents_io.errors import AnswerTooLarge, BadResponse
from agents_io.protocols.a2a.rules.card import dicts
from agents_io.protocols.a2a.rules.tasks import state_of
from agents_io.rules.sse import EventData, event_json
from schemas.exact_json import dumps


def _as_it_is(data: Any) -> Any:
    return data


class TaskStream:
    """Feed it pieces until it returns that it has seen enough.

    >>> stream = TaskStream(1000)
    >>> stream.feed(b'data: {"result":{"kind":"task","id":"T1","status":{"state":"submitted"}}}\\n\\n'), stream.task_id
    (False, 'T1')
    >>> stream.feed(b'data: {"result":{"kind":"status-update","taskId":"T1","final":true}}\\n\\n'), stream.is_final
    (True, True)
    """

    def __init__(self, max_bytes: int, as_jsonrpc: Callable[[Any], Any] = _as_it_is) -> None:
        """`max_bytes`: the largest event."""
        self._events = EventData()
        self._max = max_bytes
        self._as_jsonrpc = as_jsonrpc
        self.task_id: str | None = None
        self.is_final = False
        """Whether the agent reported that the task has ended, or waits for input."""
        self.whole: dict[str, Any] | None = None
        """A response that is a complete answer or an error."""

    def feed(self, piece: bytes) -> bool:
        """Whether enough was seen. Raises `AnswerTooLarge`."""
        is_enough = any(self._take(data) for data in self._events.feed(piece))
        self._events.check_size(self._max)
        return is_enough

    def _take(self, data: bytes) -> bool:
        try:
            message = self._as_jsonrpc(event_json(data))
        except BadResponse:
            return False
        if not isinstance(message, dict):
            return False
        result = message.get("result")
        if isinstance(message.get("error"), dict) or (isinstance(result, dict) and result.get("kind") == "message"):
            self.whole = message
            return True
        if not isinstance(result, dict):
            return False
        found = result.get("id") if result.get("kind") == "task" else result.get("taskId")
        if self.task_id is None and isinstance(found, str) and 0 < len(found) <= 1024:
            self.task_id = found
        self.is_final = result.get("final") is True
        return self.is_final


_EVENTS = {"task": "task", "message": "message", "status-update": "statusUpdate", "artifact-update": "artifactUpdate"}
"""The kind of an event in 0.3, and the member that holds it in 1.0."""
_OPEN = ("submitted", "working", "")


class StreamedTask:
    """`feed` pieces until it has enough; then `response`. `max_bytes` bounds what is put together, and one event.

    >>> stream = StreamedTask(1000)
    >>> stream.feed(b'data: {"result":{"task":{"id":"T1","status":{"state":"TASK_STATE_WORKING"}}}}\\n\\n'), stream.task_id
    (False, 'T1')
    """

    def __init__(self, max_bytes: int, as_jsonrpc: Callable[[Any], Any] = _as_it_is) -> None:
        self._events = EventData()
        self._as_jsonrpc = as_jsonrpc
        self._max = max_bytes
        self._size = 0
        self._sizes: dict[str, int] = {}
        """Bytes of each artifact as it is now; `_size`: of all."""
        self._whole: dict[str, Any] | None = None
        self._task: dict[str, Any] = {}
        self._artifacts: dict[str, dict[str, Any]] = {}

    @property
    def task_id(self) -> str | None:
        """The agent's id of the task, once known."""
        found = self._task.get("id")
        return found if isinstance(found, str) and 0 < len(found) <= 1024 else None

    @property
    def has_ended(self) -> bool:
        """Whether the agent reported that it has ended, or waits for input."""
        return self._whole is not None or (bool(self._task) and state_of(self._task) not in _OPEN)

    def feed(self, piece: bytes) -> bool:
        """Whether the task has its end. Raises `BadResponse`, `AnswerTooLarge`."""
        ended = self._take(self._events.feed(piece))
        self._events.check_size(self._max)
        return ended

    def response(self) -> dict[str, Any]:
        """The response as the agent would have sent it at once; a task that has not ended is `working`. Raises
        `BadResponse`.
        """
        if self._whole is None:
            self._take(self._events.end())
        if self._whole is not None:
            return self._whole
        if not self._task:
            raise BadResponse("the agent's stream ended without a task or a message")
        return {"jsonrpc": "2.0", "result": self._task | {"artifacts": list(map(_joined, self._artifacts.values()))}}

    def _take(self, events: list[bytes]) -> bool:
        for data in events:
            if not data.strip():
                continue
            message = self._as_jsonrpc(event_json(data))
            if isinstance(message, dict) and self._message(message):
                return True
        return False

    def _message(self, message: dict[str, Any]) -> bool:
        result = message.get("result")
        if isinstance(message.get("error"), dict):
            self._whole = message
        elif isinstance(result, dict):
            for kind, member in _EVENTS.items():
                if result.get("kind") == kind:
                    self._event(member, result)
                elif isinstance(inner := result.get(member), dict) and "kind" not in result:
                    self._event(member, inner)
        return self.has_ended

    def _event(self, member: str, event: dict[str, Any]) -> None:
        if member == "message":
            self._whole = {"jsonrpc": "2.0", "result": event}
            return
        if member == "task":
            self._task = {**event, "status": event.get("status", {})}
            for artifact in dicts(event.get("artifacts")):
                self._artifact(artifact, False)
            return
        self._task.setdefault("id", event.get("taskId"))
        self._task.setdefault("status", {"state": "working"})
        if member == "statusUpdate":
            self._task["status"] = event.get("status", {})
        else:
            self._artifact(event.get("artifact"), event.get("append") is True)

    def _artifact(self, artifact: Any, appends: bool) -> None:
        if not isinstance(artifact, dict):
            return
        key = str(artifact.get("artifactId"))
        parts = dicts(artifact.get("parts"))
        known = self._artifacts.get(key) if appends else None
        grown = sum(len(dumps(part)) for part in parts)
        if known is None:  # a new one, or the newest state of one
            known = self._artifacts[key] = {**artifact, "parts": []}
            grown += len(dumps(known)) - self._sizes.get(key, 0)
        self._sizes[key] = self._sizes.get(key, 0) + grown
        self._size += grown
        if self._size > self._max:
            raise AnswerTooLarge(f"the answer is larger than {self._max} bytes")
        known["parts"] += parts


def _joined(artifact: dict[str, Any]) -> dict[str, Any]:
    """Joins adjacent texts: a stream cuts them anywhere."""
    parts: list[dict[str, Any]] = []
    texts: list[str] = []
    for part in artifact["parts"]:
        is_text = isinstance(part.get("text"), str)
        if texts and not (is_text and part.keys() == parts[-1].keys()):
            parts[-1] = parts[-1] | {"text": "".join(texts)}
            texts = []
        if is_text and texts:
            texts.append(part["text"])
            continue
        parts.append(part)
        texts = [part["text"]] if is_text else []
    if texts:
        parts[-1] = parts[-1] | {"text": "".join(texts)}
    return {**artifact, "parts": parts}
