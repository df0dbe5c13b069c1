"""One task on its way to an agent, and what its owner is told of it.

In: what a record asks for. Out: a ticket, which the guarded call takes through lane, tries and end. No decisions here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from agents_io.errors import AgentError
from agents_io.rules.breaker import Transition
from agents_io.transport import Answer
from schemas.messages import AgentRegistration


class Attempt(Protocol):
    """One call that somebody watches."""

    headers: tuple[tuple[str, str], ...]
    """What the agent is sent in place of the ticket's headers."""

    def ended(self, end: Answer | BaseException) -> None:
        """Told once: the answer, or what was raised; a call that was cut off ends with `asyncio.CancelledError`."""
        ...


class Watch(Protocol):
    """Told of each call for a ticket. Plain calls that must not raise."""

    def begins(self, agent: AgentRegistration, number: int, hedged: bool) -> Attempt:
        """Call `number` (the first is 1) begins; `hedged`: beside another one."""
        ...


@dataclass(slots=True, eq=False)
class Ticket:
    """One task on its way to an agent. Times are the loop's monotonic seconds. `work`: the owner's own business.

    `taken_at`: when the task's clock began, under whichever owner; so `deadline - taken_at` is what the task allows in all.
    """

    task_id: str
    idempotency_key: str
    body: bytes
    taken_at: float
    deadline: float
    priority: int
    max_retries: int
    work: Any
    headers: tuple[tuple[str, str], ...] = ()
    pattern_name: str = ""
    hedge: bool = False
    """Whether a second call may be made while the first is under way."""
    attempt: int = 0
    """Calls made so far."""
    first_call_at: float = 0.0
    last_call_at: float = 0.0
    failure: AgentError | None = None
    """How the last call failed."""
    cancelled: bool = field(default=False)
    watch: Watch | None = None
    """Who is told of each of its calls."""


class Hooks(Protocol):
    """What the owner of the tickets is told. All are plain calls and must not raise."""

    def started(self, ticket: Ticket) -> None:
        """The first call of this ticket begins."""
        ...

    def retrying(self, ticket: Ticket, delay_s: float) -> None:
        """A call failed; another begins after `delay_s` seconds at the earliest."""
        ...

    def finished(self, ticket: Ticket, answer: Answer | AgentError) -> None:
        """The end of this ticket."""
        ...

    def circuit(self, agent_id: str, transition: Transition) -> None:
        """The agent's circuit opened, half-opened or closed."""
        ...
