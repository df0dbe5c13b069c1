"""Schedules of one partition: each time makes one task, through changes, pauses, outages, and owners that come and go."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from schemas.exact_json import loads
from schemas.messages import Event, Schedule, ScheduleMemory
from schemas.partitioning import owner_partition
from schemas.times import format_time, parse_time
from schemas.wire_format import KEY_HEADER, VALUE_HEADER
from streams.rules.records import Output
from streams.rules.schedules.listing import Listing
from streams.rules.schedules.records import ScheduleRecorder
from streams.rules.source_record import FIRED_HEADER
from streams.schedules import recurring
from tests.support.scheduling import Scheduling

pytestmark = pytest.mark.virtual_time

EVERY = {"everyMs": 10_000}
HOUR_S = 3600.0


def ids(s: Scheduling) -> list[str]:
    """Of the tasks that were committed, in order."""
    return [loads(output.value or b"")["id"] for output in s.partition.committed if output.topic == "tasks"]


def times_of(s: Scheduling, schedule_id: str = "s") -> list[int]:
    """The times, epoch ms, that a schedule made tasks of."""
    found = [name.rpartition("@") for name in ids(s)]
    return [parse_time(at) for name, _, at in found if name == schedule_id]


def grid(first_ms: int, last_ms: int, every_ms: int = 10_000) -> list[int]:
    """The times of an interval that are later than one and not later than the other."""
    return list(range(first_ms - first_ms % every_ms + every_ms, last_ms + 1, every_ms))


def changed(old: Scheduling) -> tuple[Scheduling, list[int]]:
    """The next owner takes up a schedule and then its change: the owner, and the times of the tasks of that change."""
    old.record_schedule("s", everyMs=3_600_000)
    s = Scheduling(schedules=old.schedules, head=1)
    s.handler.process("schedules", s.schedules[1])
    made = [loads(o.value or b"")["id"] for _, _, outputs in s.partition.ended for o in outputs if o.topic == "tasks"]
    return s, [parse_time(name.partition("@")[2]) for name in made]


async def test_each_time_makes_one_task_in_one_transaction_with_its_memory() -> None:
    """Named after the time, keyed as users key tasks, as a CloudEvent."""
    s = Scheduling()
    begun_ms = s.wall_ms()
    assert s.schedule("s", **EVERY) == []
    assert s.count("parallax_schedules") == 1
    await asyncio.sleep(35)
    assert times_of(s) == grid(begun_ms, s.wall_ms())
    task, memory = s.partition.committed[:2]
    at = format_time(times_of(s)[0])
    assert loads(task.value or b"") == {"id": f"s@{at}", "type": "agent", "target": "a1", "payload": 1}
    assert (task.topic, task.key, task.partition) == ("tasks", b"a1", None)
    assert dict(task.headers)["ce_source"] == b"/parallax/app/schedules"
    assert (memory.topic, memory.key, memory.partition) == ("schedule-state", b"app/fired/s", 0)
    ScheduleMemory.model_validate(loads(memory.value or b""))
    assert s.count("parallax_schedule_tasks_total") == len(ids(s))
    s.handler.close()


async def test_a_new_owner_goes_on_where_the_last_one_committed() -> None:
    """What was not committed is done again under the same name; what was is not."""
    old = Scheduling()
    begun_ms = old.wall_ms()
    old.schedule("s", **EVERY)
    await asyncio.sleep(25)
    old.handler.close()
    made = times_of(old)
    await asyncio.sleep(20)
    s = Scheduling(schedules=old.schedules, head=1, state=old.state())
    await asyncio.sleep(20)
    assert times_of(s)[0] == made[-1] + 10_000
    assert made + times_of(s) == grid(begun_ms, s.wall_ms())
    s.handler.close()


async def test_a_record_that_is_handed_over_again_changes_nothing() -> None:
    """Its offset was not committed; its times were."""
    old = Scheduling()
    begun_ms = old.wall_ms()
    old.schedule("s", **EVERY)
    await asyncio.sleep(25)
    old.handler.close()
    s = Scheduling(schedules=old.schedules, head=0, state=old.state())
    await asyncio.sleep(5)
    assert s.count("parallax_schedules") == 0, "not accepted, so not begun"
    s.handler.process("schedules", s.schedules[0])
    await asyncio.sleep(20)
    assert times_of(old) + times_of(s) == grid(begun_ms, s.wall_ms())
    s.handler.close()


@pytest.mark.parametrize(("catch_up", "most"), [("skip", 1), ("one", 2), ("all", 61)])
async def test_after_an_outage_missed_times_are_made_up_for_as_the_schedule_says(catch_up: str, most: int) -> None:
    """An hour without a worker."""
    old = Scheduling()
    old.schedule("s", everyMs=60_000, catchUp=catch_up)
    old.handler.close()
    await asyncio.sleep(HOUR_S)
    s = Scheduling(schedules=old.schedules, head=1)
    await asyncio.sleep(1)
    assert most - 1 <= len(ids(s)) <= most
    assert s.wall_ms() - times_of(s)[-1] <= 61_000
    s.handler.close()


async def test_many_missed_times_are_made_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is lost or made twice between them."""
    monkeypatch.setattr(recurring, "MAX_AT_ONCE", 7)
    old = Scheduling()
    begun_ms = old.wall_ms()
    old.schedule("s", everyMs=1000, catchUp="all")
    old.handler.close()
    await asyncio.sleep(100)
    s = Scheduling(schedules=old.schedules, head=1)
    await asyncio.sleep(2)
    assert times_of(s) == grid(begun_ms, s.wall_ms(), 1000)
    assert max(s.partition.batches) == 8
    s.handler.close()


