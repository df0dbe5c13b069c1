"""From a record to a task run: whose clock runs since when, and what a record that the pipeline wrote itself says of before."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from schemas.codec import Rejected
from streams.dispatch.task_run import TaskRun, read_task
from streams.rules.plans.records import PlanRecorder
from streams.rules.plans.step_ids import path_of, task_id
from streams.rules.source_record import (
    AGENT_HEADER,
    ATTEMPTS_HEADER,
    EXPIRES_HEADER,
    HOPS_HEADER,
    ORIGIN_HEADER,
    SourceRecord,
)
from streams.settings import Settings

NOW_MS, NOW = 1_000_000_000, 100.0
DAY_MS = 86_400_000


def source_record(
    topic: str = "tasks", metadata: dict[str, Any] | None = None, at_ms: int = NOW_MS, **headers: str
) -> SourceRecord:
    """The task on one of the intake topics."""
    task = {"id": "t1", "type": "agent", "target": "a1", "payload": {}, "metadata": metadata or {}}
    own_headers = tuple((name, value.encode()) for name, value in headers.items())
    return SourceRecord(topic, 0, 0, None, json.dumps(task).encode(), own_headers, at_ms)


def read(record: SourceRecord, **fields: Any) -> TaskRun:
    """With these settings."""
    return read_task(record, NOW, NOW_MS, Settings.model_validate(fields))


def test_the_timeout_is_one_attempts_and_bounds_nothing_else() -> None:
    """As the task says or the settings do; the task as a whole has `dispatch.max_wait` from its record's timestamp on."""
    run = read(source_record(metadata={"timeout": 8000}, at_ms=NOW_MS - 60_000))
    assert (run.timeout_s, run.deadline_ms) == (8.0, NOW_MS - 60_000 + DAY_MS)
    assert run.deadline == pytest.approx(NOW - 60 + 86_400)
    run = read(source_record(), dispatch={"default_timeout": 5000, "max_wait": 0})
    assert (run.timeout_s, run.deadline_ms, run.deadline) == (5.0, None, float("inf"))


def test_the_whole_task_is_bounded_from_its_records_timestamp_on() -> None:
    """However long it lay on the topic; a timestamp of the future is taken to be now."""
    run = read(source_record(metadata={"expiresIn": 90_000}, at_ms=NOW_MS - 60_000))
    assert (run.deadline_ms, run.origin_ms) == (NOW_MS + 30_000, NOW_MS - 60_000)
    assert run.deadline == pytest.approx(NOW + 30)
    run = read(source_record(metadata={"expiresIn": 90_000}, at_ms=NOW_MS + 45_000))
    assert (run.deadline_ms, run.origin_ms) == (NOW_MS + 90_000, NOW_MS)
    for absolute in (NOW_MS + 7000, "1970-01-12T13:46:47Z"):
        assert read(source_record(metadata={"deadline": absolute})).deadline_ms == NOW_MS + 7000


def test_a_cloud_event_may_say_when_it_expires() -> None:
    """The earliest of all bounds holds; what is no time is refused, naming the attribute."""
    run = read(
        source_record(metadata={"expiresIn": 90_000}, ce_specversion="1.0", ce_expirytime="1970-01-12T13:46:47Z")
    )
    assert run.deadline_ms == NOW_MS + 7000
    with pytest.raises(Rejected, match="expirytime"):
        read(source_record(ce_specversion="1.0", ce_expirytime="soon"))


def test_headers_of_ours_count_only_on_topics_of_ours() -> None:
    """On `tasks` anybody can write them."""
    headers = {EXPIRES_HEADER: "1", ORIGIN_HEADER: "1", ATTEMPTS_HEADER: "2", HOPS_HEADER: "3", AGENT_HEADER: "x"}
    run = read(source_record(**headers))
    assert (run.deadline_ms, run.origin_ms, run.calls, run.hops, run.chosen) == (NOW_MS + DAY_MS, NOW_MS, 0, 0, "")


