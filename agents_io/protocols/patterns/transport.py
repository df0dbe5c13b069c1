"""Pattern tasks: a named pattern is run by the first executor that has it, behind a port of its own.

In: the pattern's registration and a `Call` whose body is the input. Out: an `Answer`, or one `AgentError`. A control plane
(`control_plane.py`) and local plan templates satisfy the port; several can be asked in turn. It never retries.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from agents_io.errors import CallTimeout, ClientError, ExecutionFailed, Expired, Unsupported
from agents_io.rules.answer import checked_confidence, excerpt
from agents_io.transport import Answer, Call
from schemas.exact_json import loads
from schemas.messages import AgentRegistration


@dataclass(frozen=True, slots=True)
class PatternExecution:
    """How an execution ended. `execution_time` in ms; `confidence` in [0, 1], None if unknown."""

    id: str
    pattern_name: str
    status: Literal["completed", "failed"]
    result: Any = None
    error: str | None = None
    confidence: float | None = None
    execution_time: float = 0.0


class UnknownPattern(ClientError):
    """This executor has no pattern of that name; another one may."""


class PatternExecutor(Protocol):
    """Executes patterns."""

    async def execute(
        self, pattern_name: str, input: Any, *, timeout: int, execution_id: str, parent_task_id: str
    ) -> PatternExecution:
        """Execute a pattern within `timeout` milliseconds. A repeated `execution_id` means the same execution.

        Raises `AgentError`, such as `UnknownPattern`. A cancelled call stops what it began as far as possible.
        """
        ...

    async def close(self) -> None: ...


class PatternTransport:
    """Asks `executors` in turn until one knows the pattern."""

    def __init__(self, executors: Sequence[PatternExecutor]) -> None:
        self._executors = tuple(executors)

    async def call(self, agent: AgentRegistration, call: Call) -> Answer:
        """One attempt; the pattern's name is the endpoint. Without a confidence of its own the answer has 1."""
        if not call.timeout_s > 0:
            raise Expired("no time is left for a call")
        try:
            async with asyncio.timeout(call.timeout_s):
                done = await self._execute(agent.endpoint, call)
        except TimeoutError:
            raise CallTimeout(f"no answer within {call.timeout_s:.3g} s") from None
        if done.status == "failed":
            shown = excerpt((done.error or "no reason given").encode("utf-8", "replace"))
            raise ExecutionFailed(f"the pattern failed: {shown}")
        return Answer(done.result, checked_confidence(1.0 if done.confidence is None else done.confidence))

    async def _execute(self, name: str, call: Call) -> PatternExecution:
        asked = loads(call.body)
        unknown: UnknownPattern | None = None
        for executor in self._executors:
            try:
                return await executor.execute(
                    name,
                    asked,
                    timeout=max(1, int(call.timeout_s * 1000)),
                    execution_id=call.idempotency_key,
                    parent_task_id=call.task_id,
                )
            except UnknownPattern as error:
                unknown = error
        raise unknown or Unsupported("pattern tasks need an executor: set control_plane.url")

    async def check_health(self, agent: AgentRegistration, timeout_s: float) -> None:
        """Raises `Unsupported`: a pattern cannot be asked."""
        raise Unsupported("patterns have no health check")

    async def close(self) -> None:
        for executor in self._executors:
            await executor.close()
