"""Every way a call to an agent can fail, as data. Foreign exceptions become one of these at the transport's border only.

AgentError                code            retryable  counts_against_agent
  CallTimeout             timeout         yes        yes
  ConnectionFailed        connection      yes        yes
  ServerError             http_5xx        yes        yes      (5xx; may carry retry_after_s)
  ClientError             http_4xx        no         no       (the caller's fault: other 4xx; see rules/statuses.py)
  RateLimited             rate_limited    yes        no       (429, 529: pauses the limiter by retry_after_s)
  BadResponse             bad_response    yes        yes      (not JSON, no confidence, confidence not in [0, 1])
  Refused                 refused         no         no       (the agent, or a function, declines this task)
  AnswerTooLarge          too_large       no         yes
  NoAgent                 no_agent        yes        no       (no call was made)
  Cancelled               cancelled       no         no
  Expired                 expired         no         no       (the deadline passed before a call; no call was made)
  Unsupported             unsupported     no         no       (this worker cannot run such a task; no call was made)
  ForbiddenTarget         forbidden_target  no       no       (the URL of an http task leads where it may not; no call was made)
  UnknownFunction         unknown_function  no       no       (no function of that name is registered; no call was made)
  ExecutionFailed         execution_failed  yes      yes      (the function raised, the pattern ended as failed)
  InternalError           internal        yes        no       (a fault of ours)
"""

from __future__ import annotations

from typing import ClassVar

from schemas.messages import ErrorCode, TaskError

MAX_MESSAGE = 500


class AgentError(Exception):
    """A failed call. `retry_after_s`: what the agent asked for, seconds, or None."""

    code: ClassVar[ErrorCode] = "internal"
    retryable: ClassVar[bool] = True
    counts_against_agent: ClassVar[bool] = False

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message[:MAX_MESSAGE])
        self.message = message[:MAX_MESSAGE]
        self.retry_after_s = retry_after_s
        self.status: int | None = None
        """The HTTP status, if one was the reason."""

    def as_task_error(self, agent_id: str | None) -> TaskError:
        """The form it takes on a result."""
        return TaskError(code=self.code, message=self.message, retryable=self.retryable, agent_id=agent_id)


class CallTimeout(AgentError):
    """The agent did not answer in time."""

    code = "timeout"
    counts_against_agent = True


class ConnectionFailed(AgentError):
    """The agent could not be reached, or hung up."""

    code = "connection"
    counts_against_agent = True


class ConnectionWasClosing(ConnectionFailed):
    """A kept connection closed at once, without a byte of an answer.

    Most likely the agent was closing it and has not seen the request, so this says nothing about its health. But the
    agent may have seen it.
    """

    counts_against_agent = False


class ServerError(AgentError):
    """The agent answered 5xx."""

    code = "http_5xx"
    counts_against_agent = True


class ClientError(AgentError):
    """The agent refused the task as wrong (4xx)."""

    code = "http_4xx"
    retryable = False


class RateLimited(AgentError):
    """The agent answered 429."""

    code = "rate_limited"


class BadResponse(AgentError):
    """The answer does not have the form that agents must answer with."""

    code = "bad_response"
    counts_against_agent = True


class AnswerTooLarge(AgentError):
    """The answer is larger than the pipeline accepts."""

    code = "too_large"
    retryable = False
    counts_against_agent = True


class Refused(AgentError):
    """The agent understood the task and declines it; a retry would give the same."""

    code = "refused"
    retryable = False


class NoAgent(AgentError):
    """No agent of that id, or with those capabilities, is registered."""

    code = "no_agent"


class Cancelled(AgentError):
    """A cancel was requested for the task."""

    code = "cancelled"
    retryable = False


class Expired(AgentError):
    """The deadline passed before the task had its turn."""

    code = "expired"
    retryable = False


class Unsupported(AgentError):
    """This worker cannot run such a task."""

    code = "unsupported"
    retryable = False


class ForbiddenTarget(AgentError):
    """An http task's URL, or an agent's endpoint, leads to a host or an address that is not allowed."""

    code = "forbidden_target"
    retryable = False


class UnknownFunction(AgentError):
    """No function of that name is registered on this worker."""

    code = "unknown_function"
    retryable = False


class ExecutionFailed(AgentError):
    """The function raised, or the pattern ended as failed."""

    code = "execution_failed"
    counts_against_agent = True


class InternalError(AgentError):
    """A fault of the pipeline's own."""

    code = "internal"
