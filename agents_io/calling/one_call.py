"""One call of an attempt: what is sent, and whether a timeout is the agent's fault.

In: a transport, an agent, an attempt. Out: the answer, or an `AgentError`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from agents_io.calling.rules.agent_queue import Attempt
from agents_io.calling.sampling import Item
from agents_io.errors import AgentError, CallTimeout, Expired
from agents_io.transport import CONTEXT_HEADER, Answer, Call, Transport, header_text
from schemas.messages import AgentRegistration

OWN_TIMEOUT = 0.9
"""A timeout that comes before this share of an attempt's time is the agent's own (408, 504, DEADLINE_EXCEEDED)."""
CLOCK_S = 0.005
"""uvloop's timers and clock, in whole milliseconds, may make a call seem this much shorter than it was."""
STILL_S = 0.5
"""If a call ends this much later than its timeout, the worker did not run in between, see `WorkerStoodStill`."""


class WorkerStoodStill(CallTimeout):
    """The time ran out while this worker did not run (suspended, or starved of CPU). The agent may have answered in
    time.
    """

    counts_against_agent = False


class NotBegun(AgentError):
    """Nothing was sent: this worker stood still after deciding on the call, so another may own the agent now."""

    code = "timeout"
    counts_against_agent = False


async def one_call(
    transport: Transport,
    agent: AgentRegistration,
    attempt: Attempt[Item[Any]],
    may_begin: Callable[[], bool],
    hedged: bool = False,
) -> Answer:
    """Call the agent once. `hedged`: this is a second call beside the first. Raises `AgentError`."""
    if not may_begin():
        raise NotBegun("the call was not begun: this worker stood still, and may no longer own the agent")
    late_s = asyncio.get_running_loop().time() - attempt.started_at
    if late_s >= attempt.timeout_s > 0:
        stood_still = f"the call was not begun: this worker stood still for {late_s:.1f} s"
        raise Expired(stood_still) if attempt.cut else WorkerStoodStill(stood_still)
    timeout_s = attempt.timeout_s if late_s < CLOCK_S else attempt.timeout_s - late_s
    observer = attempt.item.observer
    headers = attempt.item.headers
    if observer is None:
        return await _call(transport, agent, attempt, headers, timeout_s)
    call = observer.begins(agent, attempt.item.calls, hedged)
    try:
        answer = await _call(transport, agent, attempt, call.headers, timeout_s)
    except BaseException as error:
        call.ended(error)
        raise
    call.ended(answer)
    return answer


async def _call(
    transport: Transport,
    agent: AgentRegistration,
    attempt: Attempt[Item[Any]],
    headers: tuple[tuple[str, str], ...],
    timeout_s: float,
) -> Answer:
    run = attempt.item
    if run.context_id:
        headers += ((CONTEXT_HEADER, header_text(run.context_id)),)
    call = Call(
        run.task_id,
        run.idempotency_key,
        run.body,
        timeout_s,
        headers,
        run.pattern_name,
        run.context_id,
        fresh=run.lost_connection,
        attempt=run.calls,
    )
    try:
        return await transport.call(agent, call)
    except CallTimeout as error:
        raise _judged(error, attempt, asyncio.get_running_loop().time() - attempt.started_at) from None


def _judged(error: CallTimeout, attempt: Attempt[Item[Any]], took_s: float) -> CallTimeout | Expired:
    """The error for a call without an answer in time: the agent's fault, the worker's, or the deadline's. Times in
    seconds.
    """
    late_s = took_s - attempt.timeout_s
    if late_s > STILL_S:
        return WorkerStoodStill(f"{error.message}; the worker stood still for {late_s:.1f} s or more")
    if not attempt.cut or took_s < OWN_TIMEOUT * attempt.timeout_s - CLOCK_S:
        return error  # the agent itself reported a timeout, before the time it was given was over
    # The task's deadline left it less than its timeout: not the agent's fault.
    return Expired(f"the deadline passed during the call: {error.message}")
