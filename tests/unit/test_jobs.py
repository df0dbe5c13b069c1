"""From a record to a job, and from a job to a ticket: whose clock runs since when."""

from __future__ import annotations

import json

import pytest

from streams.dispatch.jobs import read_job, ticket_for
from streams.rules.records import EXPIRES_HEADER, Letter

TASK = {"id": "t1", "type": "agent", "target": "a1", "payload": {}, "metadata": {"timeout": 8000}}


def letter(topic: str, **headers: str) -> Letter:
    """The task on one of the intake topics."""
    marks = tuple((name, value.encode()) for name, value in headers.items())
    return Letter(topic, 0, 0, None, json.dumps(TASK).encode(), marks)


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
