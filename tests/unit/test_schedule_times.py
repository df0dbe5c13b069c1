"""The times of schedules: cron in local time through changes of clocks, intervals, bounds, and what is made up for."""

from __future__ import annotations

from functools import reduce
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.codec import Rejected, validate
from schemas.messages import CatchUp, Schedule
from schemas.times import format_time, parse_time
from streams.rules.schedules import times
from streams.rules.schedules.times import LATE_MS, due_times, next_time, task_of

TASK = {"type": "agent", "target": "a1", "payload": {"n": 1}}
NESTED: Any = reduce(lambda inner, _: [inner], range(300), 1)
"""Deeper than it can be written, not than it can be read."""


def schedule(**fields: Any) -> Schedule:
    """As it comes from the topic."""
    return validate(Schedule, {"id": "s", "task": TASK} | fields)


def first(count: int, since: str, **fields: Any) -> list[str]:
    """The next times in UTC, without seconds."""
    after, at_ms, found = next_time(schedule(**fields)), parse_time(since), []
    for _ in range(count):
        following = after(at_ms)
        assert following is not None
        at_ms = following
        found.append(format_time(at_ms)[5:16])
    return found


def test_local_time_is_kept_when_the_clocks_change() -> None:
    """08:00 in Berlin is 07:00 UTC in winter and 06:00 in summer."""
    berlin = {"cron": "0 8 * * *", "timezone": "Europe/Berlin"}
    assert first(3, "2026-03-27T12:00:00Z", **berlin) == ["03-28T07:00", "03-29T06:00", "03-30T06:00"]
    assert first(3, "2026-10-23T12:00:00Z", **berlin) == ["10-24T06:00", "10-25T07:00", "10-26T07:00"]


def test_a_time_that_does_not_exist_moves_to_the_first_minute_that_does() -> None:
    """On 29 March 02:30 is missing; two such times are one."""
    found = first(3, "2026-03-27T12:00:00Z", cron="30 2 * * *", timezone="Europe/Berlin")
    assert found == ["03-28T01:30", "03-29T01:00", "03-30T00:30"]
    found = first(4, "2026-03-28T12:00:00Z", cron="0,30 2 * * *", timezone="Europe/Berlin")
    assert found == ["03-29T01:00", "03-30T00:00", "03-30T00:30", "03-31T00:00"]


def test_a_time_that_comes_twice_counts_once_the_first_time() -> None:
    """On 25 October 02:30 comes at 00:30 and at 01:30 UTC; asked between the two, it is over."""
    found = first(2, "2026-10-24T12:00:00Z", cron="30 2 * * *", timezone="Europe/Berlin")
    assert found == ["10-25T00:30", "10-26T01:30"]
    assert first(1, "2026-10-25T01:10:00Z", cron="30 2 * * *", timezone="Europe/Berlin") == ["10-26T01:30"]


def test_a_schedule_with_a_star_goes_by_elapsed_time() -> None:
    """No gap and no pause of an hour when the clocks change."""
    for since in ("2026-10-24T23:30:00Z", "2026-03-28T23:30:00Z"):
        after = next_time(schedule(cron="*/20 * * * *", timezone="Europe/Berlin"))
        at_ms, found = parse_time(since), []
        for _ in range(12):
            at_ms = after(at_ms) or 0
            found.append(at_ms)
        assert {late - early for early, late in pairwise(found)} == {20 * 60_000}


def test_intervals_count_from_the_start_or_from_1970() -> None:
    """The same whichever worker asks, and when."""
    assert first(2, "2026-01-01T00:07:00Z", everyMs=600_000) == ["01-01T00:10", "01-01T00:20"]
    begun = {"everyMs": 600_000, "startAt": "2026-01-01T00:03:00Z"}
    assert first(2, "2026-01-01T00:07:00Z", **begun) == ["01-01T00:13", "01-01T00:23"]
    assert first(2, "2025-01-01T00:00:00Z", **begun) == ["01-01T00:03", "01-01T00:13"]


def test_a_schedule_has_no_time_before_its_start_nor_at_its_end() -> None:
    """A time at the start counts."""
    after = next_time(schedule(cron="0 * * * *", startAt="2026-01-01T02:00:00Z", endAt="2026-01-01T04:00:00Z"))
    found, at_ms = [], 0
    while (following := after(at_ms)) is not None:
        at_ms = following
        found.append(format_time(at_ms)[11:16])
    assert found == ["02:00", "03:00"]


def test_a_schedule_may_have_no_more_times() -> None:
    """The year 9999 is the last that a time can be written in."""
    assert next_time(schedule(cron="0 0 1 1 *"))(parse_time("9999-06-01T00:00:00Z")) is None
    assert next_time(schedule(everyMs=1000))(parse_time("9999-12-31T23:59:59.500Z")) is None


