"""Tasks that are not for agents, through the dispatch handler: the same queue, cache, ids and partitions."""

from __future__ import annotations

import orjson
import pytest

from agents_io.errors import ServerError
from schemas.codec import decode
from schemas.messages import Plan, Result
from schemas.partitioning import owner_partition
from streams.rules.source_record import AGENT_HEADER
from tests.support.dispatching import Make
from tests.support.dispatching import make as make

pytestmark = pytest.mark.virtual_time


async def test_tasks_of_other_types_go_the_same_way(make: Make) -> None:
    """A queue, an id that stands as the agent's on result and data point, and the cache where that is right."""
    one = make()
    one.take(0, type="function", target="f", payload=1)
    one.take(1, type="pattern", target="plan a", payload=1)
    one.take(
        2, type="http", target="http://h/x?key=s3cret", payload=1, metadata={"method": "PUT", "headers": {"A": "b"}}
    )
    ends = [await one.end(offset) for offset in range(3)]
    ids = ["function:f", "pattern:plan a", "http:h:80"]
    assert [end["results"]["agentId"] for end in ends] == ids
    assert [end["data-points"]["agentId"] for end in ends] == ids
    assert [end["data-points"]["taskType"] for end in ends] == ["function", "pattern", "http"]
    assert [end["data-points"]["patternName"] for end in ends] == ["", "plan a", ""]
    assert [call.body for _, call in one.transport.calls[:2]] == [b"1", b"1"]
    assert orjson.loads(one.transport.calls[2][1].body) == {
        "url": "http://h/x?key=s3cret",
        "method": "PUT",
        "headers": {"A": "b"},
        "query": None,
        "payload": 1,
    }
    assert "s3cret" not in str(ends) + str(one.events())
    again = [("function", "f", {}), ("pattern", "plan a", {}), ("http", "http://h/x?key=s3cret", {"method": "PUT"})]
    for offset, (kind, target, metadata) in enumerate(again, 3):
        one.take(offset, type=kind, target=target, payload=1, metadata=metadata)
        assert (await one.result(offset))["cached"] is (kind != "http")


async def test_equal_names_of_different_types_are_different_questions(make: Make) -> None:
    """An agent, a function and a pattern of one name; one URL by two methods."""
    one = make()
    one.register(id="f", endpoint="http://h")
    for offset, kind in enumerate(("agent", "function", "pattern")):
        one.take(offset, type=kind, target="f", payload=1)
        assert (await one.result(offset))["cached"] is False
    for offset, metadata in enumerate(
        ({"method": "GET"}, {"method": "HEAD"}, {"method": "GET", "query": {"a": "b"}}), 3
    ):
        one.take(offset, type="http", target="http://h/", payload=1, metadata=metadata)
        assert (await one.result(offset))["cached"] is False


async def test_what_may_not_run_ends_at_once(make: Make) -> None:
    """With its code, without a call, a queue or a data point; and its id is answered."""
    one = make()
    refused = [
        ("http", "http://elsewhere/", "forbidden_target"),
        ("http", "http://169.254.169.254/latest", "forbidden_target"),
        ("function", "os.system", "unknown_function"),
    ]
    for offset, (kind, target, code) in enumerate(refused):
        one.take(offset, type=kind, target=target)
        end = await one.end(offset)
        assert end["results"]["error"]["code"] == code
        assert set(end) == {"results", "events"}
    assert one.transport.calls == []
    assert one.handler.callers == {}
    one.take(9, id="t0", type="http", target="http://elsewhere/")
    assert (await one.end(9))["events"]["type"] == "task:duplicate"


async def test_a_task_of_another_type_goes_to_its_agents_partition(make: Make) -> None:
    """Once; by the id of the built-in agent."""
    partition = owner_partition("function:f", 8)
    one = make(number=(partition + 1) % 8, partitions=8)
    one.take(0, type="function", target="f")
    [[output]] = [outputs for _, _, outputs in one.partition.ended]
    assert (output.topic, output.partition, output.key) == ("dispatch", partition, b"function:f")
    there = make(number=partition, partitions=8)
    there.take(0, output.value, source="dispatch", headers=tuple(output.headers))
    assert (await there.result(0))["agentId"] == "function:f"


@pytest.mark.parametrize(("kind", "target"), [("http", "http://h/"), ("pattern", "t"), ("pattern", "u")])
async def test_an_agent_that_settings_decide_about_is_found_where_the_id_is_checked(
    make: Make, kind: str, target: str
) -> None:
    """The record goes to the partition of its id first, without an agent; from there on, with one."""
    here = owner_partition("t0", 8)
    one = make(number=(here + 1) % 8, partitions=8)
    one.templates["t"] = LOCAL
    one.take(0, type=kind, target=target)
    [[output]] = [outputs for _, _, outputs in one.partition.ended]
    assert (output.topic, output.partition, output.key) == ("dispatch", here, b"t0")
    assert AGENT_HEADER not in dict(output.headers)
    there = make(number=here, partitions=8)
    there.templates["t"] = LOCAL
    there.take(1, output.value, source="dispatch", headers=tuple(output.headers))
    [[forward]] = [outputs for _, _, outputs in there.partition.ended]
    if target == "t":
        assert forward.topic == "plans"
    else:
        name = "http:h:80" if kind == "http" else "pattern:u"
        assert (forward.topic, forward.partition) == ("dispatch", owner_partition(name, 8))
        assert dict(forward.headers)[AGENT_HEADER] == name.encode()


