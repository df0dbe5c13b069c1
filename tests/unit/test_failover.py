"""Tasks that name no agent: who gets them, and where they go when that one takes no call. Each still ends exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson
import pytest
from aiokafka.structs import ConsumerRecord

from agents_io.errors import ServerError
from agents_io.transport import Answer
from schemas.codec import header
from schemas.messages import AgentStanding
from schemas.partitioning import owner_partition
from streams.rules.dispatch.routing import MAX_HOPS
from streams.rules.records import Output
from streams.rules.source_record import AGENT_HEADER, ATTEMPTS_HEADER, HOPS_HEADER, own_header
from tests.support.dispatching import Dispatching
from tests.support.partition_fakes import intake
from tests.support.wait import settle, until

pytestmark = pytest.mark.virtual_time

Make = Callable[..., Dispatching]
ANY = {"target": None, "capabilities": ["sum"], "metadata": {"cache": False}}


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Makes handlers with two agents, `left` and `right`, that can `sum`; closes them."""
    made: list[Dispatching] = []

    def build(number: int = 0, partitions: int = 1, **fields: Any) -> Dispatching:
        one = Dispatching(number, partitions, **fields)
        made.append(one)
        for name in ("left", "right"):
            one.register(id=name, endpoint=f"http://{name}", capabilities=["sum"])
        return one

    yield build
    for one in made:
        one.handler.close()
    await settle()


def stand(one: Dispatching, name: str, **fields: Any) -> None:
    """What its partition says of an agent."""
    one.agent_statuses.note(AgentStanding.model_validate({"agentId": name, "at": one.wall_ms()} | fields))


def again(output: Output, offset: int, number: int = 0) -> ConsumerRecord:
    """A record the handler wrote, as it comes back."""
    return intake(offset, output.value or b"", source=output.topic, number=number, headers=tuple(output.headers))


async def only(one: Dispatching, offset: int) -> Output:
    """The one record with which that of this offset ended."""
    await until(lambda: any(o == offset for _, o, _ in one.partition.ended))
    [outputs] = [outputs for _, o, outputs in one.partition.ended if o == offset]
    [output] = outputs
    return output


async def test_an_open_circuit_and_poor_health_are_passed_over(make: Make) -> None:
    """Only the agent that can be called gets tasks, whatever the policy."""
    for policy in ("confidence", "round_robin", "least_connections", "response_time", "power_of_two"):
        one = make(dispatch={"balancer": policy})
        stand(one, "left", circuit="open", openUntil=one.wall_ms() + 60_000)
        for offset in range(6):
            one.take(offset, **ANY)
        assert {(await one.result(offset))["agentId"] for offset in range(6)} == {"right"}
        stand(one, "left")
        stand(one, "right", healthy=False, reason="checks")
        for offset in range(6, 12):
            one.take(offset, **ANY)
        assert {(await one.result(offset))["agentId"] for offset in range(6, 12)} == {"left"}


def reason(one: Dispatching, offset: int, source: str = "tasks") -> tuple[str | None, str]:
    """At which agent a task waits, and for what."""
    found = one.handler.explain(source, offset) or {}
    return found.get("agentId"), found["reason"]


async def test_all_out_means_waiting_until_one_is_back(make: Make) -> None:
    """The task waits without an agent; it goes on as soon as one can be called, and is answered once."""
    one = make()
    for name in ("left", "right"):
        stand(one, name, healthy=False, reason="checks")
    one.take(0, **ANY)
    assert one.events()[-1]["type"] == "task:parked"
    assert one.events()[-1]["data"]["reason"] == "no_agent"
    one.handler.agent_available(one.register(id="other", endpoint="http://o", capabilities=["fly"]))
    await settle()
    assert reason(one, 0) == (None, "no_agent"), "an agent that cannot do it calls nothing back"
    stand(one, "right")
    one.handler.agent_available(one.agents.known["right"])
    result = await one.result(0)
    assert (result["status"], result["agentId"]) == ("success", "right")
    one.take(2, id="t0", **ANY)
    assert (await one.end(2))["events"]["type"] == "task:duplicate"
    assert one.transport.tasks == ["t0"]


async def test_nobody_is_back_at_the_deadline(make: Make) -> None:
    """Then it ends as expired, once, saying what it waited for; without a deadline it waits on."""
    one = make()
    for name in ("left", "right"):
        stand(one, name, healthy=False, reason="checks")
    one.take(0, **ANY | {"metadata": {"expiresIn": 60}})
    one.take(1, **ANY)
    result = await one.result(0)
    assert (result["status"], result["error"]["code"]) == ("timeout", "expired")
    assert "agent" in result["error"]["message"]
    assert reason(one, 1) == (None, "no_agent")
    assert one.transport.calls == []


