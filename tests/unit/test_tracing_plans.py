"""The spans of plans, in memory: one for each plan, whoever ends it; its steps' tasks and its results say they belong to it."""

from __future__ import annotations

from typing import Any

from opentelemetry.trace import SpanKind, StatusCode

from tests.support.coordinating import Coordinating
from tests.support.plans import plan
from tests.support.tracing import TRACE, TRACEPARENT, USER, Recording, header_of, ids

GIVEN = (("traceparent", TRACEPARENT.encode()),)


def told_of(found: list[dict[str, Any]], topic: str) -> list[bytes]:
    """What records of a topic say of their span, without flags."""
    return [told["headers"].get("traceparent", b"")[:52] for told in found if told["topic"] == topic]


async def test_a_plan_is_one_span_through_restarts() -> None:
    """From its acceptance to the commit of its result; all it asks and tells belongs to it, whichever owner wrote it."""
    for headers in (GIVEN, ()):
        seen = Recording("plans")
        it = Coordinating(tracing=seen.tracing)
        found = it.plan(plan("a", "b", kind="sequential"), headers=headers)
        it.partition.after.clear()
        it.restart()
        found += it.step("p", 0)
        it.restart()
        found += it.step("p", 1)
        assert seen.spans == []
        it.partition.commit()
        [span] = seen.spans
        assert (span.name, span.kind) == ("invoke_workflow sequential", SpanKind.INTERNAL)
        trace, _, parent = ids(span)
        assert (trace == TRACE, parent) == ((True, USER) if headers else (False, None))
        for topic, count in (("tasks", 2), ("events", 2), ("plan-results", 1)):
            assert told_of(found, topic) == [header_of(span)] * count, topic
        assert [dict(event.headers)["traceparent"][:52] for event in it.emitted] == [header_of(span)]
        assert span.attributes is not None
        assert {
            "parallax.plan.id": "p",
            "parallax.plan.tasks": 2,
            "parallax.outcome": "success",
        }.items() <= span.attributes.items()
        [event] = span.events
        assert event.name == "gen_ai.evaluation.result"
        assert (span.end_time or 0) >= (span.start_time or 0)


async def test_a_plan_that_is_cancelled_ends_by_itself() -> None:
    """No record brought it about: the next commit ends it."""
    seen = Recording("plans")
    it = Coordinating(tracing=seen.tracing)
    it.plan(plan("a"))
    it.cancel_requests["p"] = "enough"
    it.handler.cancel("p")
    it.partition.commit()
    span = seen.one("invoke_workflow parallel")
    assert (span.attributes or {})["parallax.outcome"] == "cancelled"
    assert span.status.status_code is StatusCode.UNSET


async def test_what_is_no_plan_is_an_error() -> None:
    """A dead letter, and a plan that cannot be run and is answered so; neither shows what was sent."""
    seen = Recording("plans")
    it = Coordinating(tracing=seen.tracing)
    it.plan(plan(id="secret" * 50), headers=GIVEN)
    found = it.plan(plan("a", id="q", kind="secret"), headers=GIVEN)
    it.partition.commit()
    dead, refused = seen.spans
    for span, kind in ((dead, "rejected"), (refused, "invalid_plan")):
        assert (span.name, span.status.status_code) == ("process t.plans", StatusCode.ERROR)
        assert (span.attributes or {})["error.type"] == kind
        assert "secret" not in span.to_json()
    assert told_of(found, "plan-results") == [header_of(refused)]
