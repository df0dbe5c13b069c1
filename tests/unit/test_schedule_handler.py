"""The role `schedules` on one partition: what waits, what it releases and when, what a new owner knows."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError

from schemas.codec import header
from streams.rules.source_record import CANCELLED_HEADER, EXPIRES_HEADER, HOPS_HEADER, ORIGIN_HEADER
from streams.schedules.handler import BATCH
from streams.schedules.reader import WaitingRows
from tests.support.partition_fakes import intake
from tests.support.scheduling import Scheduling

pytestmark = pytest.mark.virtual_time

HOUR_S = 3600.0


async def test_tasks_are_released_in_the_order_of_their_times() -> None:
    """Not before them, whatever the order in which they came; each with its tombstone in one transaction."""
    s = Scheduling()
    for offset, (task_id, in_s) in enumerate({"far": 5 * HOUR_S, "near": 10.0, "mid": HOUR_S}.items()):
        assert s.take(offset, task_id, in_s) == []
    assert s.count("parallax_scheduled_tasks") == 3
    await asyncio.sleep(9.9)
    assert s.released() == []
    await asyncio.sleep(0.2)
    assert s.released() == ["near"]
    assert [output.key for output in s.partition.committed if output.value is None] == [b"tasks/0/1/near"]
    await asyncio.sleep(6 * HOUR_S)
    assert s.released() == ["near", "mid", "far"]
    assert s.count("parallax_scheduled_tasks") == 0
    assert s.count("parallax_scheduled_tasks_released_total") == 3
    s.handler.close()


async def test_a_released_record_carries_what_was_known() -> None:
    """First timestamp, deadline, that its time has come, and the user's headers."""
    s = Scheduling()
    output, tombstone = s.take(0, "t", -1.0)
    found = dict(output.headers)
    assert (output.topic, output.key, output.partition) == ("dispatch", b"a1", 0)
    assert int(found.pop("parallax-not-before")) < s.wall_ms()
    assert found == {"mine": b"1", ORIGIN_HEADER: b"5", EXPIRES_HEADER: b"77", HOPS_HEADER: b"0"}
    assert (tombstone.topic, tombstone.key, tombstone.value) == ("scheduled", b"tasks/0/0/t", None)
    s.handler.close()


async def test_the_second_record_of_a_waiting_task_is_a_duplicate() -> None:
    """The first one stays, with its time."""
    s = Scheduling()
    s.take(0, "t", HOUR_S)
    event, tombstone = s.take(1, "t", 1.0)
    assert (event.topic, tombstone.key) == ("events", b"tasks/0/1/t")
    await asyncio.sleep(2 * HOUR_S)
    assert s.released() == ["t"]
    s.handler.close()


async def test_of_two_records_the_one_with_an_agent_is_no_duplicate() -> None:
    """The id counts as taken by it: dispatch refuses the other one. A cancel releases both."""
    s = Scheduling()
    s.take(0, "t", HOUR_S)
    record = s.record(1, "t", HOUR_S)
    s.log[1] = replace(record, headers=(*record.headers, ("parallax-agent", b"a1")))
    s.handler.process("scheduled", s.log[1])
    assert s.partition.ended[-1][2] == []
    s.cancelled["t"] = "why"
    s.handler.cancel("t")
    await asyncio.sleep(1)
    assert s.released() == ["t", "t"]
    s.handler.close()


async def test_a_waiting_task_that_is_cancelled_goes_to_dispatch_at_once_with_the_reason() -> None:
    """Another one with the same request would be a different task: it stays."""
    s = Scheduling()
    s.take(0, "t", HOUR_S)
    s.take(1, "other", HOUR_S)
    s.handler.cancel("unknown")
    s.handler.cancel("other")  # its request is older than the task
    s.cancelled["t"] = "the task was cancelled"
    s.handler.cancel("t")
    await asyncio.sleep(1)
    [output] = [output for output in s.partition.committed if output.topic == "dispatch"]
    assert (s.id_of(output), header(output.headers, CANCELLED_HEADER)) == ("t", "the task was cancelled")
    assert s.count("parallax_scheduled_tasks") == 1
    await asyncio.sleep(2 * HOUR_S)
    assert s.released() == ["t", "other"]
    s.handler.close()


async def test_a_task_that_was_cancelled_before_it_came_does_not_wait() -> None:
    """Requests and tasks may come in any order."""
    s = Scheduling(t="why")
    output, _ = s.take(0, "t", HOUR_S)
    assert header(output.headers, CANCELLED_HEADER) == "why"
    s.handler.close()


