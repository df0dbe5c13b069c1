"""Dispatch forwards the tasks of another partition's agents, with their deadline, and not in a loop without a pause."""

from __future__ import annotations

import pytest

from schemas.codec import header
from schemas.partitioning import owner_partition
from streams.dispatch.unassigned import CHECK_S
from streams.rules.dispatch.routing import MAX_HOPS
from streams.rules.source_record import AGENT_HEADER, EXPIRES_HEADER, HOPS_HEADER, ORIGIN_HEADER, own_header
from tests.support.dispatching import Make
from tests.support.dispatching import make as make
from tests.support.wait import settle, until

pytestmark = pytest.mark.virtual_time


def living_elsewhere(partitions: int = 4) -> str:
    """The id of an agent whose partition is not partition 0."""
    return next(name for name in (f"a{n}" for n in range(100)) if owner_partition(name, partitions) != 0)


def living_here(partitions: int = 4) -> str:
    """A task id that partition 0 is the arbiter of."""
    return next(name for name in (f"t{n}" for n in range(100)) if owner_partition(name, partitions) == 0)


async def test_a_task_of_another_partition_is_forwarded_and_keeps_its_deadline(make: Make) -> None:
    """The same bytes with agent, deadline, first timestamp and hop in headers; the attempt has its whole timeout there."""
    one = make(partitions=4)
    name = living_elsewhere()
    number = owner_partition(name, 4)
    one.register(id=name, endpoint="http://h", capabilities=["fly"])
    forged = ((AGENT_HEADER, b"a1"), (EXPIRES_HEADER, b"5"), (HOPS_HEADER, b"9"), ("mine", b"x"))
    before = one.wall_ms()
    task_id = living_here()
    one.take(0, id=task_id, target=None, capabilities=["fly"], headers=forged, metadata={"expiresIn": 30_000})
    [(_, _, [forward])] = one.partition.ended
    assert (forward.topic, forward.partition, forward.key) == ("dispatch", number, name.encode())
    assert header(forward.headers, AGENT_HEADER) == name
    assert own_header(forward.headers, HOPS_HEADER) == 1
    expires = own_header(forward.headers, EXPIRES_HEADER) or 0
    assert before + 30_000 <= expires <= one.wall_ms() + 30_000, "headers on `tasks` are not ours and count for nothing"
    assert header(forward.headers, "mine") == "x"
    assert one.transport.calls == []
    assert one.count("parallax_tasks_forwarded_total") == 1

    there = make(number, 4)
    there.register(id=name, endpoint="http://h", capabilities=["fly"])
    there.skew_ms = 10_000
    assert before <= (own_header(forward.headers, ORIGIN_HEADER) or 0) <= one.wall_ms()
    there.take(0, forward.value, source="dispatch", headers=tuple(forward.headers))
    assert (await there.result(0))["agentId"] == name
    assert 15 < there.transport.calls[0][1].timeout_s <= 20, "cut by the task's deadline, which was not begun anew"


@pytest.mark.parametrize("await_agent", ["unavailable", "never"])
async def test_after_too_many_hops_a_task_waits_before_each_further_one(make: Make, await_agent: str) -> None:
    """A loop has a pace. It is never done in a partition that does not own its agent: the owner would not know of the call."""
    one = make(partitions=4, dispatch={"await_agent": await_agent})
    name = living_elsewhere()
    one.register(id=name, endpoint="http://h", capabilities=["fly"])
    hops = ((HOPS_HEADER, str(MAX_HOPS - 1).encode()),)
    one.take(0, target=name, source="dispatch", headers=hops)
    assert own_header(one.partition.ended[0][2][0].headers, HOPS_HEADER) == MAX_HOPS
    often = ((HOPS_HEADER, str(MAX_HOPS).encode()),)
    one.take(1, target=name, source="dispatch", headers=often)
    # One whose agent went away as it came; another one is chosen.
    one.take(
        2, type="agent", target=None, capabilities=["fly"], source="dispatch", headers=(*often, (AGENT_HEADER, b"gone"))
    )
    began = one.wall_ms()
    await settle()
    assert [offset for _, offset, _ in one.partition.ended] == [0]
    await until(lambda: len(one.partition.ended) == 3, CHECK_S + 1)
    assert one.wall_ms() - began >= CHECK_S * 1000
    for _, _, [forward] in one.partition.ended[1:]:
        assert (forward.topic, own_header(forward.headers, HOPS_HEADER)) == ("dispatch", MAX_HOPS + 1)
    assert one.transport.calls == []


async def test_a_deadline_that_passed_on_the_way_ends_without_a_call(make: Make) -> None:
    """`expired`, status timeout, no data point."""
    one = make()
    one.take(0, source="dispatch", headers=((EXPIRES_HEADER, str(one.wall_ms() - 1).encode()),))
    end = await one.end(0)
    assert (end["results"]["status"], end["results"]["error"]["code"]) == ("timeout", "expired")
    assert end["events"]["type"] == "task:expired"
    assert set(end) == {"results", "events"}
    assert one.transport.calls == []
