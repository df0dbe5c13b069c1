"""The client's exceptions: `TaskFailed` with one subclass per error code, and `ClientError` for everything else.

Every `TaskFailed` carries the task's `.result`. Every `ClientError` names what is missing and the remedy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from streams.client.result import TaskResult


class ClientError(Exception):
    """The client could not do what was asked. The message is one line."""


class KafkaUnreachable(ClientError, ConnectionError):
    """No broker answers, or it refuses this user."""


class TopicsMissing(ClientError):
    """A topic the call needs does not exist."""


class NoWorker(ClientError):
    """No worker reads the topic `tasks`. The task stays queued: `await client.handle(id)` finds it later."""


class WaitTimeout(ClientError, TimeoutError):
    """`wait` passed without a result. The task goes on: `await client.handle(id)` finds it later."""


class InvalidTask(ClientError, ValueError):
    """A task, plan or registration that the pipeline would not accept. Names field and reason."""


class InvalidValue(ClientError, ValueError):
    """The answer's value does not fit the model given as `into`. `.result` is the result as it came."""

    def __init__(self, message: str, result: TaskResult[Any]) -> None:
        super().__init__(message)
        self.result = result


class NotFound(ClientError, LookupError):
    """No record of that id in the time range searched."""


class ClientClosed(ClientError):
    """The client was closed, or not started: use `async with Client(...)`."""


class TaskFailed(Exception):
    """A task ended without an answer. `code`: one of the closed list of error codes; `result`: the whole result."""

    by_code: ClassVar[dict[str, type[TaskFailed]]] = {}

    def __init__(self, result: TaskResult[Any]) -> None:
        error = result.error
        self.result = result
        self.code: str = error.code if error else result.status
        self.retryable = bool(error and error.retryable)
        agent = f" (agent {result.agent_id})" if result.agent_id else ""
        super().__init__(f"task {result.task_id}{agent}: {self.code}: {error.message if error else 'no reason given'}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.result,)

    def __init_subclass__(cls, *, code: str, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        TaskFailed.by_code[code] = cls


class AgentTimeout(TaskFailed, code="timeout"):
    """Every attempt took longer than `timeout`."""


class AgentUnreachable(TaskFailed, code="connection"):
    """The connection to the agent failed or broke."""


class AgentServerError(TaskFailed, code="http_5xx"):
    """The agent reported an internal error."""


class AgentRejected(TaskFailed, code="http_4xx"):
    """The agent rejected the request."""


class RateLimited(TaskFailed, code="rate_limited"):
    """The agent answered each attempt that it is busy (429), without saying how long."""


class CircuitOpen(TaskFailed, code="circuit_open"):
    """The agent's circuit is open. Workers of this version let the task wait: it ends as `expired` at its deadline."""


class BadResponse(TaskFailed, code="bad_response"):
    """The agent's answer could not be read, or had no confidence."""


class AgentRefused(TaskFailed, code="refused"):
    """The agent declined to answer."""


class NoAgent(TaskFailed, code="no_agent"):
    """No registered agent has this id or these capabilities."""


class TaskCancelled(TaskFailed, code="cancelled"):
    """The task was cancelled."""


class TaskExpired(TaskFailed, code="expired"):
    """The task's deadline passed."""


class ForbiddenTarget(TaskFailed, code="forbidden_target"):
    """The worker may not call this host."""


class UnknownFunction(TaskFailed, code="unknown_function"):
    """No worker has a function of this name."""


class ExecutionFailed(TaskFailed, code="execution_failed"):
    """The function raised."""


class TooLarge(TaskFailed, code="too_large"):
    """The task or its answer is larger than the pipeline accepts."""


class Unsupported(TaskFailed, code="unsupported"):
    """The agent cannot be called in the way the task needs."""


class InvalidPlan(TaskFailed, code="invalid_plan"):
    """The plan, or the pattern the task names, cannot run."""


class InternalError(TaskFailed, code="internal"):
    """The worker failed; see its log."""


def failure_of(result: TaskResult[Any]) -> TaskFailed:
    """The exception for a result that is not a success; a plain `TaskFailed` for codes this client does not know."""
    code = result.error.code if result.error else result.status
    return TaskFailed.by_code.get(code, TaskFailed)(result)