def test_a_task_is_named_after_the_schedule_and_the_time() -> None:
    """In UTC, whatever the schedule's time zone."""
    assert task_of(schedule(cron="0 8 * * *"), 0) == {"id": "s@1970-01-01T00:00:00.000Z"} | TASK


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"cron": "61 * * * *"}, "cron: bad minute in '61 * * * *'"),
        ({"cron": "0 0 30 2 *"}, "cron: bad day-of-month"),
        ({"cron": "* * * * * *"}, "cron: must have five fields"),
        ({"cron": "* * * *"}, "cron: must have five fields (minute hour day month weekday), not '* * * *'"),
        ({"cron": "* * * * *", "timezone": "Mars/Olympus"}, "timezone: no time zone of that name: 'Mars/Olympus'"),
        ({"cron": "* * * * *", "timezone": "../etc/passwd"}, "timezone: no time zone"),
        ({"cron": "* * * * *", "timezone": "Europe"}, "timezone: no time zone"),
        ({}, "must have exactly one of cron or everyMs"),
        ({"cron": "* * * * *", "everyMs": 5000}, "must have exactly one of cron or everyMs"),
        ({"everyMs": 999}, "everyMs: "),
        ({"everyMs": 5000, "catchUp": "some"}, "catchUp: "),
        ({"everyMs": 5000, "id": "x" * 201}, "id: "),
        ({"everyMs": 5000, "startAt": 5, "endAt": 5}, "endAt: must be after startAt"),
        ({"everyMs": 5000, "task": TASK | {"id": "t"}}, "task.id: must be left out"),
        ({"everyMs": 5000, "task": TASK | {"type": "agnt"}}, "task.type: "),
        ({"everyMs": 5000, "task": {"type": "agent", "payload": 1}}, "task.target"),
        ({"everyMs": 5000, "task": TASK | {"metadata": {"deadline": 5}}}, "task.metadata.deadline: is the same"),
        ({"everyMs": 5000, "task": TASK | {"metadata": {"notBefore": 5}}}, "task.metadata.notBefore: is the same"),
        (
            {"everyMs": 5000, "task": TASK | {"metadata": {"idempotencyKey": "k"}}},
            "task.metadata.idempotencyKey: is the same",
        ),
        ({"everyMs": 5000, "task": TASK | {"payload": NESTED}}, "task: cannot be written as JSON"),
        (
            {"everyMs": 5000, "task": TASK | {"payload": "x" * 10_000}},
            "task: has 10077 bytes; at most 10000 are accepted",
        ),
    ],
)
def test_what_cannot_work_is_refused_by_name(fields: dict[str, Any], reason: str) -> None:
    """Field and reason."""
    with pytest.raises(Rejected) as caught:
        next_time(schedule(**fields), 10_000)
    assert reason in caught.value.reason


@pytest.mark.parametrize(("catch_up", "missed"), [("skip", 0), ("one", 1), ("all", 9)])
def test_what_is_made_up_for_after_an_outage(catch_up: CatchUp, missed: int) -> None:
    """Ten minutes without a worker; the last minute is no outage."""
    after = next_time(schedule(everyMs=60_000))
    found = due_times(after, 0, 600_000, catch_up)
    assert found == [n * 60_000 for n in range(10 - missed, 11)]


def test_a_long_outage_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest thousand of a year of minutes, and one of ten years of seconds: neither is counted one by one."""
    year_ms = 365 * 24 * 3600 * 1000
    asked = 0
    inner = next_time(schedule(everyMs=60_000))

    def after(at_ms: int) -> int | None:
        nonlocal asked
        asked += 1
        return inner(at_ms)

    found = due_times(after, 0, year_ms, "all")
    assert (len(found), found[-1]) == (times.MAX_CATCH_UP + 1, year_ms)
    assert asked < 5 * times.MAX_CATCH_UP
    monthly = next_time(schedule(cron="0 0 1 * *"))
    assert len(due_times(monthly, 0, year_ms + 24 * 3600 * 1000, "one")) == 1


@given(
    every_ms=st.integers(1000, 500_000),
    looks=st.lists(st.integers(1, 40_000), min_size=1, max_size=30),
)
@settings(max_examples=200, deadline=None)
def test_however_often_it_is_looked_at_each_time_is_used_once(every_ms: int, looks: list[int]) -> None:
    """Looks that are less than a minute apart lose nothing and repeat nothing, whatever catch-up says."""
    after = next_time(schedule(everyMs=every_ms))
    for catch_up in ("skip", "one", "all"):
        since_ms, found = 10_000_000, []
        for pause_ms in looks:
            now_ms = since_ms + pause_ms
            found += due_times(after, since_ms, now_ms, catch_up)
            since_ms = now_ms
        end_ms = 10_000_000 + sum(looks)
        assert found == [at for at in range(every_ms, end_ms + 1, every_ms) if at > 10_000_000]


@given(since_ms=st.integers(0, 4 * 10**12), long_ms=st.integers(0, 10 * LATE_MS), every_ms=st.integers(1000, 200_000))
@settings(max_examples=200, deadline=None)
def test_what_is_used_is_new_and_in_order(since_ms: int, long_ms: int, every_ms: int) -> None:
    """And `all` holds what `one` holds, and that what `skip` holds."""
    after = next_time(schedule(everyMs=every_ms))
    found = {catch_up: due_times(after, since_ms, since_ms + long_ms, catch_up) for catch_up in ("skip", "one", "all")}
    assert set(found["skip"]) <= set(found["one"]) <= set(found["all"])
    assert len(found["one"]) - len(found["skip"]) <= 1
    for rows in found.values():
        assert rows == sorted(set(rows))
        assert all(since_ms < at <= since_ms + long_ms for at in rows)
