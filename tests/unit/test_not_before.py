"""`metadata.notBefore` in dispatch: what waits on the topic `scheduled`, what is called at once, what fails at once."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from schemas.codec import header
from streams import InvalidTask, TaskCancelled
from streams.rules.records import Output
from streams.rules.schedules.records import ScheduleRecorder, read_due
from streams.rules.source_record import CANCELLED_HEADER, EXPIRES_HEADER, ORIGIN_HEADER, SourceRecord
from streams.testing import FakeAgent, VirtualTime
from tests.support.coordinating import Coordinating
from tests.support.dispatching import Dispatching
from tests.support.partition_fakes import intake
from tests.support.scheduling import Scheduling

pytestmark = pytest.mark.virtual_time

HOUR_MS = 3_600_000
STEP_SOURCE = ("ce_source", b"/parallax/app/plans")


async def scheduled(d: Dispatching, offset: int) -> Output:
    """The record of a task that waits for its time."""
    await d.end(offset)
    [outputs] = [outputs for _, o, outputs in d.partition.ended if o == offset]
    [output] = outputs
    assert output.topic == "scheduled"
    return output


def released(output: Output, now_ms: int, cancel_reason: str | None = None) -> tuple[Any, ...]:
    """The record that the role `schedules` writes to dispatch: value and headers."""
    record = SourceRecord("scheduled", 0, 9, output.key, output.value, tuple(output.headers), now_ms)
    first, tombstone = ScheduleRecorder("app", "t.", "g").released(record, 1, cancel_reason, now_ms)
    assert (tombstone.topic, tombstone.key, tombstone.value) == ("scheduled", output.key, None)
    assert first.topic == "dispatch"
    return first.value, tuple(first.headers)


async def test_a_task_whose_time_has_not_come_goes_to_its_topic_with_what_was_known_of_it() -> None:
    """Id, time, first timestamp, deadline from its time on, and the headers it came with; nobody is called."""
    d = Dispatching()
    at_ms = d.wall_ms() + 3 * HOUR_MS
    sent_ms = d.wall_ms()
    d.take(0, metadata={"notBefore": at_ms}, headers=(("traceparent", b"00-1"),))
    output = await scheduled(d, 0)
    assert read_due(output.headers) == ("t0", at_ms, False, False)
    assert header(output.headers, ORIGIN_HEADER) == str(sent_ms)
    assert header(output.headers, EXPIRES_HEADER) == str(at_ms + 24 * HOUR_MS)
    assert header(output.headers, "traceparent") == "00-1"
    [event] = d.events()
    assert (event["type"], event["data"]["reason"]) == ("task:parked", "not_before")
    assert not d.transport.calls


async def test_two_records_of_one_task_do_not_replace_each_other() -> None:
    """The topic is compacted: each record has a key of its own."""
    d = Dispatching()
    for offset in (0, 1):
        d.take(offset, id="same", metadata={"notBefore": d.wall_ms() + HOUR_MS})
    assert (await scheduled(d, 0)).key != (await scheduled(d, 1)).key


async def test_a_record_that_is_read_again_later_is_written_under_another_key() -> None:
    """Its second copy is a duplicate: that one's tombstone must not take back the first."""
    keys = []
    for wait_s in (0, 1):
        d = Dispatching()
        await asyncio.sleep(wait_s)
        d.take(0, metadata={"notBefore": d.wall_ms() + HOUR_MS})
        keys.append((await scheduled(d, 0)).key)
    assert keys[0] != keys[1]