async def test_many_schedules_of_one_time_are_made_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    """One batch follows the other at once, and none is left out."""
    monkeypatch.setattr(recurring, "MAX_AT_ONCE", 10)
    s = Scheduling()
    names = [f"s{number}" for number in range(30)]
    for name in names:
        s.schedule(name, everyMs=600_000)
    [at_ms] = grid(s.wall_ms(), s.wall_ms() + 600_000, 600_000)
    await asyncio.sleep((at_ms - s.wall_ms()) / 1000 + 0.5)
    assert sorted(name.partition("@")[0] for name in ids(s)) == sorted(names)
    assert s.partition.batches == [10] * 6
    s.handler.close()


async def test_large_tasks_of_missed_times_are_made_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of many schedules: a transaction of hundreds of them, of a megabyte each, is more than a worker can hold."""
    monkeypatch.setattr(recurring, "MAX_BYTES_AT_ONCE", 20_000)
    old = Scheduling()
    begun_ms, names = old.wall_ms(), [f"s{number}" for number in range(6)]
    task = {"type": "agent", "target": "a1", "payload": "x" * 9000}
    for name in names:
        old.schedule(name, task=task, everyMs=1000, catchUp="all")
    old.handler.close()
    await asyncio.sleep(30)
    s = Scheduling(schedules=old.schedules, head=len(names))
    await asyncio.sleep(3)
    for name in names:
        assert times_of(s, name) == grid(begun_ms, s.wall_ms(), 1000)
    assert 3 <= max(s.partition.batches) <= 7
    s.handler.close()


async def test_a_fault_in_one_schedule_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its times are made later, also if it is changed meanwhile."""
    make, broken = ScheduleRecorder.firing, {"bad", "changed"}

    def firing(recorder: ScheduleRecorder, schedule: Schedule, at_ms: int, now_ms: int) -> Output:
        if schedule.id in broken:
            raise ValueError("a fault")
        return make(recorder, schedule, at_ms, now_ms)

    monkeypatch.setattr(ScheduleRecorder, "firing", firing)
    s = Scheduling()
    begun_ms = s.wall_ms()
    for name in ("bad", "changed", "good"):
        s.schedule(name, **EVERY, catchUp="all")
    await asyncio.sleep(25)
    assert times_of(s, "good") == grid(begun_ms, s.wall_ms())
    assert s.schedule("changed", **EVERY, paused=True) == []
    assert times_of(s, "bad") == []
    broken.clear()
    await asyncio.sleep(60)
    assert times_of(s, "bad") == grid(begun_ms, s.wall_ms())
    s.handler.close()


