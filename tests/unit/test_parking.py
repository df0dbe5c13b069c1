"""Parking: tasks that must wait long wait on a topic, come back on time, and burn nothing meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from agents_io.errors import ServerError
from streams.rules.parking import MAX_HELD, Parked
from streams.rules.records import ATTEMPTS_HEADER, DUE_HEADER, EXPIRES_HEADER, PARKS_HEADER, Output
from streams.rules.shares import PATIENCE_S
from tests.support.dispatching import AGENT, Dispatching, failing
from tests.support.homes import until

Make = Callable[..., Dispatching]
BREAKER = {"breaker": {"failureThreshold": 2, "resetTimeout": 5000, "monitoringPeriod": 60_000}}
NO_RETRY = {"metadata": {"retries": 0, "timeout": 60_000}}


@pytest.fixture
async def make() -> Any:
    """Makes handlers and closes them."""
    made: list[Dispatching] = []

    def build(**fields: Any) -> Dispatching:
        made.append(Dispatching(**fields))
        return made[-1]

    yield build
    for one in made:
        one.handler.close()


def parked(one: Dispatching) -> dict[int, Output]:
    """Offset -> what was written to `parked` for it."""
    return {o: outs[0] for _, o, outs in one.home.ended if outs and outs[0].topic == "parked"}


def marks(output: Output) -> dict[str, str]:
    """Its headers as text."""
    return {name: value.decode() for name, value in output.headers}


def without(output: Output, name: str) -> tuple[tuple[str, bytes], ...]:
    """Its headers but one."""
    return tuple(header for header in output.headers if header[0] != name)


async def opened(one: Dispatching) -> None:
    """Two failures: the circuit of a1 is open."""
    one.register(**AGENT, **BREAKER)
    one.transport.last = failing(ServerError)
    for offset in (0, 1):
        one.take(offset, **NO_RETRY)
        await one.result(offset)


async def test_a_task_for_an_open_circuit_is_parked_until_it_may_be_tried(make: Make) -> None:
    """Due when the circuit lets a probe through; the deadline goes along; no call, no attempt, an event says why."""
    one = make()
    await opened(one)
    calls = len(one.transport.calls)
    one.take(2, **NO_RETRY)
    await until(lambda: parked(one))
    output = parked(one)[2]
    found = marks(output)
    wait_ms = int(found[DUE_HEADER]) - one.wall_ms()
    assert 3000 < wait_ms <= 5000
    assert 50_000 < int(found[EXPIRES_HEADER]) - one.wall_ms() <= 60_000
    assert found[ATTEMPTS_HEADER] == "0"
    assert output.partition == one.home.number
    assert len(one.transport.calls) == calls
    [event] = [event for event in one.events() if event["type"] == "task:parked"]
    assert event["data"]["taskId"] == "t2"
    assert event["data"]["reason"] == "circuit_open"
    assert one.count("parallax_tasks_parked_total", reason="circuit_open") == 1


async def test_what_waited_when_the_circuit_opened_is_parked_too(make: Make) -> None:
    """Nothing lies in memory for an agent that takes no call; the attempts a task made are not forgotten."""
    one = make()
    touchy = {"breaker": {**BREAKER["breaker"], "failureThreshold": 1}}
    one.register(**AGENT, **touchy, limits={"maxRequests": 100, "windowMs": 60_000, "maxConcurrency": 2})
    one.transport.gate.clear()
    one.transport.last = failing(ServerError)
    for offset in range(6):
        one.take(offset, payload=offset, **NO_RETRY)
    one.transport.gate.set()
    await until(lambda: len(parked(one)) == 4)
    assert sorted(parked(one)) == [2, 3, 4, 5]
    assert one.transport.tasks == ["t0", "t1"]


async def test_a_deadline_before_the_circuit_closes_ends_at_once(make: Make) -> None:
    """Parking it would only delay the bad news."""
    one = make()
    await opened(one)
    one.take(2, metadata={"timeout": 2000})
    assert (await one.result(2))["error"]["code"] == "circuit_open"


async def test_a_parked_record_comes_back_on_time_with_what_it_spent(make: Make) -> None:
    """Held until due, then called; its attempts and deadline are those it had; meanwhile it rests and blocks nothing."""
    one = make()
    one.transport.script.append(failing(ServerError))
    due, expires = one.wall_ms() + 300, one.wall_ms() + 20_000
    headers = [(DUE_HEADER, due), (EXPIRES_HEADER, expires), (ATTEMPTS_HEADER, 1), (PARKS_HEADER, 2)]
    began = asyncio.get_running_loop().time()
    one.take(0, source="parked", headers=tuple((name, str(value).encode()) for name, value in headers))
    assert one.handler.resting() == 1
    assert one.handler.explain("parked", 0) == {"reason": "parked"}
    assert one.transport.calls == []
    result = await one.result(0)
    assert 0.25 < asyncio.get_running_loop().time() - began < 3.0
    assert one.handler.resting() == 0
    assert result["status"] == "success"
    assert result["retries"] == 2  # one before it was parked, one failure after, then the answer
    assert "task:started" not in one.kinds()
    assert all(call.timeout_s < 20 for _, call in one.transport.calls)


async def test_a_parked_record_that_is_due_is_taken_at_once(make: Make) -> None:
    """After a restart what was due meanwhile need not wait again."""
    one = make()
    one.take(0, source="parked", headers=((DUE_HEADER, b"1000"),))
    assert (await one.result(0))["status"] == "success"


async def test_a_full_queue_gives_way_only_to_other_agents(make: Make) -> None:
    """Alone, an agent's backlog holds its partition back; beside another's it is parked, and back when there is room."""
    one = make(dispatch={"lane_depth": 1})
    single = {"limits": {"maxRequests": 100, "windowMs": 60_000, "maxConcurrency": 1}}
    one.register(**AGENT, **single)
    one.transport.gate.clear()
    for offset in range(3):
        one.take(offset, payload=offset, **NO_RETRY)
    await asyncio.sleep(PATIENCE_S + 0.2)
    assert not one.handler.room("tasks")
    assert parked(one) == {}
    other = make(dispatch={"lane_depth": 1})
    other.register(**AGENT, **single)
    other.register(**{**AGENT, "id": "a2"})
    other.transport.gate.clear()
    other.take(0, target="a2")
    for offset in range(1, 4):
        other.take(offset, payload=offset, **NO_RETRY)
    assert not other.handler.room("tasks")  # the benefit of the doubt
    await until(lambda: other.handler.room("tasks"))
    assert sorted(parked(other)) == [3]
    output = parked(other)[3]
    assert marks(output)[PARKS_HEADER] == "1"
    assert 28_000 < int(marks(output)[DUE_HEADER]) - other.wall_ms() <= 30_000
    other.take(9, source="parked", headers=tuple(output.headers), payload=3, id="t3")
    other.take(
        10, source="parked", headers=without(output, DUE_HEADER), payload=4, id="t4"
    )  # due: looked at, held again
    assert other.handler.resting() == 2
    assert sorted(parked(other)) == [3]
    assert other.handler.room("tasks")
    other.transport.gate.set()
    assert (await other.result(9))["status"] == (await other.result(10))["status"] == "success"
    assert other.transport.tasks == ["t0", "t1", "t2", "t3", "t4"]


async def test_no_more_are_held_than_may_be(make: Make) -> None:
    """The rest stays on the topic; when some come back there is room again."""
    one = make()
    due = str(one.wall_ms() + 60_000).encode()
    for offset in range(MAX_HELD):
        assert one.handler.room("parked")
        one.take(offset, source="parked", headers=((DUE_HEADER, due),))
    assert not one.handler.room("parked")
    assert one.handler.room("tasks")


def test_parked_records_come_out_in_order_of_their_time() -> None:
    """Whatever the order they went in; bytes are counted down to nothing."""
    sizes = 7
    held: Parked[int] = Parked()
    dues = [(n * 37) % 101 for n in range(100)]
    for number, due in enumerate(dues):
        held.hold(number, due=float(due), size=sizes)
    out = [number for now in range(102) for number in held.due(float(now))]
    assert [dues[number] for number in out] == sorted(dues)
    assert (len(held), held.bytes) == (0, 0)