async def test_a_users_task_and_a_step_of_one_id_both_wait() -> None:
    """The user's `p#0` and the step `p#0` of plan p are two tasks; cancelling and asking go by the plain id."""
    d, s = Dispatching(), Scheduling()
    d.take(0, id="p#0", metadata={"notBefore": d.wall_ms() + HOUR_MS})
    d.take(1, id="p#0", planId="p", metadata={"notBefore": d.wall_ms() + HOUR_MS}, headers=(STEP_SOURCE,))
    for offset in (0, 1):
        output = await scheduled(d, offset)
        assert read_due(output.headers).task_id == "p#0"
        s.log[offset] = intake(offset, output.value, source="scheduled", key=output.key, headers=tuple(output.headers))
        s.handler.process("scheduled", s.log[offset])
        assert s.partition.ended[-1][2] == []
    assert s.handler.explain_task("p#0") is not None
    s.cancelled["p#0"] = "why"
    s.handler.cancel("p#0")
    await asyncio.sleep(1)
    assert s.released() == ["p#0", "p#0"]
    s.handler.close()


async def test_a_time_that_has_passed_delays_nothing() -> None:
    """It is a plain task then."""
    d = Dispatching()
    d.take(0, metadata={"notBefore": d.wall_ms()})
    assert (await d.result(0))["status"] == "success"


async def test_a_released_task_is_called_whatever_this_clock_says() -> None:
    """Another worker's clock decided: it may be ahead of this one."""
    d = Dispatching()
    d.take(0, metadata={"notBefore": d.wall_ms() + HOUR_MS})
    value, headers = released(await scheduled(d, 0), d.wall_ms())
    d.process("dispatch", intake(1, value, source="dispatch", headers=headers))
    result = await d.result(1)
    assert (result["status"], result["taskId"]) == ("success", "t0")


async def test_a_task_cancelled_while_it_waited_ends_without_a_call() -> None:
    """Also if this worker has not read the request yet."""
    d = Dispatching()
    d.take(0, metadata={"notBefore": d.wall_ms() + HOUR_MS})
    value, headers = released(await scheduled(d, 0), d.wall_ms(), "the task was cancelled: why")
    d.process("dispatch", intake(1, value, source="dispatch", headers=headers))
    result = await d.result(1)
    assert (result["status"], result["error"]["message"]) == ("cancelled", "the task was cancelled: why")
    assert not d.transport.calls


async def test_users_cannot_cancel_by_a_header() -> None:
    """Only what a worker wrote is believed."""
    d = Dispatching()
    d.take(0, headers=((CANCELLED_HEADER, b"forged"),))
    assert (await d.result(0))["status"] == "success"


async def test_the_reason_of_a_cancel_goes_along_to_another_partition() -> None:
    """The task may be forwarded before it ends."""
    d = Dispatching(partitions=50)
    value = b'{"id":"t0","type":"agent","target":"a1","payload":{}}'
    headers = ((CANCELLED_HEADER, b"why"), (ORIGIN_HEADER, b"1"))
    d.process("dispatch", intake(1, value, source="dispatch", headers=headers))
    await d.end(1)
    [output] = d.partition.ended[0][2]
    assert (output.topic, header(output.headers, CANCELLED_HEADER)) == ("dispatch", "why")


async def test_a_task_that_was_only_forwarded_waits_for_its_time_still() -> None:
    """Another worker had heard that it is cancelled; this one has not, and must not call early for that."""
    d = Dispatching()
    task = {
        "id": "t0",
        "type": "agent",
        "target": "a1",
        "payload": {},
        "metadata": {"notBefore": d.wall_ms() + HOUR_MS},
    }
    headers = ((ORIGIN_HEADER, b"1"), ("parallax-hops", b"1"))
    d.process("dispatch", intake(1, orjson.dumps(task), source="dispatch", headers=headers))
    assert read_due((await scheduled(d, 1)).headers).task_id == "t0"
    assert not d.transport.calls


async def test_a_forwarded_task_that_waits_keeps_the_agent_chosen_for_it() -> None:
    """Its id was checked before that was chosen: checked again after its release, it would be its own duplicate."""
    d = Dispatching()
    d.register(id="a1", endpoint="http://h", capabilities=["c"])
    metadata = {"notBefore": d.wall_ms() + HOUR_MS}
    task = {"id": "t0", "type": "agent", "capabilities": ["c"], "payload": {}, "metadata": metadata}
    headers = ((ORIGIN_HEADER, b"1"), ("parallax-hops", b"1"), ("parallax-agent", b"a1"))
    d.process("dispatch", intake(1, orjson.dumps(task), source="dispatch", headers=headers))
    output = await scheduled(d, 1)
    value, kept = released(output, d.wall_ms())
    assert dict(kept)["parallax-agent"] == b"a1"
    d.process("dispatch", intake(2, value, source="dispatch", headers=kept))
    assert (await d.result(2))["agentId"] == "a1"


