"""Equal tasks under way at once: one call, and what happens when it does not answer. With real callers and queues."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from agents_io.errors import ClientError, ServerError
from agents_io.transport import Answer
from schemas.codec import header
from schemas.messages import AgentStanding
from streams.dispatch import coalescing
from streams.dispatch.task_run import TaskRun
from streams.rules.source_record import MOVED_HEADER
from tests.support.dispatching import Dispatching
from tests.support.memory import held
from tests.support.wait import settle, until

pytestmark = pytest.mark.virtual_time

Make = Callable[..., Dispatching]
SAME: dict[str, Any] = {"payload": {"same": True}}


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Makes handlers whose agents do not answer before the gate is opened, and closes them."""
    made: list[Dispatching] = []

    def build(**fields: Any) -> Dispatching:
        one = Dispatching(**fields)
        one.transport.gate.clear()
        made.append(one)
        return one

    yield build
    for one in made:
        one.handler.close()
    await settle()


async def test_equal_tasks_share_one_call(make: Make) -> None:
    """The others are told as answered from the cache, in their own results, without data points of their own."""
    one = make()
    for offset in range(5):
        one.take(offset, **SAME)
    one.take(5, payload={"same": False})
    await settle()
    assert one.transport.tasks == ["t0", "t5"]
    assert one.handler.explain("tasks", 3)["reason"] == "equal_task_under_way"  # type: ignore[index]
    one.transport.gate.set()
    for offset in range(5):
        end = await one.end(offset)
        assert (end["results"]["status"], end["results"]["result"]) == ("success", "ok")
        assert end["results"]["cached"] is (offset > 0)
        assert end["results"]["agentId"] == "a1"
        assert ("data-points" in end) == (offset == 0)
    assert one.kinds().count("task:cache-hit") == 4
    assert len(one.transport.calls) == 2
    assert one.count("parallax_cache_hits_total") == 4
    assert one.count("parallax_cache_misses_total") == 2


async def test_an_answer_too_unsure_to_be_kept_is_shared_all_the_same(make: Make) -> None:
    """They asked at the same time; the next one after it calls."""
    one = make()
    one.transport.last = Answer("unsure", 0.1)
    one.take(0, **SAME)
    one.take(1, **SAME)
    one.transport.gate.set()
    assert (await one.result(1))["confidence"] == 0.1
    one.take(2, **SAME)
    await one.result(2)
    assert one.transport.tasks == ["t0", "t2"]


async def test_when_the_first_fails_the_next_one_calls(make: Make) -> None:
    """One after the other, each with its own result."""
    one = make()
    one.transport.script.extend([ClientError("no"), ClientError("no again")])
    for offset in range(4):
        one.take(offset, **SAME)
    one.transport.gate.set()
    results = [await one.result(offset) for offset in range(4)]
    assert [result["status"] for result in results] == ["failure", "failure", "success", "success"]
    assert [result["cached"] for result in results] == [False, False, False, True]
    assert one.transport.tasks == ["t0", "t1", "t2"]


async def test_a_retry_keeps_the_others_waiting(make: Make) -> None:
    """The first has not failed yet."""
    one = make()
    one.transport.script.append(ServerError("500"))
    one.take(0, **SAME)
    one.take(1, **SAME)
    one.transport.gate.set()
    assert (await one.result(1))["cached"] is True
    assert one.transport.tasks == ["t0", "t0"]


@pytest.mark.parametrize(
    "fields",
    [{"target": "a2"}, {"metadata": {"cache": False}}, {"metadata": {"patternName": "p"}}, {"payload": {"same": 1}}],
    ids=str,
)
async def test_what_is_not_equal_is_called(make: Make, fields: dict[str, Any]) -> None:
    """Another agent, pattern or payload; or a task that wants no cached answer."""
    one = make()
    one.register(id="a2", endpoint="http://h")
    one.take(0, **SAME)
    one.take(1, **(SAME | fields))
    await settle()
    assert one.transport.tasks == ["t0", "t1"]


