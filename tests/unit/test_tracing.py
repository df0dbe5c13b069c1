"""The spans of dispatch, in memory: one for each record's work, a call below it for each try, ended by the commit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode

from agents_io.errors import BadResponse, ClientError
from agents_io.rules.statuses import error_of
from agents_io.transport import Answer
from schemas.messages import AgentRegistration
from streams.rules.records import Output
from streams.tracing.spans import NOTHING
from tests.support.dispatching import AGENT, Dispatching
from tests.support.tracing import TRACE, TRACEPARENT, USER, Recording, header_of, ids
from tests.support.wait import until

pytestmark = pytest.mark.virtual_time

GIVEN = (("traceparent", TRACEPARENT.encode()), ("tracestate", b"v=1"))
Make = Callable[..., Dispatching]


@pytest.fixture
def seen() -> Recording:
    """What dispatch makes."""
    return Recording()


@pytest.fixture
async def one(seen: Recording) -> Dispatching:
    """A handler that makes spans."""
    return Dispatching(tracing=seen.tracing)


def said(output: Output) -> dict[str, bytes]:
    """The headers of a record."""
    return dict(output.headers)


async def test_two_tries_are_two_calls_below_the_work_on_the_task(one: Dispatching, seen: Recording) -> None:
    """Names, kinds, parents, what went wrong with the first, the confidence of the second; agent and result are told of it."""
    one.transport.script.extend([error_of(503, "'payload-secret'"), Answer("answer-secret", 0.75)])
    one.take(1, headers=GIVEN, payload={"text": "payload-secret"})
    await one.end(1)
    assert [span.name for span in seen.spans] == ["invoke_agent a1"] * 2, "the work ends with the commit, not before"
    one.partition.commit()
    first, second, work = seen.spans
    assert (work.name, work.kind, work.status.status_code) == ("process t.tasks", SpanKind.CONSUMER, StatusCode.UNSET)
    trace, mine, parent = ids(work)
    assert (trace, parent) == (TRACE, USER)
    for span in (first, second):
        assert (span.kind, ids(span)[0], ids(span)[2]) == (SpanKind.CLIENT, TRACE, mine)
    assert first.attributes == {
        "gen_ai.operation.name": "invoke_agent", "gen_ai.provider.name": "http", "gen_ai.agent.id": "a1",
        "server.address": "h", "url.full": "http://h", "parallax.call.attempt": 1,
        "error.type": "http_5xx", "http.response.status_code": 503,
    }  # fmt: skip
    assert first.status.status_code is StatusCode.ERROR
    assert (second.attributes or {})["parallax.call.attempt"] == 2
    [event] = second.events
    assert event.name == "gen_ai.evaluation.result"
    assert event.attributes == {"gen_ai.evaluation.name": "confidence", "gen_ai.evaluation.score.value": 0.75}
    assert work.attributes is not None
    assert {
        "parallax.outcome": "success",
        "parallax.calls": 2,
        "parallax.task.id": "t1",
    }.items() <= work.attributes.items()
    assert [dict(call.headers)["traceparent"][:52] for _, call in one.transport.calls] == [
        header_of(first).decode(), header_of(second).decode(),
    ]  # fmt: skip
    assert {dict(call.headers)["tracestate"] for _, call in one.transport.calls} == {"v=1"}
    [(_, _, outputs)] = one.partition.ended
    for output in (*outputs, *one.emitted):
        assert (said(output).get("traceparent", b"")[:52] == header_of(work)) == (output.topic != "data-points")
    assert "secret" not in "".join(span.to_json() for span in seen.spans)


async def test_work_that_is_done_again_is_the_same_span(seen: Recording) -> None:
    """The dead worker's call and the next one's lie below one; only who commits tells of it. Also without a trace."""
    for headers in (GIVEN, ()):
        before, again = Dispatching(tracing=seen.tracing), Dispatching(tracing=seen.tracing)
        offset = 5 + len(headers)
        before.take(offset, headers=headers)
        again.process("tasks", before.log["tasks", offset])
        for owner in (before, again):
            await owner.end(offset)
        again.partition.commit()
        *calls, work = seen.spans[-3:]
        assert [span.name for span in calls] == ["invoke_agent a1"] * 2
        assert {ids(span)[2] for span in calls} == {ids(work)[1]}
        assert {ids(span)[0] for span in calls} == {ids(work)[0]}
        assert ids(calls[0])[1] != ids(calls[1])[1]
        assert (ids(work)[2], ids(work)[0] == TRACE) == ((USER, True) if headers else (None, False))


async def test_a_dead_letter_is_an_error_and_keeps_its_headers(one: Dispatching, seen: Recording) -> None:
    """The reason is not told, only where it was found out: it may quote the input."""
    one.take(3, b'{"id": "secret"', headers=GIVEN)
    one.partition.commit()
    work = seen.one("process t.tasks")
    assert (work.status.status_code, ids(work)[2]) == (StatusCode.ERROR, USER)
    assert work.attributes is not None
    assert work.attributes["parallax.dlq.stage"] == "decode"
    assert "secret" not in work.to_json()
    [(_, _, outputs)] = one.partition.ended
    dead_letter, event = outputs
    assert (dead_letter.topic, said(dead_letter)["traceparent"]) == ("dlq.tasks", TRACEPARENT.encode())
    assert said(event)["traceparent"].startswith(header_of(work))


async def test_a_task_that_fails_and_one_that_is_cancelled(one: Dispatching, seen: Recording) -> None:
    """The first is an error of its kind; what somebody cancelled is none."""
    one.transport.last = ClientError("no")
    one.take(1)
    await one.end(1)
    one.cancel_requests["t2"] = "enough"
    one.take(2)
    await one.end(2)
    one.partition.commit()
    failed, cancelled = (span for span in seen.spans if span.name.startswith("process"))
    assert (failed.status.status_code, (failed.attributes or {})["error.type"]) == (StatusCode.ERROR, "http_4xx")
    assert cancelled.status.status_code is StatusCode.UNSET
    assert (cancelled.attributes or {})["parallax.outcome"] == "cancelled"


async def test_a_call_that_is_cut_off_ends_and_is_no_error(one: Dispatching, seen: Recording) -> None:
    """Cancelled at the agent."""
    one.transport.gate.clear()
    one.take(1)
    await until(lambda: bool(one.transport.calls))
    one.handler.cancel("t1")
    await one.end(1)
    call = seen.one("invoke_agent a1")
    assert (call.attributes or {})["parallax.call.cut_off"] is True
    assert call.status.status_code is StatusCode.UNSET


async def test_a_second_call_beside_the_first_is_told_to_be_one(seen: Recording) -> None:
    """Both below the task; the first is cut off."""
    one = Dispatching(tracing=seen.tracing)
    one.register(**AGENT, limits={"hedge": True})
    for offset in range(25):
        one.take(offset, payload={"n": offset})
        await one.end(offset)
    before = len(seen.spans)
    release, calls = asyncio.Event(), 0

    async def call(agent: Any, call: Any) -> Answer:
        nonlocal calls
        calls += 1
        if calls == 1:
            await release.wait()
        return Answer("ok", 0.9)

    one.transport.call = call  # type: ignore[method-assign]
    one.take(100, payload={"n": 100})
    await one.end(100)
    first, second = sorted(seen.spans[before:], key=lambda span: span.start_time or 0)
    assert "parallax.call.hedged" not in (first.attributes or {})
    assert (second.attributes or {})["parallax.call.hedged"] is True
    assert (first.attributes or {})["parallax.call.cut_off"] is True
    assert ids(first)[2] == ids(second)[2]


async def test_a_cached_answer_is_told_on_the_task(one: Dispatching, seen: Recording) -> None:
    """No call below it; its confidence is there all the same."""
    for offset in (1, 2):
        one.take(offset, payload={"same": 1})
        await one.end(offset)
    one.partition.commit()
    called, cached = (span for span in seen.spans if span.name == "process t.tasks")
    assert [len(span.events) for span in (called, cached)] == [0, 1]
    assert (cached.attributes or {})["parallax.cached"] is True
    assert len([span for span in seen.spans if span.name == "invoke_agent a1"]) == 1


async def test_a_task_that_goes_on_elsewhere_stays_in_its_trace(seen: Recording) -> None:
    """Forwarded and taken up by its agent's owner partition, which believes our header; the user's own stays as it was."""
    here = Dispatching(tracing=seen.tracing, number=0, partitions=64)
    here.take(1, headers=GIVEN)
    here.partition.commit()
    [(_, _, [moved])] = here.partition.ended
    assert said(moved)["traceparent"] == TRACEPARENT.encode()
    there = Dispatching(tracing=seen.tracing, number=moved.partition or 0, partitions=64)
    there.take(9, moved.value, source="dispatch", headers=tuple(moved.headers))
    await there.end(9)
    there.partition.commit()
    first, second = seen.one("process t.tasks"), seen.one("process t.dispatch")
    assert (first.attributes or {})["parallax.outcome"] == "forwarded"
    assert ids(second)[::2] == (TRACE, ids(first)[1])
    assert ids(seen.one("invoke_agent a1"))[2] == ids(second)[1]


async def test_a_moved_task_stays_in_its_trace_without_one_of_the_users(seen: Recording) -> None:
    """It waits for a circuit and its record moves: what another owner makes of it lies below what put it there."""
    one = Dispatching(tracing=seen.tracing, breaker={"failure_threshold": 1, "reset_timeout": 60_000})
    one.transport.last = BadResponse("no")
    one.take(1, metadata={"retries": 0})
    await one.end(1)
    one.partition.commit()
    one.take(2)
    one.handler.unblock("tasks", [2])
    one.partition.commit()
    [moved] = one.partition.ended[-1][2]
    assert moved.topic == "parked"
    assert "traceparent" not in said(moved)
    later = Dispatching(tracing=seen.tracing)
    later.take(4, moved.value, source="parked", headers=tuple(moved.headers))
    await later.end(4)
    later.partition.commit()
    second = seen.one("process t.parked")
    assert said(moved)["parallax-span"].startswith(f"00-{ids(second)[0]}-{ids(second)[2]}".encode())
    one.handler.close()
    later.handler.close()


@pytest.mark.parametrize(("sampler", "flags"), [(ALWAYS_OFF, b"-00"), (ParentBased(TraceIdRatioBased(0.0)), b"-01")])
async def test_what_is_not_sampled_is_passed_on_as_such(sampler: Any, flags: bytes) -> None:
    """A sampler that says no makes no span, and says so to the agent; one that asks the parent goes by it."""
    seen = Recording(sampler=sampler)
    one = Dispatching(tracing=seen.tracing)
    one.take(1, headers=GIVEN)
    await one.end(1)
    one.partition.commit()
    assert len(seen.spans) == (2 if flags == b"-01" else 0)
    [(_, _, outputs)] = one.partition.ended
    result = said(next(output for output in outputs if output.topic == "results"))["traceparent"]
    assert result[:36] == f"00-{TRACE}-".encode()
    assert result[36:52] != USER.encode()
    assert result[-3:] == flags
    [(_, call)] = one.transport.calls
    assert dict(call.headers)["traceparent"].encode()[-3:] == flags


async def test_without_spans_nothing_is_told_of_any() -> None:
    """Results and events carry no trace; the agent is sent what the user said, as ever."""
    one = Dispatching()
    one.take(1, headers=GIVEN)
    await one.end(1)
    [(_, _, outputs)] = one.partition.ended
    for output in (*outputs, *one.emitted):
        assert not {"traceparent", "tracestate", "parallax-span"} & said(output).keys()
    [(_, call)] = one.transport.calls
    assert dict(call.headers) == {"traceparent": TRACEPARENT, "tracestate": "v=1"}
    assert one.partition.after == []
    assert orjson.loads(outputs[0].value or b"")["status"] == "success"


async def test_a_call_that_goes_on_for_another_record_stays_below_its_task(one: Dispatching, seen: Recording) -> None:
    """The record that takes the place says the same trace, for whoever else may read it; the work ends with that record."""
    one.transport.gate.clear()
    one.take(1, headers=GIVEN)
    await until(lambda: bool(one.transport.calls))
    one.handler.unblock("tasks", [1])
    one.partition.commit()
    assert seen.spans == [], "the work goes on"
    [(_, _, [moved])] = one.partition.ended
    one.take(7, moved.value, source="parked", headers=tuple(moved.headers))
    one.transport.gate.set()
    await one.end(7)
    one.partition.commit()
    call, work = seen.spans
    assert (call.name, ids(call)[2]) == ("invoke_agent a1", ids(work)[1])
    assert said(moved)["parallax-span"].startswith(header_of(work))
    assert (work.attributes or {})["parallax.outcome"] == "success"


async def test_a_pattern_that_is_handed_over_is_a_plan_below_its_task(one: Dispatching, seen: Recording) -> None:
    """In place of what the user said: the plan is part of the task."""
    step = {"id": "a", "type": "agent", "target": "a1", "payload": 1}
    one.templates["t"] = {"name": "t", "plan": {"timeout": 7000, "tasks": [step]}}
    one.take(1, type="pattern", target="t", headers=GIVEN)
    one.partition.commit()
    [(_, _, [plan])] = one.partition.ended
    work = seen.one("process t.tasks")
    assert [value[:52] for name, value in plan.headers if name == "traceparent"] == [header_of(work)]
    assert (work.attributes or {})["parallax.outcome"] == "handed-over"


async def test_equal_tasks_that_share_a_call_are_each_told(one: Dispatching, seen: Recording) -> None:
    """One call below the first; the other says that its answer was known."""
    one.transport.gate.clear()
    for offset in (1, 2):
        one.take(offset, payload={"same": 1})
    await until(lambda: bool(one.transport.calls))
    one.transport.gate.set()
    await one.end(2)
    one.partition.commit()
    works = {
        (span.attributes or {})["parallax.task.id"]: span for span in seen.spans if span.name.startswith("process")
    }
    assert ids(seen.one("invoke_agent a1"))[2] == ids(works["t1"])[1]
    assert (works["t2"].attributes or {})["parallax.cached"] is True


async def test_a_second_record_of_one_task_is_told_to_be_a_double(one: Dispatching, seen: Recording) -> None:
    """It ends well, and without a call."""
    one.transport.gate.clear()
    one.take(1)
    one.take(2, id="t1")
    one.partition.commit()
    double = seen.one("process t.tasks")
    assert ((double.attributes or {})["parallax.outcome"], double.status.status_code) == ("duplicate", StatusCode.UNSET)


def test_a_model_says_what_it_took(seen: Recording) -> None:
    """As the transport for chat completions found it; what another agent says of itself is not told."""
    answer = Answer("ok", 0.9, {"model": "m-1", "usage": {"inputTokens": 7, "outputTokens": 2}})
    for endpoint in ("openai://h/v1", "http://h"):
        agent = AgentRegistration.model_validate({"id": endpoint[:4], "endpoint": endpoint, "metadata": {"model": "m"}})
        seen.tracing.call(agent, NOTHING, 1, False).ended(answer)
    model, other = (dict(span.attributes or {}) for span in seen.spans)
    said = {"gen_ai.provider.name": "openai", "gen_ai.response.model": "m-1", "gen_ai.usage.output_tokens": 2}
    assert said.items() <= model.items()
    assert "url.full" not in model
    assert not {name for name in other if "usage" in name or "model" in name}
