"""A2A 0.3's `message/stream`, as far as it tells how a task goes: its id, its end, or an error. Pure.

In: pieces of the event stream. Out: what was seen. The answer itself is fetched when the task has ended; the stream says when.
A task whose stream ends before it does has no executor any more (a2a-sdk 0.3 leaves it `submitted` for ever when that raises).
"""

from __future__ import annotations

from typing import Any

from agents_io.rules.wire.sse import EventData
from schemas.exact_json import loads


class TaskStream:
    """`feed` pieces until it says that no more need be read.

    >>> stream = TaskStream()
    >>> stream.feed(b'data: {"result":{"kind":"task","id":"T1","status":{"state":"submitted"}}}\\n\\n'), stream.task_id
    (False, 'T1')
    >>> stream.feed(b'data: {"result":{"kind":"status-update","taskId":"T1","final":true}}\\n\\n'), stream.is_final
    (True, True)
    """

    def __init__(self) -> None:
        self._events = EventData()
        self.task_id: str | None = None
        self.is_final = False
        """Whether the agent said that the task has ended, or waits for somebody."""
        self.whole: dict[str, Any] | None = None
        """A response that is an answer or an error by itself."""

    def feed(self, piece: bytes) -> bool:
        """Whether enough was seen."""
        return any(self._take(data) for data in self._events.feed(piece))

    def _take(self, data: bytes) -> bool:
        try:
            message = loads(data)
        except ValueError:
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