@pytest.mark.parametrize("payload", [b"[" * 300 + b"]" * 300, b'"%s"' % (b"x" * 10_000)])
async def test_a_schedule_whose_tasks_cannot_be_written_is_refused_as_it_comes(payload: bytes) -> None:
    """Its neighbours go on."""
    s = Scheduling()
    s.schedule("s", **EVERY)
    value = b'{"id":"bad","everyMs":10000,"task":{"type":"agent","target":"a1","payload":%s}}' % payload
    assert [output.topic for output in s.take_schedule(b"bad", value)] == ["dlq.schedules", "events"]
    await asyncio.sleep(15)
    assert len(times_of(s)) >= 1
    assert times_of(s, "bad") == []
    s.handler.close()


async def test_a_clock_that_was_far_ahead_once_does_not_silence_a_schedule() -> None:
    """What was fired last, and when the record came, lie a year ahead: neither can be true."""
    year_ms = 365 * 24 * 3_600_000
    old = Scheduling()
    old.schedule("s", **EVERY, ahead_ms=year_ms)
    old.handler.close()
    ahead = ScheduleRecorder("app", "t.", "g").fired("s", old.wall_ms() + year_ms, 0, 0)
    s = Scheduling(schedules=old.schedules, head=1, state=[ahead.value or b""])
    await asyncio.sleep(100)
    assert len(times_of(s)) >= 3
    s.handler.close()


async def test_a_paused_schedule_makes_nothing_and_goes_on_from_its_resumption() -> None:
    """What it would have made meanwhile is not made up for, whatever it says."""
    s = Scheduling()
    s.schedule("s", **EVERY, catchUp="all")
    await asyncio.sleep(15)
    s.schedule("s", **EVERY, catchUp="all", paused=True)
    before = times_of(s)
    await asyncio.sleep(100)
    assert times_of(s) == before
    resumed_ms = s.wall_ms()
    s.schedule("s", **EVERY, catchUp="all")
    await asyncio.sleep(15)
    assert times_of(s)[len(before) :] == grid(resumed_ms, s.wall_ms())
    s.handler.close()


async def test_times_before_a_change_count_as_the_schedule_was() -> None:
    """Also if the owner takes both records up later."""
    old = Scheduling()
    begun_ms = old.wall_ms()
    old.schedule("s", **EVERY)
    old.handler.close()
    await asyncio.sleep(25)
    changed_ms = old.wall_ms()
    s, made = changed(old)
    assert made == grid(begun_ms, changed_ms)
    await asyncio.sleep(30)
    assert times_of(s) == [] or min(times_of(s)) >= changed_ms
    s.handler.close()


