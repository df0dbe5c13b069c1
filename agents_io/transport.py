"""The port that every way of calling an agent implements. One call in, one validated answer or one `AgentError` out.

A transport never retries, never limits and never asks a breaker: `calling/rules/` decides that (`agent_queue.py`,
`retry.py`). It maps every foreign exception to an `AgentError` (`errors.py`), closes the agent's connection when its
task is cancelled, and validates every answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import quote, unquote

from schemas.messages import AgentRegistration

MAX_ANSWER_BYTES = 768 * 1024
CONTEXT_HEADER = "x-context-id"
"""The header that names the conversation of a call."""
_ENCODED = "utf-8''"


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
    context_id: str = ""
    """The conversation, `metadata.contextId`; empty: none. `headers` have it too, as `CONTEXT_HEADER`."""
    fresh: bool = False
    """Whether to use a new connection: an earlier call of the task lost its connection."""
    attempt: int = 1
    """Which attempt of the task this is. After the first, an earlier one may still be under way at the agent."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An agent's answer. `confidence` is finite and in [0, 1]; `value` is any JSON.

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

    async def check_health(self, agent: AgentRegistration, timeout_s: float) -> None:
        """Returns if the agent reports within `timeout_s` seconds that it is healthy.

        Raises `AgentError` with the reason if it is not; `Unsupported` if it has no health check.
        """
        ...

    async def close(self) -> None: ...


def header_text(text: str) -> str:
    """An id as a header can carry it; different ids stay different.

    >>> header_text("task-1"), header_text("tâche 1")
    ('task-1', "utf-8''t%C3%A2che%201")
    """
    if text.isascii() and text.isprintable() and " " not in text and not text.startswith(_ENCODED):
        return text
    return _ENCODED + quote(text, safe="")


def text_of(header: str) -> str:
    """The inverse of `header_text`.

    >>> text_of(header_text("tâche 1")), text_of("task-1")
    ('tâche 1', 'task-1')
    """
    return unquote(header.removeprefix(_ENCODED)) if header.startswith(_ENCODED) else header
