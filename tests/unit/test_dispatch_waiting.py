"""Tasks that wait in dispatch, in memory or on their topic: in order, and no longer than until their deadline."""

from __future__ import annotations

import pytest

from tests.support.dispatching import AGENT, ONE_AT_A_TIME, Make
from tests.support.dispatching import make as make
from tests.support.wait import until

pytestmark = pytest.mark.virtual_time


async def test_the_deadline_covers_waiting(make: Make) -> None:
    """Behind a task that hangs: `expired` at its own deadline, and no call was made for it."""
    one = make()
    one.register(**AGENT, **ONE_AT_A_TIME)
    one.transport.gate.clear()
    one.take(0)
    one.take(1, payload=1, metadata={"expiresIn": 30})
    one.take(2, payload=2, metadata={"timeout": 30})
    result = await one.result(1)
    assert (result["status"], result["error"]["code"]) == ("timeout", "expired")
    assert (result["executionTime"], result["waitTime"] >= 29) == (0, True)
    assert one.transport.tasks == ["t0"]
    one.transport.gate.set()
    assert (await one.result(0))["status"] == "success"
    assert (await one.result(2))["status"] == "success", "the timeout of an attempt does not run while the task waits"


async def test_what_memory_cannot_hold_waits_on_its_topic_in_order(make: Make) -> None:
    """One is called, three stay on their topic; each is read again and begins in its turn."""
    one = make(dispatch={"max_held_bytes": 1})
    one.register(**AGENT, **ONE_AT_A_TIME)
    one.transport.gate.clear()
    for offset in range(4):
        one.take(offset, payload=offset)
        assert one.handler.room("tasks")
    await until(lambda: one.transport.calls)
    assert (one.transport.tasks, one.resting) == (["t0"], 3)
    reasons = [(one.handler.explain("tasks", offset) or {})["reason"] for offset in range(4)]
    assert reasons == ["calling", "concurrency", "concurrency", "concurrency"]
    one.transport.gate.set()
    for offset in range(4):
        assert (await one.result(offset))["status"] == "success"
    assert one.transport.tasks == ["t0", "t1", "t2", "t3"]
    assert one.handler.room("tasks")
    assert one.handler.explain("tasks", 0) is None


async def test_tasks_on_their_topic_expire_too(make: Make) -> None:
    """Behind a hanging agent, without being called."""
    one = make(dispatch={"max_held_bytes": 1})
    one.register(**AGENT, **ONE_AT_A_TIME)
    one.transport.gate.clear()
    for offset in range(3):
        one.take(offset, payload=offset, metadata={"expiresIn": 30_000 if offset == 0 else 30})
    for offset in (1, 2):
        assert (await one.result(offset))["error"]["code"] == "expired"
    assert one.handler.room("tasks")
    assert one.transport.tasks == ["t0"]
