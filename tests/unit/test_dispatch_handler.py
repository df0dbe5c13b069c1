"""The dispatch handler with real callers and queues: every record taken ends once, in the right way."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson
import pytest

from agents_io import errors
from agents_io.errors import AgentError, ConnectionFailed, ServerError
from agents_io.transport import Answer
from schemas.codec import header
from schemas.partitioning import owner_partition
from streams.dispatch.unassigned import CHECK_S
from streams.rules.dispatch.routing import MAX_HOPS
from streams.rules.source_record import AGENT_HEADER, EXPIRES_HEADER, HOPS_HEADER, ORIGIN_HEADER, own_header
from tests.support.dispatching import AGENT, Dispatching
from tests.support.wait import settle, until

pytestmark = pytest.mark.virtual_time

Make = Callable[..., Dispatching]
ONE_AT_A_TIME = {"limits": {"maxConcurrency": 1}}
DEEP = b"[" * 300 + b"]" * 300


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Makes handlers and closes them."""
    made: list[Dispatching] = []

    def build(number: int = 0, partitions: int = 1, **fields: Any) -> Dispatching:
        made.append(Dispatching(number, partitions, **fields))
        return made[-1]

    yield build
    for one in made:
        one.handler.close()
    await settle()


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
    assert one.count("parallax_tasks_total", status="failure") == 1


async def test_an_answer_too_deep_to_be_written_is_a_bad_response(make: Make) -> None:
    """The agent spoke, and what it said cannot be passed on."""
    one = make()
    one.transport.last = Answer(orjson.loads(DEEP), 0.9)
    one.take(0)
    end = await one.end(0)
    assert end["results"]["error"]["code"] == "bad_response"
    assert end["data-points"]["success"] is False


async def test_an_unknown_agent_is_looked_up_once(make: Make) -> None:
    """Then the task fails as `no_agent`, without a call and without a data point."""
    one = make()
    one.take(0, target="nobody")
    one.take(1, target=None, capabilities=["fly"])
    for offset in (0, 1):
        end = await one.end(offset)
        assert end["results"]["error"]["code"] == "no_agent"
        assert set(end) == {"results", "events"}
    assert "'nobody'" in (await one.result(0))["error"]["message"]
    assert one.agents.lookups == 2
    assert one.transport.calls == []
    assert one.kinds() == []


async def test_an_agent_registered_a_moment_ago_is_found(make: Make) -> None:
    """The look-up reads the table to its end before saying no."""
    one = make()
    one.agents.late["a2"] = one.register(id="a2", endpoint="http://h", capabilities=["fly"])
    del one.agents.known["a2"]
    one.take(0, target="a2")
    assert (await one.result(0))["agentId"] == "a2"
    one.take(1, target=None, capabilities=["fly"])
    assert (await one.result(1))["agentId"] == "a2"
    assert one.agents.lookups == 1


async def test_an_agent_registered_again_is_called_at_its_new_place(make: Make) -> None:
    """With the next call, in the same queue."""
    one = make()
    one.take(0)
    await one.end(0)
    one.register(id="a1", endpoint="http://elsewhere")
    one.take(1, payload=1)
    await one.end(1)
    assert [agent.endpoint for agent, _ in one.transport.calls] == ["http://h", "http://elsewhere"]


def living_elsewhere(partitions: int = 4) -> str:
    """The id of an agent whose partition is not partition 0."""
    return next(name for name in (f"a{n}" for n in range(100)) if owner_partition(name, partitions) != 0)


def living_here(partitions: int = 4) -> str:
    """A task id that partition 0 is the arbiter of."""
    return next(name for name in (f"t{n}" for n in range(100)) if owner_partition(name, partitions) == 0)


