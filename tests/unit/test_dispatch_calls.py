"""Dispatch calls an agent: what it sends, what comes of each answer and failure, and which trace the call belongs to."""

from __future__ import annotations

import re

import orjson
import pytest

from agents_io import errors
from agents_io.errors import AgentError, ConnectionFailed, ServerError
from agents_io.transport import Answer
from tests.support.dispatching import DEEP, Make
from tests.support.dispatching import make as make
from tests.support.wait import until

pytestmark = pytest.mark.virtual_time


async def test_success(make: Make) -> None:
    """One call with the payload, the task's id as its key and the time that is left; result, point and events."""
    one = make()
    one.take(5, payload={"n": 1}, metadata={"mine": "kept", "headers": {"authorization": "secret"}, "retries": 1})
    end = await one.end(5)
    assert end["results"]["status"] == "success"
    assert (end["results"]["result"], end["results"]["confidence"]) == ("ok", 0.9)
    assert (end["results"]["agentId"], end["results"]["retries"], end["results"]["cached"]) == ("a1", 0, False)
    assert end["results"]["metadata"] == {"mine": "kept", "retries": 1}, "headers may hold secrets"
    assert end["events"]["type"] == "task:completed"
    assert (end["data-points"]["agentId"], end["data-points"]["success"]) == ("a1", True)
    [(agent, call)] = one.transport.calls
    assert (agent.id, call.body, call.idempotency_key) == ("a1", b'{"n":1}', "t5")
    assert 25 < call.timeout_s <= 30
    assert one.kinds() == ["task:started"]
    assert one.count("parallax_tasks_total", status="success") == 1


async def test_events_that_are_not_sent_yet_go_along_with_the_end(make: Make) -> None:
    """Before the event of the end, in the same commit; those of other tasks stay."""
    one = make()
    mine, other = (one.recorder.event("task:started", name, {}, one.wall_ms()) for name in ("t5", "t6"))
    one.unsent = {b"t5": [mine], b"t6": [other]}
    one.take(5)
    await until(lambda: bool(one.partition.ended))
    [(_, _, outputs)] = one.partition.ended
    events = [orjson.loads(output.value or b"")["type"] for output in outputs if output.topic == "events"]
    assert events == ["task:started", "task:completed"]
    assert one.unsent == {b"t6": [other]}


