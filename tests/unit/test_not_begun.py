"""Calls that were decided on and did not begin, because the worker stood still in between: nothing reaches the agent."""

from __future__ import annotations

import asyncio
import time

import pytest

from agents_io.errors import Expired
from agents_io.transport import Answer, Call
from schemas.messages import AgentRegistration
from tests.support.caller_rig import CallerRig, CallsOnly

ANSWER = Answer(1, 0.5)


class Counting(CallsOnly):
    """Answers at once; `timeouts`: the time each call was given, seconds."""

    def __init__(self) -> None:
        self.timeouts: list[float] = []

    async def call(self, agent: AgentRegistration, call: Call) -> Answer:
        """Count it."""
        self.timeouts.append(call.timeout_s)
        return ANSWER


@pytest.mark.virtual_time
async def test_a_call_begins_only_if_the_worker_still_owns_the_agent() -> None:
    """It lost it since the call was decided on, and got it back: an attempt is not used up."""
    owns = True
    transport = Counting()
    rig = CallerRig(transport, may_begin=lambda: owns)
    rig.submit(max_retries=0)
    owns = False
    await asyncio.sleep(5)
    assert transport.timeouts == []
    assert rig.ends == []
    owns = True
    assert await rig.ended() == [ANSWER]
    assert transport.timeouts == [30.0]
    assert rig.failures == 0


async def test_a_worker_that_stood_still_begins_no_call_after_the_deadline() -> None:
    """The time of a call counts from the decision."""
    transport = Counting()
    rig = CallerRig(transport)
    rig.submit(expires_s=0.2)
    time.sleep(0.3)  # noqa: ASYNC251 - the whole process stands still
    (end,) = await rig.ended()
    assert isinstance(end, Expired)
    assert "stood still for 0.3 s" in end.message
    assert transport.timeouts == []
    rig.submit(timeout_s=0.2, max_retries=1)
    time.sleep(0.3)  # noqa: ASYNC251
    assert (await rig.ended(2))[1] == ANSWER
    assert rig.failures == 0
    rig.submit(timeout_s=20.0)
    time.sleep(0.3)  # noqa: ASYNC251
    await rig.ended(3)
    assert transport.timeouts[1] == pytest.approx(19.7, abs=0.2)