async def test_a_task_of_another_partition_is_forwarded_and_keeps_its_deadline(make: Make) -> None:
    """The same bytes with agent, deadline, first timestamp and hop in headers; the attempt has its whole timeout there."""
    one = make(partitions=4)
    name = living_elsewhere()
    number = owner_partition(name, 4)
    one.register(id=name, endpoint="http://h", capabilities=["fly"])
    forged = ((AGENT_HEADER, b"a1"), (EXPIRES_HEADER, b"5"), (HOPS_HEADER, b"9"), ("mine", b"x"))
    before = one.wall_ms()
    task_id = living_here()
    one.take(0, id=task_id, target=None, capabilities=["fly"], headers=forged, metadata={"expiresIn": 30_000})
    [(_, _, [forward])] = one.partition.ended
    assert (forward.topic, forward.partition, forward.key) == ("dispatch", number, name.encode())
    assert header(forward.headers, AGENT_HEADER) == name
    assert own_header(forward.headers, HOPS_HEADER) == 1
    expires = own_header(forward.headers, EXPIRES_HEADER) or 0
    assert before + 30_000 <= expires <= one.wall_ms() + 30_000, "headers on `tasks` are not ours and count for nothing"
    assert header(forward.headers, "mine") == "x"
    assert one.transport.calls == []
    assert one.count("parallax_tasks_forwarded_total") == 1

    there = make(number, 4)
    there.register(id=name, endpoint="http://h", capabilities=["fly"])
    there.skew_ms = 10_000
    assert before <= (own_header(forward.headers, ORIGIN_HEADER) or 0) <= one.wall_ms()
    there.take(0, forward.value, source="dispatch", headers=tuple(forward.headers))
    assert (await there.result(0))["agentId"] == name
    assert 15 < there.transport.calls[0][1].timeout_s <= 20, "cut by the task's deadline, which was not begun anew"


@pytest.mark.parametrize("await_agent", ["unavailable", "never"])
async def test_after_too_many_hops_a_task_waits_before_each_further_one(make: Make, await_agent: str) -> None:
    """A loop has a pace. It is never done in a partition that does not own its agent: the owner would not know of the call."""
    one = make(partitions=4, dispatch={"await_agent": await_agent})
    name = living_elsewhere()
    one.register(id=name, endpoint="http://h", capabilities=["fly"])
    hops = ((HOPS_HEADER, str(MAX_HOPS - 1).encode()),)
    one.take(0, target=name, source="dispatch", headers=hops)
    assert own_header(one.partition.ended[0][2][0].headers, HOPS_HEADER) == MAX_HOPS
    often = ((HOPS_HEADER, str(MAX_HOPS).encode()),)
    one.take(1, target=name, source="dispatch", headers=often)
    # One whose agent went away as it came; another one is chosen.
    one.take(
        2, type="agent", target=None, capabilities=["fly"], source="dispatch", headers=(*often, (AGENT_HEADER, b"gone"))
    )
    began = one.wall_ms()
    await settle()
    assert [offset for _, offset, _ in one.partition.ended] == [0]
    await until(lambda: len(one.partition.ended) == 3, CHECK_S + 1)
    assert one.wall_ms() - began >= CHECK_S * 1000
    for _, _, [forward] in one.partition.ended[1:]:
        assert (forward.topic, own_header(forward.headers, HOPS_HEADER)) == ("dispatch", MAX_HOPS + 1)
    assert one.transport.calls == []


async def test_a_deadline_that_passed_on_the_way_ends_without_a_call(make: Make) -> None:
    """`expired`, status timeout, no data point."""
    one = make()
    one.take(0, source="dispatch", headers=((EXPIRES_HEADER, str(one.wall_ms() - 1).encode()),))
    end = await one.end(0)
    assert (end["results"]["status"], end["results"]["error"]["code"]) == ("timeout", "expired")
    assert end["events"]["type"] == "task:expired"
    assert set(end) == {"results", "events"}
    assert one.transport.calls == []