async def test_what_the_agent_is_sent(make: Make) -> None:
    """The context beside the payload, the key asked for, and the trace of the record; a null header or garbage is no trace."""
    one = make()
    context = {"previous": 1}
    one.take(0, payload={"n": 1}, context=context, metadata={"idempotencyKey": "k"})
    one.take(1, payload=[1], context=context, headers=(("traceparent", b"00-1-2-01"), ("mine", b"x")))
    one.take(2, payload=None, headers=(("traceparent", None),))
    for offset in range(3):
        assert (await one.result(offset))["status"] == "success"
    calls = [call for _, call in one.transport.calls]
    assert [orjson.loads(call.body) for call in calls] == [
        {"n": 1, "context": context},
        {"payload": [1], "context": context},
        None,
    ]
    assert [call.idempotency_key for call in calls] == ["k", "t1", "t2"]
    traces = [dict(call.headers)["traceparent"] for call in calls]
    assert all(re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-00", trace) for trace in traces)
    assert len(set(traces)) == 3


GOOD = f"00-{'ab' * 16}-{'12' * 8}-01"


@pytest.mark.parametrize(
    "parent",
    [
        b"\xff\xfe",
        b"garbage",
        GOOD.encode() + b"\r\n",
        b"00-\x00",
        GOOD.encode() + b"-more",
        f"ff{GOOD[2:]}".encode(),
        f"00-{'0' * 32}-{'12' * 8}-01".encode(),
        f"00-{'ab' * 16}-{'0' * 16}-01".encode(),
        GOOD.upper().encode(),
        b"",
    ],
)
async def test_a_broken_traceparent_begins_a_new_trace(make: Make, parent: bytes) -> None:
    """Its tracestate goes with it; the task is called as any other."""
    one = make()
    one.take(0, headers=(("traceparent", parent), ("tracestate", b"a=1")))
    assert (await one.result(0))["status"] == "success"
    [(_, call)] = one.transport.calls
    [(name, value)] = call.headers
    assert name == "traceparent"
    assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-00", value)


@pytest.mark.parametrize(
    ("state", "kept"),
    [
        (b"a=1,b=2", True),
        ("vendor=é".encode(), False),
        (b"a=b\n", False),
        (b"\xff", False),
        (b"v=" + b"x" * 510, True),
        (b"v=" + b"x" * 511, False),
        (b"v=" + b"x" * 100_000, False),
    ],
)
async def test_a_broken_or_long_tracestate_is_left_out(make: Make, state: bytes, kept: bool) -> None:
    """The trace goes on; of two parents the last counts, and a later version is passed on as ours."""
    one = make()
    other = f"cc-{'cd' * 16}-{'12' * 8}-ff-more".encode()
    one.take(0, headers=(("traceparent", other), ("traceparent", GOOD.encode()), ("tracestate", state)))
    one.take(1, headers=(("traceparent", other),), payload=1)
    assert (await one.result(0))["status"] == (await one.result(1))["status"] == "success"
    (_, first), (_, second) = one.transport.calls
    assert dict(first.headers) == {"traceparent": GOOD} | ({"tracestate": state.decode()} if kept else {})
    assert dict(second.headers) == {"traceparent": f"00-{'cd' * 16}-{'12' * 8}-03"}


async def test_retry_then_success(make: Make) -> None:
    """Two failures, then an answer: three calls, `retries` 2, `task:started` once, `task:retrying` for each."""
    one = make()
    one.transport.script.extend([ServerError("500"), ConnectionFailed("gone")])
    one.take(0)
    result = await one.result(0)
    assert (result["status"], result["retries"], len(one.transport.calls)) == ("success", 2, 3)
    assert one.kinds() == ["task:started", "task:retrying", "task:retrying"]
    assert [event["data"]["attempt"] for event in one.events()[1:]] == [1, 2]
    assert [event["data"]["delay"] for event in one.events()[1:]] == [1, 2]
    assert len({event["id"] for event in one.events()}) == 3
    assert one.count("parallax_dispatch_retries_total") == 2


BLAMED = {"CallTimeout", "ConnectionFailed", "ServerError", "BadResponse", "AnswerTooLarge", "ExecutionFailed"}

CALLED = [getattr(errors, name) for name in dir(errors) if name[0].isupper()]

KINDS = [kind for kind in CALLED if isinstance(kind, type) and issubclass(kind, AgentError) and kind is not AgentError]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
async def test_every_failure_has_its_code_and_status(make: Make, kind: type[AgentError]) -> None:
    """No answer after the last retry; a data point only where the failure is the agent's own."""
    one = make()
    one.transport.last = kind("why it failed")
    one.take(0, metadata={"retries": 1})
    end = await one.end(0)
    code = kind.code
    result = end["results"]
    assert result["status"] == {"timeout": "timeout", "expired": "timeout", "cancelled": "cancelled"}.get(
        code, "failure"
    )
    assert result["error"] == {"code": code, "message": "why it failed", "retryable": kind.retryable, "agentId": "a1"}
    assert len(one.transport.calls) == (2 if kind.retryable else 1)
    assert result["retries"] == len(one.transport.calls) - 1
    assert ("data-points" in end) == (kind.__name__ in BLAMED)
    if kind.__name__ in BLAMED:
        assert (end["data-points"]["success"], end["data-points"]["confidence"]) == (False, 0)
    assert one.count("parallax_tasks_total", status=result["status"]) == 1


async def test_an_answer_too_deep_to_be_written_is_a_bad_response(make: Make) -> None:
    """The agent spoke, and what it said cannot be passed on."""
    one = make()
    one.transport.last = Answer(orjson.loads(DEEP), 0.9)
    one.take(0)
    end = await one.end(0)
    assert end["results"]["error"]["code"] == "bad_response"
    assert end["data-points"]["success"] is False