async def test_a_cancelled_task_is_forwarded_with_the_reason() -> None:
    """The next worker may not have heard of it, and would let it wait."""
    d = Dispatching(partitions=50)
    d.cancel_requests["t0"] = "why"
    d.take(0, metadata={"notBefore": d.wall_ms() + HOUR_MS})
    d.take(1, metadata={"notBefore": d.wall_ms() - 1})
    await d.end(1)
    (_, _, [first]), (_, _, [second]) = d.partition.ended
    assert (first.topic, header(first.headers, CANCELLED_HEADER)) == ("dispatch", "why")
    assert (second.topic, header(second.headers, CANCELLED_HEADER)) == ("dispatch", None)


async def test_a_released_task_stays_released_on_its_way() -> None:
    """It is forwarded, and the next worker's clock is behind."""
    first, second = Dispatching(partitions=50), Dispatching()
    plain = Dispatching()
    plain.take(0, metadata={"notBefore": plain.wall_ms() + HOUR_MS})
    value, headers = released(await scheduled(plain, 0), plain.wall_ms())
    first.process("dispatch", intake(1, value, source="dispatch", headers=headers))
    await first.end(1)
    [output] = first.partition.ended[0][2]
    second.process("dispatch", intake(2, output.value, source="dispatch", headers=tuple(output.headers)))
    assert (await second.result(2))["status"] == "success"


@pytest.mark.parametrize("bound", [{"expiresIn": 1000}, {"deadline": 1000}])
async def test_a_deadline_before_the_time_fails_at_once(bound: dict[str, int]) -> None:
    """With both times in the message."""
    d = Dispatching()
    d.take(0, metadata={"notBefore": d.wall_ms() + HOUR_MS} | bound)
    error = (await d.result(0))["error"]
    assert error["code"] == "expired"
    assert error["message"].startswith("metadata.notBefore: ")
    assert "is not before the deadline" in error["message"]


LOCAL = {"name": "p", "plan": {"tasks": [{"id": "a", "type": "agent", "target": "a1", "payload": 1}]}}


@pytest.mark.parametrize(
    ("fields", "bound", "reason", "code"),
    [
        ({}, {"deadline": 1000}, None, "expired"),
        ({}, {}, "why", "cancelled"),
        ({"payload": "x" * 2000}, {}, None, "too_large"),
    ],
)
async def test_a_pattern_that_ends_without_a_call_does_not_begin_before_its_time(
    fields: dict[str, Any], bound: dict[str, int], reason: str | None, code: str
) -> None:
    """No step begins: it fails at once, as other tasks do; a second record is the duplicate."""
    d, plans = patterns(dispatch={"max_task_bytes": 1000})
    if reason is not None:
        d.cancel_requests["t"] = reason
    metadata = {"notBefore": d.wall_ms() + HOUR_MS} | bound
    for offset in (0, 1):
        d.take(offset, id="t", type="pattern", target="p", metadata=metadata, **fields)
    first, second = hand_over(d, plans, 0), hand_over(d, plans, 1)
    assert [topic for topic, _ in first] == ["results", "events"]
    assert first[0][1]["error"]["code"] == code
    assert [event["type"] for _, event in second] == ["task:duplicate"]


