"""What holds the commit goes out of the way: a waiting task to `parked`, a call under way on behalf of a record there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from streams.rules.ledger import Ledger
from streams.rules.records import AGENT_HEADER, ATTEMPTS_HEADER, DUE_HEADER, MOVED_HEADER, Output
from tests.support.dispatching import AGENT, Dispatching
from tests.support.homes import until

ONE_AT_A_TIME: dict[str, Any] = {"limits": {"maxRequests": 1000, "windowMs": 1000, "maxConcurrency": 1}}


@pytest.fixture
async def make() -> AsyncIterator[Any]:
    """Handlers that are closed at the end."""
    made: list[Dispatching] = []

    def build(*args: Any, **fields: Any) -> Dispatching:
        made.append(Dispatching(*args, **fields))
        return made[-1]

    yield build
    for one in made:
        one.handler.close()


def ended(one: Dispatching, source: str, offset: int) -> list[list[Output]]:
    """What went out with the end of this record; one list per end."""
    return [outputs for at, number, outputs in one.home.ended if (at, number) == (source, offset)]


def parked(one: Dispatching, offset: int, source: str = "tasks") -> Output:
    """The record that took this one's place."""
    [[output]] = ended(one, source, offset)
    assert output.topic == "parked"
    return output


def back(one: Dispatching, output: Output, offset: int) -> None:
    """The parked record is read."""
    one.take(offset, output.value, source="parked", headers=tuple(output.headers))


async def calling(make: Any) -> Dispatching:
    """A worker in the middle of the call of record 0; record 1 waits behind it."""
    one: Dispatching = make()
    one.register(**AGENT, **ONE_AT_A_TIME)
    one.transport.gate.clear()
    one.take(0)
    one.take(1, payload={"another": 1})
    await until(lambda: one.transport.tasks == ["t0"])
    return one


async def test_a_waiting_task_is_parked(make: Any) -> None:
    """It costs no attempt, and comes back when its agent has room."""
    one = await calling(make)
    one.handler.relieve("tasks", [1])
    output = parked(one, 1)
    headers = dict(output.headers)
    assert headers[AGENT_HEADER] == b"a1"
    assert headers[ATTEMPTS_HEADER] == b"0"
    assert MOVED_HEADER not in headers
    assert one.kinds().count("task:parked") == 1
    one.transport.gate.set()
    await one.result(0)
    back(one, output, 7)
    assert (await one.result(7))["taskId"] == "t1"
    assert one.transport.tasks == ["t0", "t1"]


@pytest.mark.parametrize("first", ["the record", "the answer"])
async def test_a_call_goes_on_for_the_record_that_takes_the_place(make: Any, first: str) -> None:
    """One call, one result, with the end of the record on `parked`, whatever comes first."""
    one = await calling(make)
    one.handler.relieve("tasks", [0])
    output = parked(one, 0)
    assert dict(output.headers)[MOVED_HEADER] == b"tasks/0/0"
    assert int(dict(output.headers)[DUE_HEADER]) <= one.wall_ms()
    if first == "the record":
        back(one, output, 5)
        assert one.handler.explain("parked", 5)["reason"] == "calling"
        one.transport.gate.set()
    else:
        one.transport.gate.set()
        await until(lambda: one.transport.tasks == ["t0", "t1"])
        assert not any("results" in {o.topic for o in outputs} for at, n, outputs in one.home.ended if n == 0)
        back(one, output, 5)
    [outputs] = ended(one, "parked", 5) or [(await one.end(5), ended(one, "parked", 5))[1][0]]
    result = next(orjson.loads(o.value or b"") for o in outputs if o.topic == "results")
    assert (result["taskId"], result["status"], result["retries"]) == ("t0", "success", 0)
    assert one.transport.tasks.count("t0") == 1
    assert len(ended(one, "tasks", 0)) == 1
    assert one.kinds().count("task:parked") == 0


async def test_it_can_be_asked_again_and_moves_once(make: Any) -> None:
    """Until its record has come back nothing more happens to it; then it may move on again."""
    one = await calling(make)
    one.handler.relieve("tasks", [0])
    one.handler.relieve("tasks", [0])
    output = parked(one, 0)
    back(one, output, 5)
    one.handler.relieve("parked", [5])
    again = parked(one, 5, "parked")
    assert dict(again.headers)[MOVED_HEADER] == b"parked/0/5"
    back(one, again, 6)
    one.transport.gate.set()
    assert (await one.result(6))["taskId"] == "t0"


async def test_another_owner_makes_the_call_again(make: Any) -> None:
    """It does not know the call: for it the record is a parked task that is due, with no attempt spent."""
    one = await calling(make)
    one.handler.relieve("tasks", [0])
    output = parked(one, 0)
    assert dict(output.headers)[ATTEMPTS_HEADER] == b"0"
    other = make()
    back(other, output, 5)
    assert (await other.result(5))["status"] == "success"
    assert other.transport.tasks == ["t0"]


async def test_while_it_moves_its_id_is_taken_and_it_can_be_cancelled(make: Any) -> None:
    """A second record with its id is a duplicate; a cancel cuts the call off."""
    one = await calling(make)
    one.handler.relieve("tasks", [0])
    one.take(2, id="t0")
    assert (await one.end(2))["events"]["type"] == "task:duplicate"
    one.wishes["t0"] = "enough"
    one.handler.cancel("t0")
    await until(lambda: one.transport.cancelled == 1)
    back(one, parked(one, 0), 5)
    result = await one.result(5)
    assert (result["status"], result["error"]["message"]) == ("cancelled", "enough")


async def test_a_record_that_rests_goes_to_the_end(make: Any) -> None:
    """Parked for an hour, and the commit of `parked` hangs on it: it is written again as it is."""
    one = make()
    headers = ((DUE_HEADER, str(one.wall_ms() + 3_600_000).encode()), (AGENT_HEADER, b"a1"), ("mine", b"1"))
    one.take(3, source="parked", headers=headers)
    assert one.handler.resting() == 1
    one.handler.relieve("parked", [3])
    output = parked(one, 3, "parked")
    assert tuple(output.headers) == headers
    assert orjson.loads(output.value or b"")["id"] == "t3"
    assert one.handler.resting() == 0


def test_blockers_are_few_and_far_apart() -> None:
    """A map that is dense is no reason to move anything: it would only grow elsewhere."""
    sparse, dense, small = Ledger(0), Ledger(0), Ledger(0)
    for offset in range(40_000):
        for ledger, every in ((sparse, 40), (dense, 2)):
            ledger.track(offset)
            if offset % every:
                ledger.done(offset)
    for offset in range(1000):
        small.track(offset)
        if offset % 40:
            small.done(offset)
    assert sparse.blockers(2) == [0, 40]
    assert dense.blockers(2) == []
    assert small.blockers(2) == []
    assert Ledger(0).blockers(2) == []
