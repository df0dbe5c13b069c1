"""What the guarded call needs to know of a task (`PendingCall`), and what it reports back (`CallEvents`). No decisions
here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from agents_io.calling.rules.breaker import Transition
from agents_io.errors import AgentError
from agents_io.transport import Answer
from schemas.messages import AgentRegistration


class ObservedCall(Protocol):
    """One call that an observer follows."""

    headers: tuple[tuple[str, str], ...]
    """Headers for the agent, in place of the task's."""

    def ended(self, end: Answer | BaseException) -> None:
        """Called once, with the answer or the error; a call that was cut off ends with `asyncio.CancelledError`."""
        ...


class CallObserver(Protocol):
    """Notified of each call for a task. Its methods are synchronous and must not raise."""

    def begins(self, agent: AgentRegistration, number: int, hedged: bool) -> ObservedCall:
        """Call `number` (the first is 1) begins; `hedged`: beside another one."""
        ...


@dataclass(slots=True, eq=False, kw_only=True)
class PendingCall:
    """One task on its way to an agent. Times are the loop's monotonic seconds; `deadline` is infinite if there is none.

    `timeout_s`: what one attempt may take, from the begin of the call to its answer. `deadline`: bounds the whole task.
    """

    task_id: str
    idempotency_key: str
    body: bytes
    timeout_s: float
    deadline: float = float("inf")
    priority: int = 0
    max_retries: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    pattern_name: str = ""
    context_id: str = ""
    hedge: bool = False
    """Whether a second call may be made while the first is under way."""
    calls: int = 0
    """Calls made so far."""
    attempts: int = 0
    """Attempts used up. A failed probe of a half-open circuit and a `Retry-After` are calls that use up none."""
    first_call_at: float = 0.0
    last_call_at: float = 0.0
    failure: AgentError | None = None
    """How the last call failed."""
    lost_connection: bool = False
    """Whether a call lost its connection: later calls use new ones."""
    cancelled: bool = False
    observer: CallObserver | None = field(default=None)


Run = TypeVar("Run", bound=PendingCall, contravariant=True)


class CallEvents(Protocol[Run]):
    """What the guarded call reports. All methods are synchronous and must not raise."""

    def on_first_call(self, run: Run) -> None:
        """The first call of this task begins."""
        ...

    def on_retry(self, run: Run, delay_s: float) -> None:
        """A call failed; another begins after `delay_s` seconds at the earliest."""
        ...

    def on_finished(self, run: Run, outcome: Answer | AgentError) -> None:
        """The task has its answer, or fails."""
        ...

    def on_circuit(self, agent_id: str, transition: Transition) -> None:
        """The agent's circuit opened, half-opened or closed."""
        ...