async def test_the_deadline_covers_waiting(make: Make) -> None:
    """Behind a task that hangs: `expired` at its own deadline, and no call was made for it."""
    one = make()
    one.register(**AGENT, **ONE_AT_A_TIME)
    one.transport.gate.clear()
    one.take(0)
    one.take(1, payload=1, metadata={"expiresIn": 30})
    one.take(2, payload=2, metadata={"timeout": 30})
    result = await one.result(1)
    assert (result["status"], result["error"]["code"]) == ("timeout", "expired")
    assert (result["executionTime"], result["waitTime"] >= 29) == (0, True)
    assert one.transport.tasks == ["t0"]
    one.transport.gate.set()
    assert (await one.result(0))["status"] == "success"
    assert (await one.result(2))["status"] == "success", "the timeout of an attempt does not run while the task waits"


async def test_a_known_answer_is_given_without_a_call(make: Make) -> None:
    """Cached, at no cost to the agent: `task:cache-hit` and `task:completed`, no `task:started`, no data point."""
    one = make()
    one.take(0, payload={"x": 1, "y": 2})
    await one.end(0)
    one.take(1, payload={"y": 2, "x": 1})
    end = await one.end(1)
    assert set(end) == {"results", "events"}
    assert (end["results"]["cached"], end["results"]["result"], end["results"]["agentId"]) == (True, "ok", "a1")
    assert (end["results"]["taskId"], end["results"]["confidence"]) == ("t1", 0.9)
    assert one.kinds() == ["task:started", "task:cache-hit"]
    assert one.transport.tasks == ["t0"]
    assert one.count("parallax_cache_hits_total") == 1


@pytest.mark.parametrize(
    "other",
    [
        {"metadata": {"cache": False}},
        {"payload": {"x": 2}},
        {"context": {"previous": 2}},
        {"metadata": {"patternName": "p"}},
        {"capabilities": ["c"]},
        {"target": "a2"},
    ],
    ids=lambda other: next(iter(other)),
)
async def test_another_question_is_asked(make: Make, other: dict[str, Any]) -> None:
    """Anything the agent is sent or was chosen by makes another question; so does the wish for a fresh answer."""
    one = make()
    one.register(id="a2", endpoint="http://h")
    one.take(0, payload={"x": 1})
    await one.end(0)
    one.take(1, **({"payload": {"x": 1}} | other))
    assert (await one.result(1))["cached"] is False
    assert one.transport.tasks == ["t0", "t1"]


async def test_what_is_not_kept(make: Make) -> None:
    """Failures, answers of little confidence, and answers to tasks that want no cache."""
    one = make()
    one.transport.script.extend([ServerError("500"), Answer("unsure", 0.79), Answer("fresh", 1.0), Answer("last", 1.0)])
    one.take(0, metadata={"retries": 0})
    await one.end(0)
    one.take(1)
    await one.end(1)
    one.take(2, metadata={"cache": False})
    await one.end(2)
    one.take(3)
    assert (await one.result(3))["result"] == "last"


async def test_the_cache_can_be_off(make: Make) -> None:
    """Then every task is called."""
    one = make(cache={"enabled": False})
    for offset in (0, 1):
        one.take(offset)
        await one.end(offset)
    assert one.transport.tasks == ["t0", "t1"]


async def test_what_memory_cannot_hold_waits_on_its_topic_in_order(make: Make) -> None:
    """One is called, three stay on their topic; each is read again and begins in its turn."""
    one = make(dispatch={"max_held_bytes": 1})
    one.register(**AGENT, **ONE_AT_A_TIME)
    one.transport.gate.clear()
    for offset in range(4):
        one.take(offset, payload=offset)
        assert one.handler.room("tasks")
    await until(lambda: one.transport.calls)
    assert (one.transport.tasks, one.resting) == (["t0"], 3)
    reasons = [(one.handler.explain("tasks", offset) or {})["reason"] for offset in range(4)]
    assert reasons == ["calling", "concurrency", "concurrency", "concurrency"]
    one.transport.gate.set()
    for offset in range(4):
        assert (await one.result(offset))["status"] == "success"
    assert one.transport.tasks == ["t0", "t1", "t2", "t3"]
    assert one.handler.room("tasks")
    assert one.handler.explain("tasks", 0) is None