@pytest.mark.parametrize(("mode", "known", "unknown"), [("never", 1, 1), ("unavailable", 0, 1), ("always", 0, 0)])
async def test_who_waits_is_a_setting(make: Make, mode: str, known: int, unknown: int) -> None:
    """`never` fails at once, `unavailable` waits for agents that are registered, `always` for any."""
    one = make(dispatch={"await_agent": mode})
    for name in ("left", "right"):
        stand(one, name, healthy=False, reason="checks")
    one.take(0, **ANY)
    one.take(1, **ANY | {"capabilities": ["fly"]})
    await settle(50)
    for offset, fails in ((0, known), (1, unknown)):
        if fails:
            assert (await one.result(offset))["error"]["code"] == "no_agent"
        else:
            assert reason(one, offset) == (None, "no_agent")


async def test_an_agent_that_appears_is_given_what_waits(make: Make) -> None:
    """With `always` a task may come before its agent."""
    one = make(dispatch={"await_agent": "always"})
    one.take(0, **ANY | {"capabilities": ["fly"]})
    await settle()
    one.handler.agent_available(one.register(id="bird", endpoint="http://b", capabilities=["fly", "sing"]))
    assert (await one.result(0))["agentId"] == "bird"


async def test_a_task_that_names_an_agent_may_come_before_it_too(make: Make) -> None:
    """With `always`."""
    one = make(dispatch={"await_agent": "always"})
    one.take(0, target="bird")
    await settle()
    assert reason(one, 0) == (None, "no_agent")
    one.handler.agent_available(one.register(id="cat", endpoint="http://c"))
    await settle()
    assert one.transport.calls == []
    one.handler.agent_available(one.register(id="bird", endpoint="http://b"))
    assert (await one.result(0))["agentId"] == "bird"


BREAKER = {"failure_threshold": 1, "reset_timeout": 30_000}


async def test_a_circuit_that_opens_sends_its_tasks_elsewhere(make: Make) -> None:
    """Those that wait and the one that failed go on at the other agent; the tries made before count there."""
    one = make(breaker=BREAKER, limits={"max_concurrency": 1})
    stand(one, "right", healthy=False, reason="checks")
    one.transport.gate.clear()
    for offset in range(4):
        one.take(offset, **ANY)
    await until(lambda: len(one.transport.calls) == 1)
    stand(one, "right")
    one.transport.script.append(ServerError("500"))
    one.transport.gate.set()
    results = [await one.result(offset) for offset in range(4)]
    assert [result["status"] for result in results] == ["success"] * 4
    assert {result["agentId"] for result in results} == {"right"}
    assert [result["retries"] for result in results] == [1, 0, 0, 0]
    assert [agent.id for agent, _ in one.transport.calls] == ["left"] + ["right"] * 4
    assert one.count("parallax_tasks_rerouted_total") == 4
    assert one.turned == ["left"]
    one.take(9, id="t1", **ANY)
    assert (await one.end(9))["events"]["type"] == "task:duplicate"
    one.take(10, id="t1", target="left", metadata={"cache": False})
    await settle()
    assert reason(one, 10) == ("left", "circuit_open"), "left never had t1: it is no duplicate there"


async def test_a_task_that_names_its_agent_stays_there(make: Make) -> None:
    """Also when others can do it: it waits until the circuit lets calls through again."""
    one = make(breaker=BREAKER)
    one.transport.script.append(ServerError("500"))
    one.take(0, target="left", metadata={"retries": 0})
    await one.result(0)
    one.take(1, target="left", capabilities=["sum"])
    await settle()
    assert reason(one, 1) == ("left", "circuit_open")
    assert one.kinds().count("task:parked") == 1


async def test_nowhere_else_to_go(make: Make) -> None:
    """The other one is out too: the task waits for the circuit, as any other."""
    one = make(breaker=BREAKER)
    stand(one, "right", healthy=False, reason="checks")
    one.transport.script.append(ServerError("500"))
    one.take(0, **ANY | {"metadata": {"retries": 0}})
    assert (await one.result(0))["error"]["code"] == "http_5xx"
    one.take(1, **ANY)
    await settle()
    assert reason(one, 1) == ("left", "circuit_open")


async def test_one_that_waits_for_a_circuit_goes_to_an_agent_that_came_since(make: Make) -> None:
    """When the circuit opens again: a failed probe looks around too, and no attempt is used up by it."""
    one = make(breaker={"failure_threshold": 1, "reset_timeout": 30})
    stand(one, "right", healthy=False, reason="checks")
    one.transport.script.extend([ServerError("500"), ServerError("500")])
    one.take(0, **ANY | {"metadata": {"retries": 0, "cache": False}})
    await one.result(0)
    one.transport.gate.clear()
    one.take(1, **ANY | {"metadata": {"retries": 0, "cache": False}})
    await until(lambda: len(one.transport.calls) == 2)
    stand(one, "right")
    one.transport.gate.set()
    assert (await one.result(1))["agentId"] == "right"