async def test_a_pattern_that_was_cancelled_while_it_waited_ends_without_a_run() -> None:
    """The reason came with it: the plan's coordinator may not have heard of it."""
    d, plans = patterns()
    d.take(0, type="pattern", target="p", metadata={"notBefore": d.wall_ms() + HOUR_MS})
    value, headers = released(await scheduled(d, 0), d.wall_ms(), "why")
    d.process("dispatch", intake(1, value, source="dispatch", headers=headers))
    (topic, result), (_, event) = hand_over(d, plans, 1)
    assert (topic, result["status"], result["error"]["message"]) == ("results", "cancelled", "why")
    assert event["type"] == "task:cancelled"


@pytest.mark.parametrize("again", [{}, {"metadata": {"notBefore": 1}}], ids=["plain", "its time has passed"])
@pytest.mark.parametrize("first", ["cancelled", "run"])
async def test_a_pattern_has_one_result_whether_it_was_cancelled_while_it_waited_or_run(
    first: str, again: dict[str, Any]
) -> None:
    """Its id is compared in one place, so that the second record is a duplicate in either order."""
    d, plans = patterns()
    d.take(0, id="t", type="pattern", target="p", metadata={"notBefore": d.wall_ms() + HOUR_MS})
    value, headers = released(await scheduled(d, 0), d.wall_ms(), "why")
    for offset, which in enumerate((first, "run" if first == "cancelled" else "cancelled"), start=1):
        if which == "run":
            d.take(offset, id="t", type="pattern", target="p", **again)
        else:
            d.process("dispatch", intake(offset, value, source="dispatch", headers=headers))
    written = [hand_over(d, plans, offset) for offset in (1, 2)]
    assert sorted(topic for topic, _ in written[0]) == sorted(
        ["events", "results" if first == "cancelled" else "tasks"]
    )
    assert [event["type"] for _, event in written[1]] == ["task:duplicate"]


def patterns(**fields: Any) -> tuple[Dispatching, Coordinating]:
    """Dispatch and plans, with the local template `p`."""
    d, plans = Dispatching(**fields), Coordinating(**fields)
    d.templates["p"] = plans.templates["p"] = LOCAL
    return d, plans


def hand_over(d: Dispatching, plans: Coordinating, offset: int) -> list[tuple[str, Any]]:
    """What dispatch writes for the record at `offset`; or the plan coordinator, if it is handed over: topics and values."""
    [[output]] = [outputs for _, o, outputs in d.partition.ended if o == offset]
    if output.topic == "events":
        return [("events", orjson.loads(output.value or b""))]  # a duplicate
    assert output.topic == "plans"
    written = plans.take("plans", output.value, key=(output.key or b"").decode(), headers=tuple(output.headers))
    return [(row["topic"], row["value"]) for row in written if row["topic"] != "plan-state"]


async def test_a_task_that_waits_for_its_time_holds_up_no_task_of_its_ordering_key() -> None:
    """It takes its place when it comes back."""
    d = Dispatching()
    d.take(0, metadata={"notBefore": d.wall_ms() + HOUR_MS, "orderingKey": "k"})
    d.take(1, metadata={"orderingKey": "k"})
    assert (await d.result(1))["status"] == "success"
    await scheduled(d, 0)


@pytest.mark.parametrize("given", ["tomorrow", "2026-01-01", True])
async def test_what_is_no_time_is_refused_by_name(given: Any) -> None:
    """As a dead letter."""
    d = Dispatching()
    d.take(0, metadata={"notBefore": given})
    found = await d.end(0)
    assert "metadata.notBefore" in found["events"]["data"]["reason"]


def test_the_client_takes_times_as_users_write_them() -> None:
    """In virtual time a day passes at once; a cancel ends the wait."""
    with VirtualTime(agents=[FakeAgent("ok", id="a")]) as v:
        sent = v.submit("a", 1, not_before="2026-01-02T00:00:00Z")
        assert sent.result().ok
        assert v.elapsed >= 24 * 3600
        other = v.submit("a", 2, not_before="2027-01-01T00:00:00Z")
        v.cancel(other.id)
        with pytest.raises(TaskCancelled):
            other.result()
        with pytest.raises(InvalidTask, match="not_before"):
            v.submit("a", 3, not_before="later")
        assert len(v.calls) == 1
