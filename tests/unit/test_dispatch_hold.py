"""A partition that is held, then closed: dispatch begins nothing more, and leaves the rest to the next owner."""

from __future__ import annotations

import asyncio

import pytest

from agents_io.errors import ServerError
from agents_io.transport import Answer
from tests.support.dispatching import AGENT, ONE_AT_A_TIME, Make
from tests.support.dispatching import make as make
from tests.support.wait import settle, until

pytestmark = pytest.mark.virtual_time


async def test_hold_begins_nothing_and_lets_what_runs_finish(make: Make) -> None:
    """The call under way ends its task; what waits is left to the next owner, and so is a task whose retry would follow."""
    one = make()
    one.register(**AGENT, limits={"maxConcurrency": 2})
    one.transport.gate.clear()
    one.transport.script.extend([Answer("ok", 0.9), ServerError("500")])
    for offset in range(3):
        one.take(offset, payload=offset)
    await until(lambda: len(one.transport.calls) == 2)
    assert one.handler.running() == 2
    one.handler.hold()
    one.transport.gate.set()
    await until(lambda: one.handler.running() == 0)
    await asyncio.sleep(0.02)
    assert [offset for _, offset, _ in one.partition.ended] == [0]
    assert one.transport.tasks == ["t0", "t1"]


async def test_a_look_up_that_ends_after_hold_begins_no_call(make: Make) -> None:
    """Its agent was not known before: a caller made only now must not begin either; nor is the task failed."""
    one = make()
    one.agents.gate.clear()
    one.agents.late["a2"] = one.register(id="a2", endpoint="http://h")
    del one.agents.known["a2"]
    one.take(0, target="a2")
    one.take(1, target="nobody")
    await until(lambda: one.agents.lookups == 2)
    assert (one.handler.explain("tasks", 0) or {})["reason"] == "looking_for_agent"
    one.handler.hold()
    one.agents.gate.set()
    await settle()
    assert one.transport.calls == []
    assert one.partition.ended == []


async def test_close_cancels_and_completes_nothing(make: Make) -> None:
    """Calls, waiting tasks, those left on their topic and look-ups: the next owner finds them all."""
    one = make(dispatch={"max_held_bytes": 5000})
    one.register(**AGENT, **ONE_AT_A_TIME)
    one.transport.gate.clear()
    one.agents.gate.clear()
    one.take(9, target="nobody")
    for offset in range(3):
        one.take(offset, payload=offset)
    await until(lambda: one.transport.calls)
    one.handler.close()
    await settle()
    one.transport.gate.set()
    one.agents.gate.set()
    await asyncio.sleep(0.01)
    assert one.partition.ended == []
    assert one.transport.cancelled == 1
    assert one.handler.running() == 0
    assert one.transport.tasks == ["t0"]
