"""What holds the commit goes out of the way: its record is written to `parked`, and the task goes on from there."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from agents_io.errors import ServerError
from streams.rules.engine.ledger import Ledger
from streams.rules.records import Output
from streams.rules.source_record import (
    AGENT_HEADER,
    ATTEMPTS_HEADER,
    EXPIRES_HEADER,
    MOVED_HEADER,
    ORIGIN_HEADER,
    own_header,
)
from tests.support.dispatching import AGENT, Dispatching, Make
from tests.support.dispatching import make as make
from tests.support.partition_fakes import intake
from tests.support.wait import settle, until

pytestmark = pytest.mark.virtual_time

ONE_AT_A_TIME: dict[str, Any] = {"limits": {"maxRequests": 1000, "windowMs": 1000, "maxConcurrency": 1}}


def ended(one: Dispatching, source: str, offset: int) -> list[list[Output]]:
    """What went out with the end of this record; one list per end."""
    return [outputs for at, number, outputs in one.partition.ended if (at, number) == (source, offset)]


def parked(one: Dispatching, offset: int, source: str = "tasks") -> Output:
    """The record that took this one's place."""
    [[output]] = ended(one, source, offset)
    assert output.topic == "parked"
    return output


def back(one: Dispatching, output: Output, offset: int) -> None:
    """The parked record is read."""
    one.take(offset, output.value, source="parked", headers=tuple(output.headers))


async def calling(make: Make) -> Dispatching:
    """A worker in the middle of the call of record 0; record 1 waits behind it."""
    one: Dispatching = make()
    one.register(**AGENT, **ONE_AT_A_TIME)
    one.transport.gate.clear()
    one.take(0)
    one.take(1, payload={"another": 1})
    await until(lambda: one.transport.tasks == ["t0"])
    return one


async def test_a_waiting_task_moves_and_keeps_its_turn(make: Make) -> None:
    """It costs no attempt; the record carries when the task came and when it must have ended."""
    one = await calling(make)
    one.take(2, payload={"last": 1}, metadata={"expiresIn": 60_000})
    one.handler.unblock("tasks", [1, 2])
    output = parked(one, 1)
    headers = dict(output.headers)
    assert headers[AGENT_HEADER] == b"a1"
    assert headers[MOVED_HEADER] == b"tasks/0/1"
    assert ATTEMPTS_HEADER not in headers
    assert EXPIRES_HEADER in headers, "`dispatch.max_wait` bounds every task"
    last = parked(one, 2).headers
    assert own_header(last, EXPIRES_HEADER) - own_header(last, ORIGIN_HEADER) == 60_000  # type: ignore[operator]
    back(one, output, 7)
    assert one.handler.explain("parked", 7)["reason"] == "concurrency"
    one.transport.gate.set()
    await one.result(0)
    assert (await one.result(7))["taskId"] == "t1"
    back(one, parked(one, 2), 8)
    assert (await one.result(8))["taskId"] == "t2"
    assert one.transport.tasks == ["t0", "t1", "t2"]


@pytest.mark.parametrize("first", ["the record", "the answer"])
async def test_a_call_goes_on_for_the_record_that_takes_the_place(make: Make, first: str) -> None:
    """One call, one result, with the end of the record on `parked`, whatever comes first."""
    one = await calling(make)
    one.handler.unblock("tasks", [0])
    output = parked(one, 0)
    assert dict(output.headers)[MOVED_HEADER] == b"tasks/0/0"
    if first == "the record":
        back(one, output, 5)
        assert one.handler.explain("parked", 5)["reason"] == "calling"
        one.transport.gate.set()
    else:
        one.transport.gate.set()
        await until(lambda: one.transport.tasks == ["t0", "t1"])
        assert not any("results" in {o.topic for o in outputs} for at, n, outputs in one.partition.ended if n == 0)
        back(one, output, 5)
    [outputs] = ended(one, "parked", 5) or [(await one.end(5), ended(one, "parked", 5))[1][0]]
    result = next(orjson.loads(o.value or b"") for o in outputs if o.topic == "results")
    assert (result["taskId"], result["status"], result["retries"]) == ("t0", "success", 0)
    assert one.transport.tasks.count("t0") == 1
    assert len(ended(one, "tasks", 0)) == 1
    assert one.kinds().count("task:parked") == 0