async def test_a_new_owner_releases_what_earlier_ones_accepted_and_no_record_twice() -> None:
    """Records that were not accepted are handed over again: they wait once, and are no duplicates of themselves."""
    old = Scheduling()
    for offset, task_id in enumerate(("a", "b", "c")):
        old.take(offset, task_id, 10.0)
    old.handler.close()
    s = Scheduling(dict(old.log), head=1, a="why")
    for offset in (1, 2):
        s.handler.process("scheduled", s.log[offset])
    assert [outputs for _, _, outputs in s.partition.ended] == [[], []]
    await asyncio.sleep(1)
    assert s.released() == ["a"], "cancelled while there was no owner"
    await asyncio.sleep(20)
    assert s.released() == ["a", "b", "c"]
    s.handler.close()


async def test_what_was_released_is_not_known_to_a_new_owner() -> None:
    """A tombstone takes its record back."""
    rows = WaitingRows()
    s = Scheduling()
    record = s.record(0, "t", HOUR_S)
    rows.add(record)
    rows.add(intake(1, None, source="scheduled", key=record.key))
    assert len(rows.tasks()) == 0
    s.handler.close()


async def test_many_tasks_of_one_time_are_released_in_batches() -> None:
    """Each batch is committed before the next one is read."""
    s = Scheduling()
    for offset in range(2 * BATCH + 5):
        s.take(offset, f"t{offset}", 10.0)
    await asyncio.sleep(11)
    assert s.partition.batches == [2 * BATCH, 2 * BATCH, 10]
    assert len(set(s.released())) == 2 * BATCH + 5
    s.handler.close()


async def test_a_broker_that_is_away_delays_a_release_and_loses_none() -> None:
    """The records are read again a moment later."""
    s = Scheduling()
    s.read_errors += [KafkaConnectionError(), TimeoutError()]
    s.take(0, "t", 1.0)
    await asyncio.sleep(10)
    assert s.released() == ["t"]
    s.handler.close()


async def test_schedules_go_on_while_waiting_tasks_cannot_be_read() -> None:
    """Their partition has no leader, or the registry of a schema is away: what schedules made is committed."""
    s = Scheduling()
    s.schedule("s", everyMs=10_000)
    s.read_errors += [TimeoutError()] * 100
    s.take(0, "t", 1.0)
    await asyncio.sleep(52)
    assert sum(output.topic == "tasks" for output in s.partition.committed) == 5
    assert s.released() == []
    await asyncio.sleep(100)
    assert s.released() == ["t"]
    s.handler.close()


async def test_a_record_that_is_gone_is_reported() -> None:
    """And the others are released."""
    s = Scheduling()
    s.take(0, "t", 1.0)
    s.take(1, "u", 1.0)
    del s.log[0]
    await asyncio.sleep(5)
    assert (s.released(), s.partition.reported) == (["u"], [0])
    s.handler.close()


@pytest.mark.parametrize("value", [b"[]", b"{", b'{"id":5}'])
async def test_a_record_that_is_no_task_becomes_a_dead_letter(value: bytes) -> None:
    """When it is due; its neighbours are released."""
    s = Scheduling()
    s.take(0, "t", 1.0, value)
    s.take(1, "u", 1.0)
    await asyncio.sleep(5)
    topics = [output.topic for output in s.partition.committed]
    assert topics.count("dlq.scheduled") == 1
    assert s.released() == ["u"]
    s.handler.close()


async def test_a_record_without_the_headers_of_a_worker_becomes_a_dead_letter() -> None:
    """Somebody else wrote it."""
    s = Scheduling()
    s.handler.process("scheduled", intake(0, b"{}", source="scheduled", key=b"k"))
    assert [output.topic for output in s.partition.ended[0][2]] == ["dlq.scheduled", "events", "scheduled"]
    s.handler.process("scheduled", intake(1, None, source="scheduled", key=b"k"))
    assert s.partition.skipped == [1]
    s.handler.close()


async def test_what_a_task_waits_for_can_be_asked() -> None:
    """By its id."""
    s = Scheduling()
    s.take(0, "t", HOUR_S)
    found: dict[str, Any] | None = s.handler.explain_task("t")
    assert found is not None
    assert (found["reason"], found["waits"]) == ("not_before", True)
    assert s.handler.explain_task("u") is None
    s.handler.close()


async def test_a_handler_that_is_held_releases_nothing_more() -> None:
    """Its partition moves."""
    s = Scheduling()
    s.take(0, "t", 1.0)
    s.handler.hold()
    await asyncio.sleep(5)
    assert s.released() == []
    s.handler.close()