async def test_to_a_partition_elsewhere_with_the_tries_made(make: Make) -> None:
    """A forward that tells the agent, one hop more, the same deadline and the calls made: the next owner adds to them."""
    here, there = owner_partition("left", 4), owner_partition("right", 4)
    assert here != there
    one = make(here, 4, breaker=BREAKER)
    one.transport.script.append(ServerError("500"))
    headers = ((AGENT_HEADER, b"left"), (HOPS_HEADER, b"2"))
    one.take(0, source="dispatch", headers=headers, **ANY)
    sent = await only(one, 0)
    told = tuple(sent.headers)
    assert (sent.topic, sent.partition, header(told, AGENT_HEADER)) == ("dispatch", there, "right")
    assert (own_header(told, HOPS_HEADER), own_header(told, ATTEMPTS_HEADER)) == (3, 1)
    other = make(there, 4)
    other.process("dispatch", again(sent, 0, there))
    result = await other.result(0)
    assert (result["status"], result["agentId"], result["retries"]) == ("success", "right", 1)


async def test_it_does_not_go_round_for_ever(make: Make) -> None:
    """After some hops it stays where it is and waits."""
    here = owner_partition("left", 4)
    one = make(here, 4, breaker=BREAKER)
    one.transport.script.append(ServerError("500"))
    headers = ((AGENT_HEADER, b"left"), (HOPS_HEADER, str(MAX_HOPS - 1).encode()))
    one.take(0, source="dispatch", headers=headers, **ANY)
    await until(lambda: "task:retrying" in one.kinds())
    await settle()
    assert one.partition.ended == []
    assert reason(one, 0, "dispatch")[0] == "left"
    assert reason(one, 0, "dispatch")[1] in ("backoff", "circuit_open")


async def test_no_more_tries_than_allowed_over_all_agents(make: Make) -> None:
    """Every agent fails: one try and two retries, wherever they are made."""
    one = make(breaker=BREAKER)
    one.register(id="third", endpoint="http://t", capabilities=["sum"])
    one.transport.last = ServerError("500")
    one.take(0, **ANY)
    result = await one.result(0)
    assert (result["error"]["code"], result["retries"], len(one.transport.calls)) == ("http_5xx", 2, 3)
    assert len({agent.id for agent, _ in one.transport.calls}) == 3


async def test_cancelled_while_it_waits_for_any_agent(make: Make) -> None:
    """The request brings it out, and it ends as cancelled."""
    one = make()
    for name in ("left", "right"):
        stand(one, name, healthy=False, reason="checks")
    one.take(0, **ANY)
    await settle()
    one.cancel_requests["t0"] = "the task was cancelled"
    one.handler.cancel("t0")
    assert (await one.result(0))["status"] == "cancelled"
    assert one.transport.calls == []


async def test_a_chosen_agent_that_is_gone_is_replaced_although_its_id_was_settled_elsewhere(make: Make) -> None:
    """In the partition of the chosen agent the id's own partition is not asked again: it would call the task a duplicate."""
    here = owner_partition("left", 4)
    one = make(here, 4)
    for name in ("left", "right"):
        del one.agents.known[name]
    one.register(id="ill", endpoint="http://i", capabilities=["sum"])
    stand(one, "ill", healthy=False, reason="checks")
    one.take(0, source="dispatch", headers=((AGENT_HEADER, b"left"), (HOPS_HEADER, b"2")), **ANY)
    await settle()
    assert reason(one, 0, "dispatch") == (None, "no_agent")
    stand(one, "ill")
    one.handler.agent_available(one.agents.known["ill"])
    sent = await only(one, 0)
    assert (sent.topic, header(tuple(sent.headers), AGENT_HEADER)) == ("dispatch", "ill")


async def test_a_retry_goes_elsewhere_when_the_circuit_opened_meanwhile(make: Make) -> None:
    """Two calls under way fail: the second finds the circuit open and does not wait for it."""
    one = make(breaker=BREAKER)
    stand(one, "right", healthy=False, reason="checks")
    one.transport.gate.clear()
    one.transport.script.extend([ServerError("500"), ServerError("500")])
    one.take(0, **ANY)
    one.take(1, **ANY)
    await until(lambda: len(one.transport.calls) == 2)
    stand(one, "right")
    began = asyncio.get_running_loop().time()
    one.transport.gate.set()
    results = [await one.result(offset) for offset in (0, 1)]
    assert [(result["status"], result["agentId"], result["retries"]) for result in results] == [
        ("success", "right", 1)
    ] * 2
    assert asyncio.get_running_loop().time() - began < 20, "not after the circuit's 30 s"


async def test_known_answers_need_no_agent_to_be_chosen_twice(make: Make) -> None:
    """An answer in the cache is given whichever agent was chosen."""
    one = make()
    one.transport.last = Answer("kept", 0.95)
    one.take(0, target=None, capabilities=["sum"], payload={"n": 1})
    assert (await one.result(0))["cached"] is False
    await asyncio.sleep(0)
    one.take(1, target=None, capabilities=["sum"], payload={"n": 1})
    assert orjson.dumps((await one.result(1))["result"]) == b'"kept"'