async def test_it_can_be_asked_again_and_moves_once(make: Make) -> None:
    """Until its record has come back nothing more happens to it; then it may move on again."""
    one = await calling(make)
    one.handler.unblock("tasks", [0])
    one.handler.unblock("tasks", [0])
    output = parked(one, 0)
    back(one, output, 5)
    one.handler.unblock("parked", [5])
    again = parked(one, 5, "parked")
    assert dict(again.headers)[MOVED_HEADER] == b"parked/0/5"
    back(one, again, 6)
    one.transport.gate.set()
    assert (await one.result(6))["taskId"] == "t0"


async def test_another_owner_makes_the_call_again(make: Make) -> None:
    """It does not know the call: for it the record is a task as any other, with no attempt used up."""
    one = await calling(make)
    one.handler.unblock("tasks", [0])
    output = parked(one, 0)
    assert ATTEMPTS_HEADER not in dict(output.headers)
    other = make()
    back(other, output, 5)
    assert (await other.result(5))["status"] == "success"
    assert other.transport.tasks == ["t0"]


async def test_while_it_moves_its_id_is_taken_and_it_can_be_cancelled(make: Make) -> None:
    """A second record with its id is a duplicate; a cancel cuts the call off."""
    one = await calling(make)
    one.handler.unblock("tasks", [0])
    one.take(2, id="t0")
    assert (await one.end(2))["events"]["type"] == "task:duplicate"
    one.cancel_requests["t0"] = "enough"
    one.handler.cancel("t0")
    await until(lambda: one.transport.cancelled == 1)
    back(one, parked(one, 0), 5)
    result = await one.result(5)
    assert (result["status"], result["error"]["message"]) == ("cancelled", "enough")


async def test_attempts_and_deadline_survive_a_move_to_another_owner(make: Make) -> None:
    """Two of three attempts are used up: the next owner makes the last one; the deadline is that of the first record."""
    one = make(retry={"max_retries": 2, "initial_delay": 60_000})
    one.transport.last = ServerError("500")
    headers = ((ATTEMPTS_HEADER, b"1"), (AGENT_HEADER, b"a1"), (EXPIRES_HEADER, b"99999999999999"))
    one.take(0, source="parked", headers=headers)
    await until(lambda: "task:retrying" in one.kinds())
    one.handler.unblock("parked", [0])
    output = parked(one, 0, "parked")
    assert own_header(output.headers, ATTEMPTS_HEADER) == 2
    assert own_header(output.headers, EXPIRES_HEADER) == 99999999999999
    other = make()
    other.transport.last = ServerError("500")
    back(other, output, 5)
    result = await other.result(5)
    assert (result["status"], result["retries"], len(other.transport.calls)) == ("failure", 2, 1)


async def test_a_record_that_is_left_on_its_topic_goes_to_the_end(make: Make) -> None:
    """The commit hangs on it: it is read back for that, moves, and keeps its turn."""
    one = make(dispatch={"max_held_bytes": 1})
    one.register(**AGENT, **ONE_AT_A_TIME)
    one.transport.gate.clear()
    for offset in range(3):
        one.take(offset, payload=offset)
    await until(lambda: one.resting == 2)
    one.handler.unblock("tasks", [1])
    await until(lambda: ended(one, "tasks", 1))
    output = parked(one, 1)
    assert orjson.loads(output.value or b"")["id"] == "t1"
    back(one, output, 5)
    one.transport.gate.set()
    assert (await one.result(5))["taskId"] == "t1"
    assert (await one.result(2))["taskId"] == "t2"
    assert one.transport.tasks == ["t0", "t1", "t2"]