async def test_all_missed_times_before_a_change_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if they are more than one portion."""
    monkeypatch.setattr(recurring, "MAX_AT_ONCE", 7)
    old = Scheduling()
    begun_ms = old.wall_ms()
    old.schedule("s", everyMs=1000, catchUp="all")
    old.handler.close()
    await asyncio.sleep(100)
    changed_ms = old.wall_ms()
    s, made = changed(old)
    assert made == grid(begun_ms, changed_ms, 1000)
    s.handler.close()


async def test_a_change_counts_from_the_brokers_clock() -> None:
    """It is ahead of this worker's, and a time lies between the two: it is the old schedule's. A year ahead is no clock."""
    s = Scheduling()
    begun_ms = s.wall_ms()
    s.schedule("s", **EVERY)
    left_ms = grid(begun_ms, begun_ms + 10_000)[0] - begun_ms
    await asyncio.sleep((left_ms - 50) / 1000)
    s.schedule("s", **EVERY, ahead_ms=100)
    [task, _] = s.partition.ended[-1][2]
    assert task.topic == "tasks"
    outputs = s.schedule("s", **EVERY, ahead_ms=365 * 24 * 3_600_000)
    assert len(outputs) < 10
    s.handler.close()


async def test_a_removed_schedule_makes_nothing_and_is_forgotten() -> None:
    """With what was remembered of its times."""
    s = Scheduling()
    s.schedule("s", **EVERY)
    await asyncio.sleep(15)
    before = ids(s)
    [tombstone] = s.remove("s")
    assert (tombstone.topic, tombstone.key, tombstone.value) == ("schedule-state", b"app/fired/s", None)
    await asyncio.sleep(30)
    assert ids(s) == before
    assert s.count("parallax_schedules") == 0
    s.handler.close()


OTHER = b'{"id":"other","everyMs":5000,"task":{"type":"agent","target":"a","payload":1}}'


@pytest.mark.parametrize("value", [b"{", b"[]", b'{"id":"s","cron":"61 * * * *","task":{}}', OTHER])
async def test_what_is_no_schedule_becomes_a_dead_letter_and_ends_the_one_of_its_id(value: bytes) -> None:
    """A new owner would find the invalid record only."""
    s = Scheduling()
    s.schedule("s", **EVERY)
    outputs = s.take_schedule(b"s", value)
    assert [output.topic for output in outputs] == ["dlq.schedules", "events"]
    event = Event.model_validate(loads(outputs[1].value or b""))
    assert (event.type, event.data["topic"]) == ("task:dead-lettered", "t.schedules")
    assert outputs[0].value == value
    await asyncio.sleep(30)
    assert ids(s) == []
    assert s.count("parallax_schedules_dead_letters_total") == 1
    s.handler.close()


async def test_a_schedule_in_another_partition_is_sent_on_once() -> None:
    """Written by a client with another partitioner. The mark it leaves is not sent on; a user's removal is."""
    s = Scheduling(partitions=50)
    name = next(name for name in map(str, range(1000)) if owner_partition(name, 50) != 0)
    forward, mark = s.schedule(name, **EVERY)
    assert (forward.topic, forward.partition, forward.key) == ("schedules", owner_partition(name, 50), name.encode())
    assert (mark.topic, mark.partition, mark.value) == ("schedules", 0, None)
    assert s.take_schedule(mark.key, None, tuple(mark.headers)) == []
    removal, _ = s.remove(name)
    assert (removal.partition, removal.value) == (owner_partition(name, 50), None)
    await asyncio.sleep(30)
    assert ids(s) == []
    s.handler.close()


@pytest.mark.parametrize("beside", [False, True])
async def test_a_key_with_a_schemas_id_becomes_the_plain_id(beside: bool) -> None:
    """By Confluent's serializers. Compaction compares bytes: a later plain record must be able to replace it or to remove it."""
    s = Scheduling()
    key, headers = b'\0\0\0\0\7"s"', ((VALUE_HEADER, b"\1" + bytes(16)),)
    if beside:
        key, headers = b'"s"', ((KEY_HEADER, b"\1" + bytes(16)), *headers)
    value = orjson.dumps({"id": "s", "task": {"type": "agent", "target": "a1", "payload": 1}} | EVERY)
    forward, mark = s.take_schedule(key, value, headers)
    assert (forward.key, forward.value, forward.partition) == (b"s", value, 0)
    assert list(forward.headers) == [(VALUE_HEADER, b"\1" + bytes(16))]
    assert (mark.key, mark.value) == (key, None)
    assert s.take_schedule(mark.key, None, (*mark.headers, *headers)) == []
    assert s.take_schedule(forward.key, forward.value, tuple(forward.headers)) == []
    s.handler.close()
    later = Scheduling(schedules=s.schedules, head=3)
    begun_ms = later.wall_ms()
    await asyncio.sleep(15)
    assert times_of(later) == grid(begun_ms, later.wall_ms())
    later.remove("s")
    assert later.count("parallax_schedules") == 0
    later.handler.close()


