"""Dispatch and the circuits of agents: the events of their states, and tasks that an open one outlasts."""

from __future__ import annotations

import pytest

from agents_io.errors import ServerError
from tests.support.dispatching import AGENT, Make
from tests.support.dispatching import make as make

pytestmark = pytest.mark.virtual_time


async def test_circuit_events(make: Make) -> None:
    """Open with the number of failures, half-open and closed again, each counted once."""
    one = make()
    one.register(**AGENT, breaker={"failureThreshold": 2, "resetTimeout": 20, "monitoringPeriod": 60_000})
    one.transport.script.extend([ServerError("500")] * 2)
    for offset in range(2):
        one.take(offset, metadata={"retries": 0})
        await one.end(offset)
    circuit = [event for event in one.events() if event["type"].startswith("circuit:")]
    assert [(event["type"], event["data"]) for event in circuit] == [("circuit:open", {"agentId": "a1", "failures": 2})]
    assert one.count("parallax_circuit_transitions_total", to="open") == 1
    for offset in range(2, 5):
        one.take(offset, metadata={"cache": False})
        assert (await one.result(offset))["status"] == "success"
    circuit = [event for event in one.events() if event["type"].startswith("circuit:")]
    assert [event["type"] for event in circuit] == ["circuit:open", "circuit:half-open", "circuit:close"]
    assert [event["data"] for event in circuit[1:]] == [{"agentId": "a1"}] * 2
    turns = {to: one.count("parallax_circuit_transitions_total", to=to) for to in ("open", "half_open", "closed")}
    assert turns == {"open": 1, "half_open": 1, "closed": 1}


async def test_an_open_circuit_ends_what_it_outlasts_without_a_call(make: Make) -> None:
    """`expired` at once, saying what it would have waited for; and no data point: no agent was called."""
    one = make()
    one.register(**AGENT, breaker={"failureThreshold": 1, "resetTimeout": 60_000, "monitoringPeriod": 60_000})
    one.transport.script.append(ServerError("500"))
    one.take(0, metadata={"retries": 0})
    await one.end(0)
    one.take(1, metadata={"expiresIn": 30_000})
    end = await one.end(1)
    assert end["results"]["error"]["code"] == "expired"
    assert "circuit stays open" in end["results"]["error"]["message"]
    assert set(end) == {"results", "events"}
    assert one.transport.tasks == ["t0"]


async def test_no_retry_is_announced_that_the_circuit_will_not_allow(make: Make) -> None:
    """The failure that opens the circuit past the deadline is the end: said in the result, not followed by a retry."""
    one = make()
    one.register(**AGENT, breaker={"failureThreshold": 1, "resetTimeout": 60_000, "monitoringPeriod": 60_000})
    one.transport.last = ServerError("500")
    one.take(0, metadata={"retries": 5, "expiresIn": 30_000})
    error = (await one.result(0))["error"]
    assert error["code"] == "http_5xx"
    assert "not retried" in error["message"]
    assert "task:retrying" not in one.kinds()
    assert len(one.transport.calls) == 1
