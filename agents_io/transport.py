"""The port every way of calling an agent satisfies. One call in, one validated answer or one `AgentError` out.

A transport never retries, never limits, never consults a breaker: `rules/lane.py` decides that. It maps every foreign
exception to the tree in `errors.py`, closes the agent's connection when its task is cancelled, and never trusts the answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import quote

from schemas.messages import AgentRegistration

MAX_ANSWER_BYTES = 768 * 1024


@dataclass(frozen=True, slots=True)
class Call:
    """One attempt. `body`: the payload as JSON bytes. `timeout_s`: what is left for this attempt, seconds."""

    task_id: str
    idempotency_key: str
    body: bytes
    timeout_s: float
    headers: tuple[tuple[str, str], ...] = ()
    """Extra headers for the agent, for example ("traceparent", ...)."""
    pattern_name: str = ""
    """The task's `metadata.patternName`, for agents whose protocol has a field for it."""
    attempt: int = 1
    """Which attempt of the task this is. After the first, an earlier one may still be under way at the agent."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What an agent said. `confidence` is finite and in [0, 1]; `value` is any JSON.

    `metadata`: every other member of the answer, as JSON; the result has them as `metadata.answer`.
    """

    value: Any
    confidence: float
    metadata: dict[str, Any] = field(default_factory=dict)


class Transport(Protocol):
    """A way to call agents of one protocol; one instance serves all agents of a worker."""

    async def call(self, agent: AgentRegistration, call: Call) -> Answer:
        """One attempt. Raises `AgentError`; `asyncio.CancelledError` passes through after the connection is closed."""
        ...

    async def health(self, agent: AgentRegistration, timeout_s: float) -> bool:
        """Whether the agent says within `timeout_s` seconds that it is well. Raises `Unsupported`: it cannot be asked."""
        ...

    async def close(self) -> None:
        """Release every connection."""
        ...


def idempotency_key(key: str) -> str:
    """The key as a header can carry it; unlike keys stay unlike.

    >>> idempotency_key("task-1"), idempotency_key("tâche 1")
    ('task-1', "utf-8''t%C3%A2che%201")
    """
    if key.isascii() and key.isprintable() and " " not in key and not key.startswith("utf-8''"):
        return key
    return "utf-8''" + quote(key, safe="")
