"""Ways in which tasks could get stuck or be counted wrongly, each found by a review of the dispatch path."""

from __future__ import annotations

import asyncio

import pytest

from agents_io.errors import CallTimeout, ServerError
from tests.support.dispatching import AGENT, ONE_AT_A_TIME, Make
from tests.support.dispatching import make as make
from tests.support.wait import settle, until

pytestmark = pytest.mark.virtual_time


@pytest.mark.parametrize("failing", [False, True])
async def test_a_closed_partition_holds_no_memory(make: Make, failing: bool) -> None:
    """Neither for calls under way nor for those that failed while it was held: the count is the whole worker's."""
    one = make()
    one.transport.gate.clear()
    for offset in range(5):
        one.take(offset, payload=offset)
    await until(lambda: len(one.transport.calls) == 5)
    one.handler.hold()
    if failing:
        one.transport.last = ServerError("500")
        one.transport.gate.set()
        await until(lambda: not one.handler.running())
    one.handler.close()
    assert (one.memory.used, one.memory.count, one.memory.held("a1")) == (0, 0, 0)


async def test_a_record_that_cannot_be_read_for_a_moment_stops_nothing(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the reader raises: the tasks are read again."""
    monkeypatch.setattr("streams.dispatch.backlogs.RETRY_S", 0.01)
    one = make(dispatch={"max_held_bytes": 1})
    one.register(**AGENT, **ONE_AT_A_TIME)
    one.read_again_errors.append(UnicodeDecodeError("utf-8", b"x", 0, 1, "no UTF-8"))
    for offset in range(10):
        one.take(offset, payload=offset)
    await until(lambda: len(one.partition.ended) == 10)
    assert one.transport.tasks == [f"t{offset}" for offset in range(10)]


async def test_an_absent_agents_backlog_stays_on_its_topic(make: Make) -> None:
    """Also while the topic of agents is read for the first of its tasks."""
    one = make(dispatch={"max_held_bytes": 400_000, "await_agent": "always"})
    one.agents.gate.clear()
    for offset in range(2000):
        one.take(offset, target="absent", payload=offset)
    await settle()
    one.agents.gate.set()
    await asyncio.sleep(0.3)
    assert one.memory.used <= 400_000
    assert one.resting > 1500


async def test_a_timeout_that_the_agent_reports_is_the_agents(make: Make) -> None:
    """A deadline that is nearer than the timeout does not make each 408 the end of the task."""
    one = make()
    one.transport.script.append(CallTimeout("408"))
    one.take(0, metadata={"expiresIn": 20_000})
    assert (await one.result(0))["status"] == "success"
    assert len(one.transport.calls) == 2


async def test_registering_again_does_not_reset_the_rate_limit(make: Make) -> None:
    """The window is the agent's, however often it comes and goes."""
    one = make()
    limits = {"maxRequests": 1, "windowMs": 60_000}
    one.register(**AGENT, limits=limits)
    one.take(0, payload=0)
    await one.result(0)
    one.handler.agent_changed("a1", None)
    one.handler.agent_changed("a1", one.register(**AGENT, limits=limits))
    one.take(1, payload=1)
    await settle()
    assert len(one.transport.calls) == 1


async def test_a_deadline_behind_a_backlog_ends_at_once_too(make: Make) -> None:
    """Where a task would wait makes no difference to whether it can have a turn in time."""
    one = make(dispatch={"max_held_bytes": 1})
    one.register(**AGENT, breaker={"failureThreshold": 1, "resetTimeout": 30_000, "monitoringPeriod": 60_000})
    one.transport.script.append(ServerError("500"))
    one.take(0, metadata={"retries": 0})
    await one.end(0)
    for offset in range(1, 5):
        one.take(offset, payload=offset)
    one.take(5, payload=5, metadata={"expiresIn": 2000})
    error = (await one.result(5))["error"]
    assert error["code"] == "expired"
    assert "circuit stays open" in error["message"]


async def test_a_look_up_that_fails_ends_its_task(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what is known of agents."""
    one = make()

    async def broken() -> None:
        raise OSError("the brokers are away")

    monkeypatch.setattr(one.agents, "catch_up", broken)
    one.take(0, target="nobody")
    assert (await one.result(0))["error"]["code"] == "no_agent"


async def test_a_held_partition_reads_nothing_back(make: Make) -> None:
    """The next owner does."""
    one = make(dispatch={"max_held_bytes": 1})
    one.register(**AGENT, **ONE_AT_A_TIME)
    one.transport.gate.clear()
    for offset in range(500):
        one.take(offset, payload=offset)
    await settle()
    one.handler.hold()
    resting = one.resting
    await asyncio.sleep(0.6)
    assert one.resting == resting


async def test_a_follower_that_is_relocated_leads_when_its_leader_fails(make: Make) -> None:
    """Its old record is finished: it must not be left there, or the new one would find nothing to carry on."""
    one = make(dispatch={"max_held_bytes": 20_000})
    one.register(**AGENT, **ONE_AT_A_TIME)
    one.transport.gate.clear()
    one.transport.script.append(ServerError("500"))
    one.take(0, payload={"q": 1}, metadata={"retries": 0})
    one.take(1, payload={"q": 1})
    for offset in range(2, 8):
        one.take(offset, payload={"n": offset})
    await settle()
    one.handler.unblock("tasks", [1])
    [parked] = [output for _, offset, outputs in one.partition.ended if offset == 1 for output in outputs]
    one.transport.gate.set()
    await asyncio.sleep(0)
    one.take(0, parked.value, source="parked", headers=tuple(parked.headers))
    await until(lambda: len({task for task in one.transport.tasks}) == 8)
    await until(lambda: one.memory.count == 0)
    ended = [offset for source, offset, _ in one.partition.ended if source == "tasks"]
    assert sorted(ended) == list(range(8)), "each record once"
    assert [outputs[0].topic for source, _, outputs in one.partition.ended if source == "parked"] == ["results"]