async def test_a_record_that_carries_its_agent_is_not_checked_again(make: Make) -> None:
    """Id and agent have the same partition; the record lies on `parked`, and another owner reads it."""
    one = make(breaker={"failure_threshold": 1, "reset_timeout": 60_000}, retry={"max_retries": 0})
    one.transport.script.append(ServerError("500"))
    one.take(0, type="http", target="http://a.wide/", metadata={"retries": 0})
    await one.result(0)
    one.take(1, type="http", target="http://a.wide/", payload=1)
    one.handler.unblock("tasks", [1])
    [parked] = one.partition.ended[-1][2]
    assert parked.topic == "parked"
    kept = [output.value or b"" for output in one.handler.changes() if b"/seen/" in (output.key or b"")]
    heir = make(kept=kept)
    heir.take(7, parked.value, source="parked", headers=tuple(parked.headers))
    assert (await heir.result(7))["status"] == "success"


LOCAL = {"name": "t", "plan": {"timeout": 7000, "tasks": [{"id": "a", "type": "agent", "target": "a1", "payload": 1}]}}


async def test_a_pattern_that_is_a_local_template_is_handed_to_the_plan_coordinator(make: Make) -> None:
    """In the partition of its id, with the time it has left and its own metadata; no result, no event, no call."""
    one = make(number=owner_partition("t0", 8), partitions=8)
    one.templates["t"] = LOCAL
    metadata = {"priority": 3, "own": {"x": 1}, "headers": {"A": "s3cret"}}
    now_ms = one.wall_ms()
    one.take(0, type="pattern", target="t", payload={"n": 1}, planId="mine", metadata=metadata, context={"c": 1})
    [[output]] = [outputs for _, _, outputs in one.partition.ended]
    assert (output.topic, output.key, output.partition) == ("plans", b"task:t0", None)
    plan = decode(Plan, output.value, output.headers)
    assert plan.answers is not None
    assert plan.answers.metadata == {"priority": 3, "own": {"x": 1}}
    assert plan.answers.plan_id == "mine"
    assert now_ms <= plan.answers.accepted <= one.wall_ms()
    assert plan.answers.expires - plan.answers.accepted == 7000
    [step] = plan.tasks
    assert (step.id, step.target, step.payload, step.context) == ("t0", "t", {"n": 1}, {"c": 1})
    assert (one.transport.calls, one.emitted, one.count("parallax_tasks_handed_over_total")) == ([], [], 1)
    assert b"s3cret" not in (output.value or b"")


async def test_a_pattern_that_is_handed_over_stays_in_its_trace(make: Make) -> None:
    """The plan's record carries the task's context; one that is none is not carried."""
    one = make()
    one.templates["t"] = LOCAL
    trace = [("traceparent", f"00-{'ab' * 16}-{'12' * 8}-01".encode()), ("tracestate", b"x=1")]
    for offset, given in enumerate((trace, [("traceparent", b"00-1-2-01")])):
        one.take(offset, type="pattern", target="t", payload={}, headers=tuple(given))
    said = [[h for h in output.headers if h[0].startswith("trace")] for _, _, [output] in one.partition.ended]
    assert said == [trace, []]


async def test_what_a_task_has_left_of_its_deadline_goes_on(make: Make) -> None:
    """One that was forwarded before this worker knew the template."""
    one = make()
    one.templates["t"] = LOCAL
    came_ms = one.wall_ms() - 20_000
    headers = (("parallax-expires", str(came_ms + 50_000).encode()), ("parallax-hops", b"1"))
    one.take(0, source="dispatch", headers=headers, type="pattern", target="t", metadata={"timeout": 50_000})
    answers = decode(Plan, one.partition.ended[0][2][0].value).answers
    assert answers is not None
    assert answers.expires == came_ms + 50_000, "its deadline travels with it; the pattern's own time begins here"
    assert answers.accepted >= came_ms + 20_000


async def test_a_cancelled_pattern_is_handed_over_once(make: Make) -> None:
    """The coordinator answers it, since one of before an upgrade may have run. The second record is a duplicate here."""
    one = make()
    one.templates["t"] = LOCAL
    one.cancel_requests["x"] = "the task was cancelled"
    for offset in range(2):
        one.take(offset, id="x", type="pattern", target="t")
    assert [[output.topic for output in outputs] for _, _, outputs in one.partition.ended] == [["plans"], ["events"]]
    assert (await one.end(1))["events"]["type"] == "task:duplicate"
    one.handler.cancel("x")
    assert len(one.partition.ended) == 2


async def test_other_patterns_and_steps_of_plans_go_to_the_control_plane(make: Make) -> None:
    """What a coordinator sent on it did not know, so that templates cannot go round in circles."""
    one = make()
    one.templates["t"] = LOCAL
    one.take(0, type="pattern", target="u")
    one.take(1, id="p#0", planId="p", type="pattern", target="t", headers=(("ce_source", b"/parallax/app/plans"),))
    assert [(await one.result(offset))["agentId"] for offset in (0, 1)] == ["pattern:u", "pattern:t"]


async def test_a_task_too_large_for_the_plans_topic_has_its_result(make: Make) -> None:
    """If the broker takes less there than it took on `tasks`."""
    one = make()
    one.templates["t"] = LOCAL
    one.take(0, type="pattern", target="t", payload="x" * 70_000)
    fallback = one.partition.ended[0][2][0].fallback
    assert fallback is not None
    result = decode(Result, fallback.value, fallback.headers)
    assert (fallback.topic, fallback.key, result.task_id, result.status) == ("results", b"t0", "t0", "failure")
    assert result.error is not None
    assert result.error.code == "too_large"
