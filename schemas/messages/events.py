"""Lifecycle events."""

from __future__ import annotations

from typing import Any, Literal

from schemas.messages.base import Id, Message, Timestamp

EventType = Literal[
    "task:started",
    "task:completed",
    "task:failed",
    "task:retrying",
    "task:cache-hit",
    "task:cancelled",
    "task:expired",
    "task:parked",
    "task:duplicate",
    "task:dead-lettered",
    "circuit:open",
    "circuit:half-open",
    "circuit:close",
    "plan:started",
    "plan:progress",
    "plan:completed",
    "plan:failed",
    "plan:duplicate",
    "anomaly:detected",
    "anomaly:resolved",
    "agent:registered",
    "agent:unregistered",
    "agent:healthy",
    "agent:unhealthy",
    "agent:draining",
    "dispatch:blocked",
    "records:expired",
]


class Event(Message):
    """A lifecycle event. The content of `data` depends on `type`."""

    id: Id
    type: EventType
    timestamp: Timestamp
    data: dict[str, Any]
