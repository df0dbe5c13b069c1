"""Cancelling: wherever a task is in its partition, it ends as `cancelled`, once, and a call under way is cut off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agents_io.errors import ServerError
from streams.rules.dispatch.backlog import Backlog
from tests.support.dispatching import AGENT, Dispatching
from tests.support.wait import until

pytestmark = pytest.mark.virtual_time

Make = Callable[..., Dispatching]
ONE = {"limits": {"maxRequests": 100, "windowMs": 60_000, "maxConcurrency": 1}}


@pytest.fixture
async def make() -> Any:
    """Makes handlers whose agent takes one call at a time and does not answer."""
    made: list[Dispatching] = []

    def build(**fields: Any) -> Dispatching:
        one = Dispatching(**fields)
        one.register(**AGENT, **ONE)
        one.transport.gate.clear()
        made.append(one)
        return one

    yield build
    for one in made:
        one.handler.close()


def cancel(one: Dispatching, task_id: str, why: str = "the task was cancelled: no longer wanted") -> None:
    """As the control table does it: the request is remembered, then told."""
    one.cancel_requests[task_id] = why
    one.handler.cancel(task_id)


async def ended(one: Dispatching, offset: int) -> dict[str, Any]:
    """Its result and event."""
    end = await one.end(offset)
    assert end["events"]["type"] == "task:cancelled"
    assert (end["results"]["status"], end["results"]["error"]["code"]) == ("cancelled", "cancelled")
    assert "no longer wanted" in end["results"]["error"]["message"]
    assert "data-points" not in end
    return end


async def test_a_running_task_is_cut_off_at_the_agent(make: Make) -> None:
    """The transport's call is cancelled; the next task gets the place; the agent's circuit is not touched."""
    one = make()
    one.take(0, payload=0)
    one.take(1, payload=1)
    await until(lambda: one.transport.tasks == ["t0"])
    cancel(one, "t0")
    await ended(one, 0)
    assert one.transport.cancelled == 1
    await until(lambda: one.transport.tasks == ["t0", "t1"])
    assert "circuit:open" not in one.kinds()


async def test_a_task_ends_without_a_call_wherever_it_waits(make: Make) -> None:
    """In its agent's queue, on its topic beyond what memory holds, and for an agent that is not there."""
    one = make(dispatch={"max_held_bytes": 1, "await_agent": "always"})
    for offset in range(3):
        one.take(offset, payload=offset)
    one.take(3, target="nobody")
    await until(lambda: one.transport.tasks == ["t0"])
    assert one.resting == 2
    cancel(one, "t2")
    await ended(one, 2)
    cancel(one, "t3")
    await ended(one, 3)
    cancel(one, "t1")
    await ended(one, 1)
    assert one.transport.tasks == ["t0"]


async def test_a_task_is_cancelled_behind_an_open_circuit_and_in_backoff(make: Make) -> None:
    """It need not wait for its turn to be told."""
    one = make(breaker={"failure_threshold": 1, "reset_timeout": 60_000}, retry={"initial_delay": 60_000})
    one.transport.script.append(ServerError("500"))
    one.transport.gate.set()
    one.take(0)
    await until(lambda: "task:retrying" in one.kinds())
    one.take(1, payload=1)
    for offset in (0, 1):
        cancel(one, f"t{offset}")
        await ended(one, offset)
    assert one.transport.tasks == ["t0"]


async def test_a_task_is_cancelled_while_its_record_moves(make: Make) -> None:
    """It ends with the record that takes the place."""
    one = make()
    one.take(0)
    one.take(1, payload=1)
    await until(lambda: one.transport.tasks == ["t0"])
    one.handler.unblock("tasks", [1])
    [(_, _, [moved])] = one.partition.ended
    cancel(one, "t1")
    one.take(7, moved.value, source="parked", headers=tuple(moved.headers))
    await ended(one, 7)


async def test_a_task_that_comes_after_the_wish_is_not_called(make: Make) -> None:
    """The request may be read before the task is."""
    one = make()
    cancel(one, "t0")
    one.take(0)
    await ended(one, 0)
    assert one.transport.calls == []


async def test_a_wish_for_what_is_not_here_does_nothing(make: Make) -> None:
    """Another worker's task, or one that is finished."""
    one = make()
    one.transport.gate.set()
    one.take(0)
    assert (await one.result(0))["status"] == "success"
    cancel(one, "t0")
    cancel(one, "nobody")
    assert len(one.partition.ended) == 1


async def test_every_task_of_the_id_is_cancelled(make: Make) -> None:
    """One id sent for two agents is two tasks: called, in a queue, or on its topic."""
    one = make(dispatch={"max_held_bytes": 1})
    one.register(**AGENT | {"id": "a2"}, **ONE)
    one.take(0, id="t", target=AGENT["id"])
    one.take(1, id="t", target="a2")
    one.take(2, id="u", target="a2", payload=2)
    one.take(3, id="u", target=AGENT["id"], payload=3)
    await until(lambda: len(one.transport.tasks) == 2)
    cancel(one, "t")
    await ended(one, 0)
    await ended(one, 1)
    await until(lambda: one.transport.tasks == ["t", "t", "u", "u"])


async def test_many_cancels_at_once_search_what_waits_on_the_topic_once(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search for each would go through the whole backlog each time, and hold up the worker for seconds."""
    searches: list[int] = []
    take_tasks = Backlog.take_tasks

    def counted(self: Backlog, task_hashes: Any) -> Any:
        searches.append(len(task_hashes))
        return take_tasks(self, task_hashes)

    monkeypatch.setattr(Backlog, "take_tasks", counted)
    one = make(dispatch={"max_held_bytes": 1})
    for offset in range(100):
        one.take(offset, payload=offset)
    await until(lambda: one.transport.tasks == ["t0"])
    assert one.resting == 99
    for offset in range(1, 51):
        cancel(one, f"t{offset}")
    for offset in range(1, 51):
        await ended(one, offset)
    assert searches == [50]
    assert (one.resting, one.transport.tasks) == (49, ["t0"])
