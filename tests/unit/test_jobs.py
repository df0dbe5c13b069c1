"""From a record to a job, and from a job to a ticket: whose clock runs since when."""

from __future__ import annotations

import json

import pytest

from schemas.codec import Rejected
from streams.dispatch.jobs import read_job, ticket_for
from streams.rules.plans.records import PlanRecorder
from streams.rules.plans.run import path_of, task_id
from streams.rules.records import EXPIRES_HEADER, Letter

TASK = {"id": "t1", "type": "agent", "target": "a1", "payload": {}, "metadata": {"timeout": 8000}}


def letter(topic: str, **headers: str) -> Letter:
    """The task on one of the intake topics."""
    marks = tuple((name, value.encode()) for name, value in headers.items())
    return Letter(topic, 0, 0, None, json.dumps(TASK).encode(), marks)


@pytest.mark.parametrize(
    ("name", "plan_id"),
    [("p#0", "p"), ("p#3.12", "p"), ("task:t1#0", "task:t1"), (task_id("x" * 256, (1,)), "x" * 256)],
)
def test_only_the_coordinator_sends_the_steps_of_a_plan(name: str, plan_id: str) -> None:
    """A user's task of that id would end the step; no result names it, or that would end the step too."""
    value = json.dumps(TASK | {"id": name, "planId": plan_id}).encode()
    for headers in ((), (("ce_source", b"/my/app"),), (("ce_source", b"/parallax/app/dispatch"),)):
        with pytest.raises(Rejected) as caught:
            read_job(Letter("tasks", 0, 0, None, value, headers), 0.0, 0, 30_000)
        assert caught.value.stage == "validate"
        assert caught.value.reason.startswith(f"id: '{name[:40]}")
    ours = PlanRecorder("app", "t.", "g").task({"type": "agent", "id": name, "target": "a1"}, value, 0)
    for topic in ("tasks", "dispatch", "parked"):
        assert read_job(Letter(topic, 0, 0, None, value, tuple(ours.headers)), 0.0, 0, 30_000).claimed_id == name


@pytest.mark.parametrize(
    ("name", "plan_id"),
    [("order#7", None), ("p#0", None), ("p#0", "q"), ("p#x", "p"), ("p#", "p"), ("#", None), ("a#b", "a")],
)
def test_other_ids_with_a_number_sign_are_the_users_own(name: str, plan_id: str | None) -> None:
    """One that some plan's step may have is another task than that step: neither is a duplicate of the other."""
    task = TASK | {"id": name} | ({} if plan_id is None else {"planId": plan_id})
    job = read_job(Letter("tasks", 0, 0, None, json.dumps(task).encode()), 0.0, 0, 30_000)
    assert job.task.id == name
    assert (job.claimed_id == name) is (path_of(name.rpartition("#")[0], name) is None)


def test_the_clock_begins_at_the_first_intake() -> None:
    """On `tasks` no header can change that."""
    for headers in ({}, {EXPIRES_HEADER: "1"}):
        job = read_job(letter("tasks", **headers), 100.0, 1_000_000, 30_000)
        assert (job.expires_ms, job.allowed_ms) == (1_008_000, 8000)
        ticket = ticket_for(job, 108.0, 2)
        assert (ticket.taken_at, ticket.deadline) == (100.0, 108.0)


@pytest.mark.parametrize("topic", ["dispatch", "parked"])
def test_a_task_that_comes_again_has_had_its_time_since_then(topic: str) -> None:
    """0.6 s of 8 are left: an agent that does not answer in them is not judged as if it had had no more to begin with."""
    job = read_job(letter(topic, **{EXPIRES_HEADER: "1000600"}), 100.0, 1_000_000, 30_000)
    assert (job.expires_ms, job.allowed_ms) == (1_000_600, 8000)
    ticket = ticket_for(job, 100.6, 2)
    assert ticket.deadline - ticket.taken_at == pytest.approx(8.0)