@pytest.mark.parametrize("topic", ["dispatch", "parked"])
def test_a_record_of_ours_carries_what_was_before(topic: str) -> None:
    """The deadline and the first record's timestamp, the attempts used up, hops and the agent; nothing is added to them."""
    headers = {EXPIRES_HEADER: str(NOW_MS + 600), ORIGIN_HEADER: str(NOW_MS - 9000), ATTEMPTS_HEADER: "2"}
    run = read(
        source_record(
            topic, {"expiresIn": 90_000, "timeout": 8000}, **headers, **{HOPS_HEADER: "1", AGENT_HEADER: "a2"}
        )
    )
    assert (run.deadline_ms, run.origin_ms, run.timeout_s) == (NOW_MS + 600, NOW_MS - 9000, 8.0)
    assert run.deadline == pytest.approx(NOW + 0.6)
    assert (run.calls, run.attempts, run.hops, run.chosen) == (2, 2, 1, "a2")
    assert read(source_record(topic, {"timeout": 8000})).deadline == float("inf"), (
        "one without a deadline has none elsewhere"
    )


def test_what_a_run_carries_makes_the_same_run_again() -> None:
    """Moved twice it is as it was."""
    run = read(source_record(metadata={"expiresIn": 90_000}, at_ms=NOW_MS - 1000))
    run.attempts = 1
    own_headers = tuple((name, value.encode()) for name, value in run.carried().own_headers().items())
    later = read_task(replace(run.record, topic="parked", headers=own_headers), NOW + 5, NOW_MS + 5000, Settings())
    assert later.carried() == run.carried()
    assert later.deadline == pytest.approx(run.deadline)


def test_a_task_needs_memory_for_its_bytes_and_its_objects() -> None:
    """In proportion to its record, and never nothing."""
    small, large = read(source_record()), read(source_record(metadata={"mine": "x" * 100_000}))
    assert small.size > 1000
    assert large.size - small.size >= 100_000


TASK = {"id": "t1", "type": "agent", "target": "a1", "payload": {}}


@pytest.mark.parametrize(
    ("name", "plan_id"),
    [("p#0", "p"), ("p#3.12", "p"), ("task:t1#0", "task:t1"), (task_id("x" * 256, (1,)), "x" * 256)],
)
def test_only_the_coordinator_sends_the_steps_of_a_plan(name: str, plan_id: str) -> None:
    """A user's task of that id would end the step; no result names it, or that would end the step too."""
    value = json.dumps(TASK | {"id": name, "planId": plan_id}).encode()
    for headers in ((), (("ce_source", b"/my/app"),), (("ce_source", b"/parallax/app/dispatch"),)):
        with pytest.raises(Rejected) as caught:
            read(SourceRecord("tasks", 0, 0, None, value, headers))
        assert caught.value.stage == "validate"
        assert caught.value.reason.startswith(f"id: '{name[:40]}")
    ours = PlanRecorder("app", "t.", "g").task({"type": "agent", "id": name, "target": "a1"}, value, 0)
    for topic in ("tasks", "dispatch", "parked"):
        assert read(SourceRecord(topic, 0, 0, None, value, tuple(ours.headers))).claimed_id == name


@pytest.mark.parametrize(
    ("name", "plan_id"),
    [("order#7", None), ("p#0", None), ("p#0", "q"), ("p#x", "p"), ("p#", "p"), ("#", None), ("a#b", "a")],
)
def test_other_ids_with_a_number_sign_are_the_users_own(name: str, plan_id: str | None) -> None:
    """One that some plan's step may have is another task than that step: neither is a duplicate of the other."""
    task = TASK | {"id": name} | ({} if plan_id is None else {"planId": plan_id})
    run = read(SourceRecord("tasks", 0, 0, None, json.dumps(task).encode()))
    assert run.task.id == name
    assert (run.claimed_id == name) is (path_of(name.rpartition("#")[0], name) is None)