async def test_without_a_cache_every_task_is_called(make: Make) -> None:
    """Nobody asked for shared answers."""
    one = make(cache={"enabled": False})
    one.take(0, **SAME)
    one.take(1, **SAME)
    await settle()
    assert one.transport.tasks == ["t0", "t1"]
    assert one.count("parallax_cache_misses_total") == 0


async def test_one_that_waits_keeps_its_own_deadline(make: Make) -> None:
    """It ends as expired; the first goes on. The timeout of an attempt does not run for it."""
    one = make()
    one.take(0, **SAME)
    one.take(1, metadata={"expiresIn": 50}, **SAME)
    one.take(2, metadata={"timeout": 50}, **SAME)
    result = await one.result(1)
    assert (result["status"], result["error"]["code"]) == ("timeout", "expired")
    assert "equal task" in result["error"]["message"]
    one.transport.gate.set()
    assert (await one.result(0))["status"] == "success"
    assert (await one.result(2))["status"] == "success"


async def test_either_can_be_cancelled(make: Make) -> None:
    """One that waits ends alone; when the first is cancelled the next one calls."""
    one = make()
    for offset in range(3):
        one.take(offset, **SAME)
    await settle()
    one.cancel_requests["t1"] = "enough"
    one.handler.cancel("t1")
    assert (await one.result(1))["status"] == "cancelled"
    assert one.transport.cancelled == 0
    one.handler.cancel("t0")
    assert (await one.result(0))["status"] == "cancelled"
    await until(lambda: one.transport.tasks == ["t0", "t2"])
    one.transport.gate.set()
    assert (await one.result(2))["cached"] is False


async def test_one_that_holds_the_commit_moves_and_is_answered_at_its_new_place(make: Make) -> None:
    """As a call under way would be."""
    one = make()
    one.take(0, **SAME)
    one.take(1, **SAME)
    await settle()
    one.handler.unblock("tasks", [1])
    [output] = next(outputs for _, offset, outputs in one.partition.ended if offset == 1)
    assert output.topic == "parked"
    assert header(output.headers, MOVED_HEADER)
    one.take(7, output.value, source="parked", headers=tuple(output.headers))
    one.transport.gate.set()
    assert (await one.result(7))["cached"] is True
    assert one.transport.tasks == ["t0"]


async def test_behind_an_open_circuit_they_wait_and_one_is_called(make: Make) -> None:
    """None is lost, and none is called beside the first."""
    one = make(breaker={"failure_threshold": 1, "reset_timeout": 150}, limits={"max_concurrency": 1})
    one.transport.script.append(ServerError("500"))
    one.transport.gate.set()
    one.take(9, metadata={"retries": 0})
    await one.result(9)
    for offset in range(3):
        one.take(offset, **SAME)
    await settle()
    reasons = [(one.handler.explain("tasks", offset) or {})["reason"] for offset in range(3)]
    assert reasons == ["circuit_open", "equal_task_under_way", "equal_task_under_way"]
    assert [(await one.result(offset))["cached"] for offset in range(3)] == [False, True, True]
    assert one.transport.tasks == ["t9", "t0"]


async def test_when_the_first_is_left_on_its_topic_the_next_finds_its_own_way(make: Make) -> None:
    """It cannot lead from there; all are answered."""
    one = make(dispatch={"max_held_bytes": 1}, limits={"max_concurrency": 1})
    one.take(9, payload=9)
    await until(lambda: one.transport.tasks == ["t9"])
    for offset in range(4):
        one.take(offset, **SAME)
    await settle()
    one.transport.gate.set()
    for offset in range(4):
        assert (await one.result(offset))["status"] == "success"
    assert one.transport.tasks == ["t9", "t0"]
    assert held(one.handler, TaskRun) == []


FLY: dict[str, Any] = {"target": None, "capabilities": ["fly"], "payload": {"q": "same"}, "metadata": {"retries": 0}}


