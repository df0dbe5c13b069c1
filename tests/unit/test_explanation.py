"""Why a task waits and what became of it, in sentences."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from agents_io.calling.rules.agent_queue import Block
from schemas.messages import ErrorCode
from streams.client.errors import TaskFailed
from streams.rules.live.explanation import Evidence, Explanation, explain
from streams.rules.live.remedies import REMEDIES, WAITS

MEANINGS = {code: (kind.__doc__ or "").strip() for code, kind in TaskFailed.by_code.items()}
SENT = {"at_ms": 1_795_354_620_123, "type": "agent", "target": "a", "capabilities": None}
SENT_AT = "2026-11-22T13:37:00.123Z"


def said(**known: Any) -> Explanation:
    found = explain(Evidence(task_id="t", **known), MEANINGS)
    assert found is not None
    return found


def event(kind: str, **data: Any) -> dict[str, Any]:
    return {"type": kind, "timestamp": SENT_AT, "data": {"taskId": "t"} | data}


def test_every_code_and_every_reason_has_its_sentences() -> None:
    """The closed list of codes, all that blocks a queue, and what `Explainer` adds."""
    assert set(REMEDIES) == set(get_args(ErrorCode)) == set(MEANINGS)
    assert set(get_args(Block)) < set(WAITS)
    for wait in WAITS.values():
        assert "{" not in "".join(text.format(agent="x") for text in wait)


def test_a_success_says_who_answered_and_how_long_it_took() -> None:
    result = {
        "taskId": "t",
        "status": "success",
        "agentId": "a",
        "executionTime": 1500.0,
        "waitTime": 20.0,
        "retries": 2,
    }
    found = said(result=result)
    assert (found.status, found.code, found.remedy) == ("success", None, None)
    assert found.reason == "it was answered by agent a after 20 ms of waiting and 1.5 s of work, with 2 retries"
    assert said(result=result | {"cached": True}).reason.startswith("it was answered from the cache")


@pytest.mark.parametrize("code", get_args(ErrorCode))
def test_a_failure_says_what_its_code_means_and_what_to_do(code: str) -> None:
    error = {"code": code, "message": "so and so", "retryable": False}
    result = {
        "taskId": "t",
        "status": "failure",
        "error": error,
        "executionTime": 1,
        "retries": 0,
        "timestamp": SENT_AT,
    }
    found = said(result=result)
    assert (found.code, found.since, found.remedy) == (code, SENT_AT, REMEDIES[code])  # type: ignore[index]
    assert found.reason.startswith(f"{MEANINGS[code].removesuffix('.')}: so and so")
    assert "parallax retry t" in (found.goes_on or "")


def test_a_code_of_a_later_version_is_no_fault() -> None:
    found = said(result={"status": "failure", "error": {"code": "flooded", "message": "wet"}})
    assert (found.code, found.remedy, found.reason[:20]) == ("flooded", None, "The task failed: wet")


def test_what_a_worker_holds_stands_above_what_events_say() -> None:
    """Reason, times, the last failure with its attempt, and the agent's id in the remedy."""
    waiting = {
        "reason": "circuit_open", "agentId": "a", "since": "S", "until": "U", "deadline": "D", "attempts": 1,
        "maxAttempts": 3, "failure": {"code": "http_5xx", "message": "answered 500"},
    }  # fmt: skip
    found = said(waiting=waiting, sent=SENT, events=[event("task:parked", reason="no_agent")], workers=1)
    assert (found.status, found.code, found.since, found.until, found.deadline) == (
        "waiting",
        "circuit_open",
        "S",
        "U",
        "D",
    )
    assert found.failure == "attempt 1 of 3: http_5xx: answered 500"
    assert "agent a is open" in found.reason
    assert "parallax agents probe a" in (found.remedy or "")
    circuit = {"mode": "auto", "failure": {"code": "timeout", "message": "no answer within 5 s"}}
    shown = said(waiting=waiting | {"failure": None, "circuit": circuit})
    assert shown.reason.endswith("too many of its recent calls failed; the last one with timeout: no answer within 5 s")
    by_hand = said(waiting=waiting | {"circuit": circuit | {"mode": "open"}})
    assert (by_hand.code, by_hand.reason) == ("circuit_open", "the circuit of agent a was opened by hand")
    assert by_hand.remedy == "`parallax agents circuit a auto`"
    assert said(waiting={"reason": "calling", "agentId": "a"}).status == "calling"
    assert said(waiting={"reason": "new_kind", "agentId": "a"}).reason == "new kind"


def test_of_a_task_on_its_topic_events_and_the_agent_speak() -> None:
    """In this order: its own event, the agent's circuit, the agent's absence, its place on the topic."""
    known: dict[str, Any] = {"sent": SENT, "workers": 1}
    parked = said(**known, events=[event("task:parked", reason="rate_limited", until="U", agentId="a")])
    assert (parked.code, parked.until, parked.since) == ("rate_limited", "U", SENT_AT)
    retried = said(
        **known, events=[event("task:parked", reason="rate_limited"), event("task:retrying", attempt=1, delay=500)]
    )
    assert (retried.code, retried.failure) == (
        "no_agent",
        "attempt 1 failed; the next was due at 2026-11-22T13:37:00.623Z",
    )
    behind = said(**known, agent={"standing": {"circuit": "open", "openUntil": "U"}})
    assert (behind.code, behind.until) == ("circuit_open", "U")
    assert said(**known).code == "no_agent"
    there = said(**known, agent={"standing": {"load": 7}})
    assert (there.code, "7 tasks are with agent a" in there.reason) == ("on_topic", True)


def test_without_a_worker_it_says_so() -> None:
    found = said(sent=SENT, workers=0)
    assert (found.code, found.status) == ("no_worker", "waiting")
    assert "parallax worker" in (found.remedy or "")


def test_an_end_whose_result_is_gone_and_a_task_nobody_knows() -> None:
    found = said(events=[event("task:completed")], workers=1)
    assert (found.status, found.code) == ("success", None)
    assert "no longer on the topic results" in found.reason
    assert explain(Evidence(task_id="t", workers=3), MEANINGS) is None


def test_the_document_has_every_field() -> None:
    assert set(said(sent=SENT).document()) == {
        "taskId", "status", "code", "agentId", "reason", "since", "until", "deadline", "goesOn", "remedy", "lastFailure",
    }  # fmt: skip


def test_a_dead_letter_does_not_wait() -> None:
    """No worker will take it up, whatever they hold."""
    found = said(sent=SENT | {"refused": "type: field required"}, workers=2)
    assert (found.status, found.code) == ("dead-lettered", None)
    assert found.reason == "it is no valid task: type: field required"
    assert "parallax dlq ls tasks" in (found.remedy or "")
    running = said(sent=SENT | {"refused": "type: field required"}, events=[event("task:started")], workers=2)
    assert running.status == "running"  # another record of the id is a task