async def test_tasks_on_their_topic_expire_too(make: Make) -> None:
    """Behind a hanging agent, without being called."""
    one = make(dispatch={"max_held_bytes": 1})
    one.register(**AGENT, **ONE_AT_A_TIME)
    one.transport.gate.clear()
    for offset in range(3):
        one.take(offset, payload=offset, metadata={"expiresIn": 30_000 if offset == 0 else 30})
    for offset in (1, 2):
        assert (await one.result(offset))["error"]["code"] == "expired"
    assert one.handler.room("tasks")
    assert one.transport.tasks == ["t0"]


BAD = {
    "not JSON": (b"hello", "decode"),
    "null": (b"null", "validate"),
    "no id": (b'{"type":"agent","target":"a1","payload":{}}', "validate"),
    "payload too deep": (b'{"id":"t","type":"agent","target":"a1","payload":' + DEEP + b"}", "validate"),
    "metadata too deep": (
        b'{"id":"t","type":"agent","target":"a1","payload":1,"metadata":{"mine":' + DEEP + b"}}",
        "validate",
    ),
}


@pytest.mark.parametrize(("value", "stage"), BAD.values(), ids=BAD)
async def test_bad_input_is_a_dead_letter(make: Make, value: bytes, stage: str) -> None:
    """Its own bytes, at once, without a call; the next record is answered."""
    one = make()
    one.take(0, value)
    one.take(1)
    end = await one.end(0)
    assert end["dlq.tasks"] == value
    assert end["events"]["type"] == "task:dead-lettered"
    assert (await one.result(1))["status"] == "success"
    assert one.transport.tasks == ["t1"]
    assert one.count("parallax_dead_letters_total", stage=stage) == 1


async def test_a_task_too_large_or_not_allowed_has_a_result(make: Make) -> None:
    """It could be read, so it is answered: no call, no data point."""
    one = make(dispatch={"max_task_bytes": 200})
    one.take(0, payload="x" * 200)
    one.take(1, type="http", target="http://elsewhere")
    codes = []
    for offset in (0, 1):
        end = await one.end(offset)
        codes.append(end["results"]["error"]["code"])
        assert set(end) == {"results", "events"}
    assert codes == ["too_large", "forbidden_target"]
    assert one.transport.calls == []


def broken(*arguments: Any, **named: Any) -> Any:
    """A bug of ours."""
    raise ZeroDivisionError("a bug")