async def test_a_leader_that_has_to_wait_for_an_agent_again_leaves_no_dead_flight(make: Make) -> None:
    """Two equal tasks wait for an agent. The first is called and fails while no agent can be chosen: the second, which

    leads now, is put back. When the agent is well again it is called, and so is every equal task after it.
    """

    def stand(**fields: Any) -> None:
        told = {"agentId": "bird", "at": one.wall_ms()} | fields
        one.agent_statuses.note(AgentStanding.model_validate(told))

    one = make(breaker={"failure_threshold": 100})
    one.agents.known.clear()
    bird = one.register(id="bird", endpoint="http://b", capabilities=["fly"])
    stand(healthy=False, reason="checks")
    one.take(0, **FLY)
    one.take(1, **FLY)
    await settle()
    stand()
    one.handler.agent_available(bird)  # 0 leads, 1 follows
    await until(lambda: len(one.transport.calls) == 1)
    assert (one.handler.explain("tasks", 1) or {})["reason"] == "equal_task_under_way"
    one.transport.script.append(ServerError("500"))
    stand(healthy=False, reason="checks")
    one.transport.gate.set()
    assert (await one.result(0))["status"] == "failure"
    await settle(50)
    assert (one.handler.explain("tasks", 1) or {})["reason"] == "no_agent"
    stand()
    one.handler.agent_available(bird)
    assert (await one.result(1))["status"] == "success"
    one.take(2, **FLY)
    assert (await one.result(2))["status"] == "success"
    assert one.transport.tasks == ["t0", "t1"]
    assert held(one.handler, TaskRun) == []


async def test_a_leader_put_back_does_not_keep_equal_tasks_from_other_agents(make: Make) -> None:
    """The one that was promoted waits; a later equal task leads its own way as soon as an agent can take it."""
    one = make(dispatch={"await_agent": "always"})
    one.agents.known.clear()
    one.take(0, **FLY)
    one.take(1, **FLY)
    await settle()
    assert [(one.handler.explain("tasks", offset) or {})["reason"] for offset in (0, 1)] == ["no_agent"] * 2
    bird = one.register(id="bird", endpoint="http://b", capabilities=["fly"])
    one.transport.gate.set()
    one.take(2, **FLY)
    assert (await one.result(2))["status"] == "success"
    one.handler.agent_available(bird)
    assert [(await one.result(offset))["cached"] for offset in (0, 1)] == [True, True]


async def test_how_many_wait_is_bounded(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """They count as in flight: more than that are called themselves."""
    monkeypatch.setattr(coalescing, "MAX_FOLLOWERS", 2)
    one = make()
    for offset in range(5):
        one.take(offset, **SAME)
    await settle()
    assert one.transport.tasks == ["t0", "t3", "t4"]
    one.transport.gate.set()
    assert [(await one.result(offset))["status"] for offset in range(5)] == ["success"] * 5


async def test_many_that_wait_behind_failures_do_not_exhaust_the_stack(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand in a row fail, one after the other."""
    monkeypatch.setattr(coalescing, "MAX_FOLLOWERS", 2000)
    one = make(breaker={"failure_threshold": 10_000}, limits={"max_requests": 10_000})
    one.transport.last = ClientError("no")
    for offset in range(1000):
        one.take(offset, **SAME)
    one.transport.gate.set()
    assert (await one.result(999))["status"] == "failure"
    assert len(one.transport.calls) == 1000
    assert held(one.handler, TaskRun) == []


async def test_nothing_is_done_after_the_partition_is_closed(make: Make) -> None:
    """The next owner begins anew."""
    one = make()
    one.take(0, **SAME)
    one.take(1, metadata={"expiresIn": 30}, **SAME)
    await settle()
    one.handler.close()
    await asyncio.sleep(0.06)
    assert one.partition.ended == []
    assert held(one.handler, TaskRun) == []
