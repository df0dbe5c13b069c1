"""Agents called within the process, without a network: scripts of `FakeAgent`s and functions marked with `@agent`.

In: calls as dispatch makes them. Out: answers, or the errors that the same behaviour leads to over HTTP.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agents_io.errors import AnswerTooLarge, CallTimeout, ConnectionFailed
from agents_io.fakes.steps import ScriptStep
from agents_io.protocols.functions.catalogue import CURRENT, FunctionCall
from agents_io.rules.answer import Reading, excerpt, parse_answer, reading_of
from agents_io.rules.statuses import error_of
from agents_io.serving.answers import failure_of, reply_of
from agents_io.serving.definition import AgentFunction
from agents_io.transport import Answer, Call
from schemas.exact_json import dumps, loads
from schemas.messages import AgentRegistration
from streams.testing.fakes import FakeAgent

ENDPOINT = "http://in-memory"


@dataclass(frozen=True, slots=True)
class DirectCall:
    """One call of an agent. `at`: virtual seconds since the beginning; `attempt`: 1 is the task's first."""

    agent_id: str
    task_id: str
    payload: Any
    at: float
    attempt: int


class DirectCalls:
    """A transport for all protocols. `elapsed`: seconds since the beginning."""

    def __init__(self, elapsed: Callable[[], float]) -> None:
        self._elapsed = elapsed
        self._agents: dict[str, AgentFunction[Any, Any] | deque[ScriptStep]] = {}
        self._left: dict[str, int | None] = {}
        self.calls: list[DirectCall] = []

    def add(self, agent: Any) -> dict[str, Any]:
        """Add an agent, replacing one with its id; returns its registration. Raises `TypeError`: it cannot be called
        here.
        """
        if isinstance(agent, FakeAgent):
            self._agents[agent.id] = deque(agent.steps)
            self._left.pop(agent.id, None)
            return agent.registration(ENDPOINT)
        if isinstance(agent, AgentFunction):
            self._agents[agent.id] = agent
            data: dict[str, Any] = {"id": agent.id, "endpoint": ENDPOINT, "protocol": "http"}
            limits = {"maxRequests": 1_000_000, "windowMs": 60_000, "maxConcurrency": agent.concurrency}
            return data | {"capabilities": list(agent.capabilities), "limits": limits}
        raise TypeError(f"{agent!r}: in virtual time agents are FakeAgents, or functions marked with @agent")

    async def call(self, agent: AgentRegistration, call: Call) -> Answer:
        """One attempt, cut off after its timeout."""
        payload = loads(call.body)
        self.calls.append(DirectCall(agent.id, call.task_id, payload, self._elapsed(), call.attempt))
        known = self._agents[agent.id]
        try:
            async with asyncio.timeout(call.timeout_s):
                if isinstance(known, AgentFunction):
                    return await _function(known, call, payload)
                reading = reading_of(agent.metadata, agent.confidence)
                return await _play(self._next(agent.id, known), call, payload, reading)
        except TimeoutError:
            raise CallTimeout(f"no answer within {call.timeout_s:.3g} s") from None

    async def check_health(self, agent: AgentRegistration, timeout_s: float) -> None:
        """Always healthy."""

    async def close(self) -> None:
        """Nothing to release."""

    def _next(self, agent_id: str, steps: deque[ScriptStep]) -> ScriptStep:
        """The step for this call: the first with calls left; the last step is used forever."""
        step = steps[0]
        left = self._left.get(agent_id, step.times)
        if left is not None:
            left -= 1
            if left <= 0 and len(steps) > 1:
                steps.popleft()
                self._left.pop(agent_id, None)
            else:
                self._left[agent_id] = max(left, 1)
        return step


async def _function(agent: AgentFunction[Any, Any], call: Call, payload: Any) -> Answer:
    CURRENT.set(FunctionCall(call.task_id, call.idempotency_key, call.timeout_s, call.context_id))
    try:
        returned = agent.call(payload)
        if inspect.isawaitable(returned):
            returned = await returned
        reply = reply_of(returned, agent.default_confidence)
    except BaseException as error:  # as over HTTP: whatever the function raises fails the call
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            raise  # the task was cancelled, or its time is over
        failed = failure_of(error)
        raise error_of(failed.status, repr(str(failed)), failed.retry_after_s, attempt=call.attempt) from error
    return parse_answer(reply.body)


async def _play(step: ScriptStep, call: Call, payload: Any, reading: Reading) -> Answer:
    if step.delay_s:
        await asyncio.sleep(step.delay_s)
    if step.kind == "status":
        wait = dict(step.headers).get("Retry-After")
        body = step.body if isinstance(step.body, bytes) else dumps(step.body)
        shown = excerpt(body) if body.strip() else "no body"
        raise error_of(step.code, shown, None if wait is None else float(wait), attempt=call.attempt, body=body)
    if step.kind in ("hang", "drip"):
        await asyncio.Event().wait()
    if step.kind == "reset":
        raise ConnectionFailed("the agent closed the connection")
    if step.kind == "huge":
        raise AnswerTooLarge("the answer is larger than allowed")
    value = step.compute(payload) if step.compute is not None else step.body
    return parse_answer(value if isinstance(value, bytes) else dumps(value), reading)