async def test_after_partitions_were_added_a_schedule_moves_to_its_new_owner() -> None:
    """Once; the next owner of the old partition finds the mark."""
    name = next(name for name in map(str, range(1000)) if owner_partition(name, 50) != 0)
    old = Scheduling()
    old.schedule(name, **EVERY)
    old.handler.close()
    s = Scheduling(schedules=old.schedules, head=1, partitions=50)
    await asyncio.sleep(1)
    forward, mark = s.partition.committed
    assert forward.partition == owner_partition(name, 50)
    [written] = [record for record in old.schedules if record.value is not None]
    assert dict(forward.headers)[FIRED_HEADER] == str(written.timestamp).encode(), "it had made no task yet"
    s.take_schedule(mark.key, None, tuple(mark.headers))
    s.handler.close()
    last = Scheduling(schedules=s.schedules, head=2, partitions=50)
    await asyncio.sleep(1)
    assert last.partition.committed == []
    last.handler.close()


async def test_schedules_and_waiting_tasks_are_served_together() -> None:
    """Neither keeps the other from its time."""
    s = Scheduling()
    s.take(0, "t", 15.0)
    s.schedule("s", **EVERY)
    await asyncio.sleep(30)
    assert s.released() == ["t"]
    assert 2 <= len(ids(s)) <= 3
    s.handler.close()


async def test_the_page_has_each_schedule_with_its_next_time() -> None:
    """As it was written."""
    s = Scheduling()
    s.schedule("s", **EVERY)
    s.schedule("p", **EVERY, paused=True)
    paused, running = s.handler.rows()
    assert (paused["id"], paused["next"], running["id"]) == ("p", None, "s")
    assert parse_time(running["next"]) > s.wall_ms()
    s.handler.close()


def record(
    key: str, value: Any, *headers: tuple[str, bytes]
) -> tuple[bytes, bytes | None, tuple[tuple[str, bytes], ...]]:
    """As `Listing` takes it."""
    return key.encode(), None if value is None else orjson.dumps(value), headers


async def test_who_looks_at_the_topic_finds_what_workers_find() -> None:
    """The newest of each id; what is refused, with the reason; no worker's marks."""
    good = {"id": "s", "everyMs": 5000, "task": {"type": "agent", "target": "a", "payload": 1}}
    listing = Listing()
    for row in (
        record("s", good), record("s", None, ("parallax-moved", b"1")), record("gone", good | {"id": "gone"}),
        record("gone", None), record("bad", good | {"id": "bad", "everyMs": 1}), record("key", good),
    ):  # fmt: skip
        listing.add(*row)
    assert listing.found == {"s": good}
    assert listing.refused.keys() == {"bad", "key"}


async def test_memory_that_is_not_understood_is_passed_over() -> None:
    """And that of another application."""
    s = Scheduling(state=[b"{", b'{"app":"other","at":5,"fired":{"scheduleId":"s","time":5}}'])
    s.schedule("s", **EVERY)
    await asyncio.sleep(15)
    assert len(ids(s)) in (1, 2)
    s.handler.close()


async def test_a_number_of_thousands_of_digits_in_a_header_stops_nothing() -> None:
    """Python reads no such number. Neither this owner nor the next stumbles over it, and what waits there is released."""
    s = Scheduling()
    value = s.record_schedule("s", **EVERY).value
    assert s.take_schedule(b"s", value, ((FIRED_HEADER, b"9" * 5000),)) == []
    await asyncio.sleep(15)
    assert len(ids(s)) == 1
    after = Scheduling(head=2, schedules=s.schedules)
    after.take(7, "t1", 5.0)
    await asyncio.sleep(15)
    assert after.released() == ["t1"]
    assert ids(after) != []