@pytest.mark.parametrize("place", ["agents.get", "recorder.succeeded", "recorder.failed", "looked up"])
async def test_a_bug_of_our_own_costs_one_task_its_answer(
    make: Make, monkeypatch: pytest.MonkeyPatch, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    """While taking, after the call, or after a look-up: the task ends as failed; as a dead letter where telling is what broke."""
    one = make()
    fields: dict[str, Any] = {}
    with monkeypatch.context() as patch:
        if place == "looked up":
            fields["target"] = "nobody"
            patch.setattr("streams.dispatch.router.absence", broken)
        elif place == "agents.get":
            patch.setattr(one.agents, "get", broken)
        else:
            patch.setattr(one.recorder, place.partition(".")[2], broken)
            if place == "recorder.failed":
                one.transport.script.append(errors.ClientError("400"))
        one.take(0, **fields)
        end = await one.end(0)
    if place == "recorder.failed":
        assert set(end) == {"dlq.tasks", "events"}
        assert end["events"]["data"]["reason"] == "internal error: ZeroDivisionError"
    else:
        assert set(end) == {"results", "events"}
        assert (end["results"]["status"], end["results"]["error"]["code"]) == ("failure", "internal")
        assert end["results"]["error"]["message"] == "internal error: ZeroDivisionError"
    one.take(1, payload=1)
    assert (await one.result(1))["status"] == "success"
    assert one.handler.explain("tasks", 0) is None


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


async def test_hold_begins_nothing_and_lets_what_runs_finish(make: Make) -> None:
    """The call under way ends its task; what waits is left to the next owner, and so is a task whose retry would follow."""
    one = make()
    one.register(**AGENT, limits={"maxConcurrency": 2})
    one.transport.gate.clear()
    one.transport.script.extend([Answer("ok", 0.9), ServerError("500")])
    for offset in range(3):
        one.take(offset, payload=offset)
    await until(lambda: len(one.transport.calls) == 2)
    assert one.handler.running() == 2
    one.handler.hold()
    one.transport.gate.set()
    await until(lambda: one.handler.running() == 0)
    await asyncio.sleep(0.02)
    assert [offset for _, offset, _ in one.partition.ended] == [0]
    assert one.transport.tasks == ["t0", "t1"]


async def test_a_look_up_that_ends_after_hold_begins_no_call(make: Make) -> None:
    """Its agent was not known before: a caller made only now must not begin either; nor is the task failed."""
    one = make()
    one.agents.gate.clear()
    one.agents.late["a2"] = one.register(id="a2", endpoint="http://h")
    del one.agents.known["a2"]
    one.take(0, target="a2")
    one.take(1, target="nobody")
    await until(lambda: one.agents.lookups == 2)
    assert (one.handler.explain("tasks", 0) or {})["reason"] == "looking_for_agent"
    one.handler.hold()
    one.agents.gate.set()
    await settle()
    assert one.transport.calls == []
    assert one.partition.ended == []


async def test_close_cancels_and_completes_nothing(make: Make) -> None:
    """Calls, waiting tasks, those left on their topic and look-ups: the next owner finds them all."""
    one = make(dispatch={"max_held_bytes": 5000})
    one.register(**AGENT, **ONE_AT_A_TIME)
    one.transport.gate.clear()
    one.agents.gate.clear()
    one.take(9, target="nobody")
    for offset in range(3):
        one.take(offset, payload=offset)
    await until(lambda: one.transport.calls)
    one.handler.close()
    await settle()
    one.transport.gate.set()
    one.agents.gate.set()
    await asyncio.sleep(0.01)
    assert one.partition.ended == []
    assert one.transport.cancelled == 1
    assert one.handler.running() == 0
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


async def test_an_agent_of_another_protocol_is_not_called(make: Make) -> None:
    """It is refused with a reason, not called as if it spoke HTTP."""
    one = make()
    one.register(id="a1", endpoint="grpc://127.0.0.1:1")
    one.take(0)
    error = (await one.result(0))["error"]
    assert (error["code"], error["retryable"], error["agentId"]) == ("unsupported", False, "a1")
    assert "grpc" in error["message"]
    assert one.transport.calls == []


async def test_waiting_tasks_go_by_a_new_registration(make: Make) -> None:
    """The endpoint changed while a task waited: its call goes to the new place."""
    one = make()
    one.register(**AGENT, **ONE_AT_A_TIME)
    one.transport.gate.clear()
    for offset in (0, 1):
        one.take(offset, payload=offset)
    await until(lambda: one.transport.calls)
    moved = one.register(**{**AGENT, "endpoint": "http://127.0.0.1:2"}, **ONE_AT_A_TIME)
    one.handler.agent_changed("a1", moved)
    one.transport.gate.set()
    await one.result(1)
    assert [agent.endpoint for agent, _ in one.transport.calls] == [AGENT["endpoint"], "http://127.0.0.1:2"]


async def test_an_agent_that_is_gone_is_forgotten_once_it_is_idle(make: Make) -> None:
    """Agents that come and go leave nothing behind; one that is called is kept, and so is what its rate limit has seen."""
    one = make()
    one.register(**AGENT, limits={"windowMs": 300})
    one.transport.gate.clear()
    one.take(0)
    await until(lambda: one.transport.calls)
    one.handler.agent_changed("a1", None)
    one.transport.gate.set()
    assert (await one.result(0))["status"] == "success"
    for wait_s, left in ((0.0, ["a1"]), (0.5, [])):
        await asyncio.sleep(wait_s)
        one.handler.changes()  # the limit is remembered in the state topic too
        one.handler.agent_changed("a1", None)
        assert list(one.handler.callers) == left
    one.handler.agent_changed("nobody", None)