async def test_records_that_moved_wait_on_parked_if_memory_is_short(make: Make) -> None:
    """They do not fill it: most stay there on the topic, and all are called in the order in which they came."""
    one = make(dispatch={"max_held_bytes": 200_000})
    one.register(**AGENT, limits={"maxRequests": 10_000, "windowMs": 1000, "maxConcurrency": 1})
    one.transport.gate.clear()
    count = 300
    came_ms = one.wall_ms() - 1000
    for offset in range(count):
        value = orjson.dumps({"id": f"t{offset}", "type": "agent", "target": "a1", "payload": offset})
        one.process("tasks", intake(offset, value, timestamp_ms=came_ms + offset))
    for offset in range(count):
        one.handler.unblock("tasks", [offset])
        await until(lambda offset=offset: ended(one, "tasks", offset))  # type: ignore[misc]
        back(one, parked(one, offset), 1000 + offset)
    assert one.memory.used <= 200_000
    assert one.resting > 200
    one.transport.gate.set()
    for offset in range(count):
        assert (await one.result(1000 + offset))["status"] == "success"
    assert one.transport.tasks == [f"t{offset}" for offset in range(count)]


async def test_a_task_that_waits_for_an_agent_moves_too(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is called once its agent comes; while its record is under way nothing turns in circles."""
    one = make(dispatch={"await_agent": "always"})
    one.take(0, target="late")
    await until(lambda: one.handler.explain("tasks", 0)["reason"] == "no_agent")
    one.handler.unblock("tasks", [0])
    output = parked(one, 0)
    late = one.register(id="late", endpoint="http://l")
    loop = asyncio.get_running_loop()
    turns, call_soon = [], loop.call_soon
    monkeypatch.setattr(
        loop, "call_soon", lambda call, *rest, **more: turns.append(call) or call_soon(call, *rest, **more)
    )
    one.handler.agent_available(late)
    await settle(100)
    monkeypatch.undo()
    assert one.transport.tasks == []
    back(one, output, 5)
    assert (await one.result(5))["agentId"] == "late"
    assert len(turns) < 110, "asked again in every turn of the loop, besides the turns of this test"


def test_blocking_offsets_are_the_first_of_a_map_that_nears_its_limit() -> None:
    """Far apart or close together; in runs too. Of a small map, or of one without anything in flight, there are none."""
    sparse, dense, runs, small = Ledger(0), Ledger(0), Ledger(0), Ledger(0)
    for offset in range(40_000):
        for ledger, waits in (
            (sparse, offset % 40 == 0),
            (dense, offset % 2 == 0),
            (runs, offset % 20 in (0, 1, 2)),
        ):
            ledger.track(offset)
            if not waits:
                ledger.done(offset)
    for offset in range(1000):
        small.track(offset)
        if offset % 40:
            small.done(offset)
    assert sparse.blocking_offsets(2) == [0, 40]
    assert dense.blocking_offsets(2) == [0, 2]
    assert runs.blocking_offsets(4) == [0, 1, 2, 20]
    assert small.blocking_offsets(2) == []
    assert Ledger(0).blocking_offsets(2) == []


def test_a_long_row_in_flight_is_no_blocker() -> None:
    """A hundred thousand that wait in a row are one run: the map stays small, and nothing moves."""
    ledger = Ledger(0)
    for offset in range(100_000):
        ledger.track(offset)
    for offset in range(99_000, 100_000):
        ledger.done(offset)
    assert ledger.blocking_offsets(2) == []
    assert not ledger.full()


@pytest.mark.parametrize("known", [True, False])
async def test_a_task_whose_agent_is_looked_up_moves_once_that_is_known(make: Make, known: bool) -> None:
    """To its agent's queue, or among the tasks without an agent: there it may wait for long, and would hold the commit."""
    one = make(dispatch={"await_agent": "always"})
    one.agents.gate.clear()
    if known:
        one.agents.late["late"] = one.register(**AGENT | {"id": "late"}, **ONE_AT_A_TIME)
        del one.agents.known["late"]
        one.transport.gate.clear()
    one.take(0, target="late")
    one.handler.unblock("tasks", [0])
    assert one.partition.ended == []
    one.agents.gate.set()
    await until(lambda: bool(one.partition.ended))
    assert parked(one, 0).value == one.log["tasks", 0].value
    assert len(one.partition.ended) == 1
