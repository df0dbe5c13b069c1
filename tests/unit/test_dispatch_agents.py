"""Which agent dispatch calls: one that is unknown, has just come, has moved, speaks another protocol, or is gone."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.dispatching import AGENT, ONE_AT_A_TIME, Make
from tests.support.dispatching import make as make
from tests.support.wait import until

pytestmark = pytest.mark.virtual_time


async def test_an_unknown_agent_is_looked_up_once(make: Make) -> None:
    """Then the task fails as `no_agent`, without a call and without a data point."""
    one = make()
    one.take(0, target="nobody")
    one.take(1, target=None, capabilities=["fly"])
    for offset in (0, 1):
        end = await one.end(offset)
        assert end["results"]["error"]["code"] == "no_agent"
        assert set(end) == {"results", "events"}
    assert "'nobody'" in (await one.result(0))["error"]["message"]
    assert one.agents.lookups == 2
    assert one.transport.calls == []
    assert one.kinds() == []


async def test_an_agent_registered_a_moment_ago_is_found(make: Make) -> None:
    """The look-up reads the table to its end before saying no."""
    one = make()
    one.agents.late["a2"] = one.register(id="a2", endpoint="http://h", capabilities=["fly"])
    del one.agents.known["a2"]
    one.take(0, target="a2")
    assert (await one.result(0))["agentId"] == "a2"
    one.take(1, target=None, capabilities=["fly"])
    assert (await one.result(1))["agentId"] == "a2"
    assert one.agents.lookups == 1


async def test_an_agent_registered_again_is_called_at_its_new_place(make: Make) -> None:
    """With the next call, in the same queue."""
    one = make()
    one.take(0)
    await one.end(0)
    one.register(id="a1", endpoint="http://elsewhere")
    one.take(1, payload=1)
    await one.end(1)
    assert [agent.endpoint for agent, _ in one.transport.calls] == ["http://h", "http://elsewhere"]


async def test_waiting_tasks_go_by_a_new_registration(make: Make) -> None:
    """The endpoint changed while a task waited: its call goes to the new place."""
    one = make()
    one.register(**AGENT, **ONE_AT_A_TIME)
    one.transport.gate.clear()
    for offset in (0, 1):
        one.take(offset, payload=offset)
    await until(lambda: one.transport.calls)
    moved = one.register(**{**AGENT, "endpoint": "http://127.0.0.1:2"}, **ONE_AT_A_TIME)
    one.handler.agent_changed("a1", moved)
    one.transport.gate.set()
    await one.result(1)
    assert [agent.endpoint for agent, _ in one.transport.calls] == [AGENT["endpoint"], "http://127.0.0.1:2"]


async def test_an_agent_of_another_protocol_is_not_called(make: Make) -> None:
    """It is refused with a reason, not called as if it spoke HTTP."""
    one = make()
    one.register(id="a1", endpoint="grpc://127.0.0.1:1")
    one.take(0)
    error = (await one.result(0))["error"]
    assert (error["code"], error["retryable"], error["agentId"]) == ("unsupported", False, "a1")
    assert "grpc" in error["message"]
    assert one.transport.calls == []


async def test_an_agent_that_is_gone_is_forgotten_once_it_is_idle(make: Make) -> None:
    """Agents that come and go leave nothing behind; one that is called is kept, and so is what its rate limit has seen."""
    one = make()
    one.register(**AGENT, limits={"windowMs": 300})
    one.transport.gate.clear()
    one.take(0)
    await until(lambda: one.transport.calls)
    one.handler.agent_changed("a1", None)
    one.transport.gate.set()
    assert (await one.result(0))["status"] == "success"
    for wait_s, left in ((0.0, ["a1"]), (0.5, [])):
        await asyncio.sleep(wait_s)
        one.handler.changes()  # the limit is remembered in the state topic too
        one.handler.agent_changed("a1", None)
        assert list(one.handler.callers) == left
    one.handler.agent_changed("nobody", None)
