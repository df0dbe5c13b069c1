"""The client on a whole pipeline: embedded broker, worker, scripted agents."""

from __future__ import annotations

import asyncio
import itertools
import logging
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from pydantic import BaseModel

from schemas.topics import LARGE_RECORD_BYTES
from streams import (
    AgentServerError,
    Client,
    ClientClosed,
    ClientError,
    InvalidTask,
    InvalidValue,
    KafkaUnreachable,
    NoAgent,
    NotFound,
    NoWorker,
    TaskCancelled,
    TaskFailed,
    TopicsMissing,
    WaitTimeout,
    parallel,
    step,
)
from streams.broker.embedded import EmbeddedBroker
from streams.broker.processes import free_port
from streams.broker.topic_feed import TopicFeed
from streams.broker.topics_admin import apply
from streams.client.connection import workers_present
from streams.client.history import FIRST_LOOK_S
from streams.client.waiting import WaitingCall
from streams.settings import Settings
from streams.sync import Client as BlockingClient
from streams.testing import FakeAgent, Pipeline, answer, hang, status
from tests.support.memory import held
from tests.support.wait import until

pytestmark = [pytest.mark.embedded, pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]


class Counted(BaseModel):
    n: int


def echo(payload: dict[str, object]) -> object:
    return {"n": payload["n"]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def p() -> AsyncIterator[Pipeline]:
    async with Pipeline(agents=[FakeAgent(echo, id="echo", capabilities=["count"])]) as pipeline:
        yield pipeline


async def test_run_returns_the_answer_as_json_and_as_a_model(p: Pipeline) -> None:
    client = p.client
    result = await client.run("echo", {"n": 1}, my_tag="x")
    assert result.value == {"n": 1}
    assert (result.confidence, result.agent_id, result.ok, result.metadata["my_tag"]) == (0.9, "echo", True, "x")
    typed = await client.run(None, {"n": 2}, capabilities=["count"], into=Counted)
    assert typed.value == Counted(n=2)
    with pytest.raises(InvalidValue, match="n: input should be a valid string") as caught:
        await client.run("echo", {"n": 3}, into=type("Other", (BaseModel,), {"__annotations__": {"m": int, "n": str}}))
    assert caught.value.result.result == {"n": 3}
    # What is given as a model or a dataclass is sent as JSON.
    assert (await client.run("echo", Counted(n=4))).value == {"n": 4}


async def test_a_failed_task_raises_the_error_of_its_code(p: Pipeline) -> None:
    await p.add(FakeAgent(status(500, body={"error": "no"}), id="bad"))
    with pytest.raises(AgentServerError) as caught:
        await p.client.run("bad", {}, retries=0)
    assert (caught.value.code, caught.value.result.status, caught.value.result.retries) == ("http_5xx", "failure", 0)
    with pytest.raises(NoAgent, match="nobody"):
        await p.client.run("nobody", {}, expires_in=5)


async def test_an_id_sent_twice_resolves_to_the_first_result(p: Pipeline) -> None:
    agent = FakeAgent([answer("first", times=1), "second"], id="once")
    await p.add(agent)
    assert (await p.client.run("once", {}, id="t1")).value == "first"
    async with Client(p.bootstrap_servers) as another:
        handle = await another.submit("once", {}, id="t1")
        assert (await handle.result(wait=30)).value == "first"
        found = await another.handle("t1", since=timedelta(hours=1))
        assert (await found.result(wait=30)).value == "first"
    assert len(agent.calls) == 1


async def test_thousands_wait_at_once_and_each_has_its_own_result(p: Pipeline) -> None:
    results = await asyncio.gather(*(p.client.run("echo", {"n": n}) for n in range(2000)))
    assert [result.value["n"] for result in results] == list(range(2000))
    assert held(p.client, WaitingCall) == []


async def test_handles_nobody_holds_are_forgotten(p: Pipeline) -> None:
    for n in range(50):
        await p.client.submit("echo", {"n": n})
    assert held(p.client, WaitingCall) == []


async def test_a_wait_that_passes_says_what_to_do_and_the_task_goes_on(p: Pipeline) -> None:
    agent = FakeAgent([answer("late", delay_s=1.0)], id="slow")
    await p.add(agent)
    handle = await p.client.submit("slow", {})
    with pytest.raises(WaitTimeout, match=f"parallax explain {handle.id}"):
        await handle.result(wait=0.05)
    assert (await handle.result(wait=30)).value == "late"
    with pytest.raises(TimeoutError):
        await p.client.run("slow", {"again": 1}, wait=0.05)


async def test_a_cancelled_task_ends_as_cancelled(p: Pipeline) -> None:
    agent = FakeAgent(hang(), id="stuck")
    await p.add(agent)
    handle = await p.client.submit("stuck", {})
    await until(lambda: len(agent.calls) == 1)
    await handle.cancel("not needed")
    with pytest.raises(TaskCancelled, match="not needed"):
        await handle.result(wait=30)


async def test_map_gives_one_result_per_payload(p: Pipeline) -> None:
    seen = [result.value["n"] async for result in p.client.map("echo", ({"n": n} for n in range(500)), concurrency=20)]
    assert sorted(seen) == list(range(500))
    in_order = p.client.map("echo", [{"n": n} for n in range(50)], ordered=True, into=Counted, my_tag="x")
    assert [result.value.n async for result in in_order] == list(range(50))


async def test_map_takes_a_slow_source_and_yields_meanwhile(p: Pipeline) -> None:
    """A payload that never comes holds no result back."""

    async def source() -> AsyncIterator[dict[str, int]]:
        yield {"n": 1}
        await asyncio.Event().wait()

    async with aclosing(p.client.map("echo", source())) as results, asyncio.timeout(30):
        assert (await anext(results)).value == {"n": 1}


async def test_map_tolerates_a_share_and_no_more(p: Pipeline) -> None:
    def odd(payload: dict[str, int]) -> object:
        return (payload["n"], 0.9) if payload["n"] % 4 else (0, "no number")

    await p.add(FakeAgent(odd, id="odd", breaker={"mode": "disabled"}))
    payloads = [{"n": n} for n in range(40)]
    results = [one async for one in p.client.map("odd", payloads, tolerate=0.25, retries=0)]
    assert len(results) == 40
    assert sum(not one.ok for one in results) == 10
    with pytest.raises(TaskFailed) as caught:
        [one async for one in p.client.map("odd", payloads, tolerate=0.2, retries=0)]
    assert "tolerate" in caught.value.__notes__[0]
    with pytest.raises(TaskFailed):
        [one async for one in p.client.map("odd", iter(payloads), tolerate=0.2, retries=0)]


async def test_leaving_map_early_cancels_what_is_under_way(p: Pipeline) -> None:
    agent = FakeAgent([answer("quick", times=1), hang()], id="first")
    await p.add(agent)
    async with aclosing(p.client.map("first", itertools.count(), concurrency=5)) as results:
        async for _ in results:
            break
    await until(lambda: sum(call.ended == "closed" for call in agent.calls) == len(agent.calls) - 1)


async def test_subscriptions_from_now_and_since(p: Pipeline) -> None:
    client = p.client
    begun = datetime.now(UTC)
    await client.run("echo", {"n": 1}, id="before")
    async with aclosing(client.results(since=begun)) as results, asyncio.timeout(30):
        assert (await anext(results)).task_id == "before"
    async with aclosing(client.results()) as results, asyncio.timeout(30):
        first = asyncio.ensure_future(anext(results))
        sent = 0
        while not first.done():  # it takes its position when it is first asked
            await client.run("echo", {"n": 2}, id=f"after{(sent := sent + 1)}")
        assert (await first).task_id.startswith("after")
    async with aclosing(client.events("task:comp", since=begun)) as events, asyncio.timeout(30):
        seen = [await anext(events)]
        while seen[-1].data["taskId"] != "before":  # in order only within a partition
            seen.append(await anext(events))
    assert {event.type for event in seen} == {"task:completed"}


async def test_retry_and_feedback(p: Pipeline) -> None:
    client = p.client
    await client.run("echo", {"n": 1001}, id="r1")  # not answered from the cache: that gives no data point
    again = await (await client.retry("r1")).result(wait=30)
    assert (again.value, again.metadata["retryOf"]) == ({"n": 1001}, "r1")
    once_more = await (await client.retry(again.task_id)).result(wait=30)
    assert once_more.metadata["retryOf"] == "r1"
    await client.feedback("r1", success=False)
    with pytest.raises(NotFound, match="unheard"):
        await client.retry("unheard")
    with pytest.raises(NotFound, match="unheard"):
        await client.feedback("unheard", success=True)


async def test_agents_are_added_listed_and_removed(p: Pipeline) -> None:
    agents = p.client.agents
    added = await agents.add("x", "http://127.0.0.1:9", capabilities="yes", limits={"maxConcurrency": 3})
    assert added.limits is not None
    assert added.limits.max_concurrency == 3
    assert added.capabilities == ["yes"]  # one name, not its letters
    names = [agent.id for agent in await agents.list()]
    assert names == sorted(names)
    assert {"echo", "x"} <= set(names)
    await agents.rm("x")
    assert [agent.id for agent in await agents.list()] == [name for name in names if name != "x"]
    with pytest.raises(NotFound):
        await agents.rm("x")
    with pytest.raises(InvalidTask, match="endpoint"):
        await agents.add("x", "nowhere")


async def test_statistics_are_asked_of_a_worker() -> None:
    async with (
        Pipeline(agents=[FakeAgent(echo, id="echo")], stats=True) as p,
        Client(p.bootstrap_servers, web=p.web) as client,
    ):
        await client.run("echo", {"n": 1})

        async def stats() -> Any:
            with suppress(NotFound):
                return await client.stats("echo", last="15m")

        found = await until(stats, 60)
        assert found["totalExecutions"] == 1
        with pytest.raises(NotFound):
            await client.stats("nobody")


async def test_the_worker_is_replaced_while_tasks_wait(p: Pipeline) -> None:
    handles = [await p.client.submit("echo", {"n": n}) for n in range(200)]
    await p.restart_worker()
    values = [(await handle.result(wait=60)).value["n"] for handle in handles]
    assert values == list(range(200))


async def test_kafka_away_topics_missing_and_no_worker_are_told_apart(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with EmbeddedBroker() as embedded:
        await told_apart(embedded, caplog)


async def told_apart(embedded: EmbeddedBroker, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(KafkaUnreachable, match=r"connection refused; start one"):
        async with Client(f"127.0.0.1:{free_port()}"):
            pass
    with pytest.raises(TopicsMissing, match="parallax topics apply"):
        async with Client(embedded.bootstrap_servers, topic_prefix="none."):
            pass
    await apply(Settings(bootstrap_servers=embedded.bootstrap_servers), 2)
    async with Client(embedded.bootstrap_servers, give_up_after=0.5) as client:
        with (
            pytest.raises(NoWorker, match=r"no worker reads parallax\.tasks: start one with `parallax worker"),
            caplog.at_level(logging.WARNING),
        ):
            await client.run("echo", {"n": 1}, wait=60)
        assert "no call can begin" in caplog.text
        pending = asyncio.ensure_future(client.run("echo", {"n": 1}, wait=60))
        await asyncio.sleep(0.3)
        await embedded.stop()
        with pytest.raises(KafkaUnreachable):
            await pending
        for call in (client.submit("echo", {"n": 1}), client.cancel("t1")):
            with pytest.raises(KafkaUnreachable, match=r"has not taken .* within 0\.5 s; it may still arrive"):
                async with asyncio.timeout(20):
                    await call


async def test_a_slow_agent_is_no_missing_worker(p: Pipeline) -> None:
    assert await workers_present(p.settings) is not False
    await p.add(FakeAgent([answer("late", delay_s=8.0)], id="sleepy"))
    async with Client(p.bootstrap_servers, give_up_after=0.1) as client:
        assert (await client.run("sleepy", {})).value == "late"


async def test_a_feed_begins_behind_the_last_record_and_survives_a_broken_consumer(p: Pipeline) -> None:
    await p.client.run("echo", {"n": 1})
    feed = TopicFeed(p.settings, "results")
    await feed.open()
    try:
        assert await feed.poll() == []
        await p.client.run("echo", {"n": 2}, id="t2")
        await feed.close()  # as a lost connection would
        found: list[bytes | None] = []
        end = time.monotonic() + 30
        while not found and time.monotonic() < end:
            found += [record.key for record in await feed.poll()]
        assert found == [b"t2"]
    finally:
        await feed.close()


async def test_the_blocking_twin(p: Pipeline) -> None:
    def use() -> None:
        with BlockingClient(p.bootstrap_servers) as client:
            assert client.run("echo", {"n": 1}, into=Counted).value == Counted(n=1)
            handle = client.submit("echo", {"n": 2}, id="s2")
            assert handle.result(wait=30).value == {"n": 2}
            values = [one.value["n"] for one in client.map("echo", [{"n": n} for n in range(20)], ordered=True)]
            assert values == list(range(20))
            chained = client.map(
                "echo", ({"n": one.value["n"] + 1} for one in client.map("echo", [{"n": 1}, {"n": 2}]))
            )
            assert sorted(one.value["n"] for one in chained) == [2, 3]
            assert client.plan(parallel([step("echo", {"n": 1})]), wait=60).status == "success"
            assert "echo" in [agent.id for agent in client.agents.list()]
            for result in client.results(since="1h"):
                assert result.task_id
                break
            with pytest.raises(NoAgent):
                client.run("nobody", {}, expires_in=5)
            client.cancel("s2")

    await asyncio.to_thread(use)


async def test_what_cannot_be_sent_is_refused_before_it_is_sent(p: Pipeline) -> None:
    with pytest.raises(InvalidTask, match=r"payload\.x: NaN"):
        await p.client.run("echo", {"x": float("nan")})
    with pytest.raises(InvalidTask, match="timeout"):
        await p.client.run("echo", {}, timeout=-1)
    with pytest.raises(InvalidTask, match="target"):
        await p.client.run(None, {})
    for call in (p.client.run("echo", {}, id=""), p.client.submit("echo", {}, id="")):
        with pytest.raises(InvalidTask, match="id: string should have at least 1 character"):
            await call
    with pytest.raises(InvalidTask, match="payload: is not JSON"):
        await p.client.run("echo", object())


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("results", {"status": "failed"}, "^status: must be one of success, failure, timeout, cancelled, not 'failed'"),
        ("anomalies", {"min_severity": "critical"}, "^min_severity: must be one of low, medium, high, not 'critical'"),
        ("aggregates", {"interval": "1h"}, "^interval: must be one of minute, hour, day, not '1h'"),
    ],
)
async def test_a_filter_that_nothing_can_pass_is_refused(
    p: Pipeline, method: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidTask, match=message):
        getattr(p.client, method)(**arguments)
    with pytest.raises(InvalidTask, match="types: no event's type begins with 'tsk:'"):
        p.client.events("task:", "tsk:")
    with pytest.raises(InvalidTask, match="since: is neither a duration nor an RFC 3339 time: 'yesterday'"):
        await anext(p.client.results(since="yesterday"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bootstrap_servers": ""}, "^bootstrap_servers: string should have at least 1 character"),
        ({"bootstrap_servers": ["b:9092"]}, "^bootstrap_servers: input should be a valid string"),
        ({"topic_prefix": "a b"}, "^topic_prefix: string should match"),
        ({"request_timeout": "soon"}, "^request_timeout: is not a duration"),
        ({"security_protocol": "SASL_SSL"}, "needs kafka.sasl_username and kafka.sasl_password"),
        ({"security_protocol": "SSL", "ssl_cafile": "/none"}, "kafka.ssl_cafile /none"),
    ],
)
async def test_arguments_of_the_client_are_named_as_they_are(arguments: dict[str, Any], message: str) -> None:
    for made in (Client, BlockingClient):
        with pytest.raises(ClientError, match=message):
            await asyncio.to_thread(lambda kind=made: kind(**arguments))  # type: ignore[misc]


async def test_a_client_belongs_to_the_loop_it_was_started_on(p: Pipeline) -> None:
    with pytest.raises(ClientError, match="started on another event loop"):
        await asyncio.to_thread(lambda: asyncio.run(p.client.run("echo", {"n": 1})))
    assert (await p.client.run("echo", {"n": 1})).ok


async def test_a_closed_client_keeps_nobody_waiting(p: Pipeline) -> None:
    """Neither handles that are left, nor subscriptions; nothing of it runs on, and it is not started again."""
    before = asyncio.all_tasks()
    async with Client(p.bootstrap_servers) as client:
        given = await client.submit("echo", {"n": 1}, id="closed-1", not_before=time.time() + 3600)
        other = await client.submit("echo", {"n": 2}, not_before=time.time() + 3600)
        events = client.events("task:", since="1h")
        await anext(events)
    for handle in (given, other):
        with pytest.raises(ClientClosed):
            await asyncio.wait_for(handle.result(), 10)
    with pytest.raises(ClientClosed):
        async for _ in events:
            pass
    with pytest.raises(ClientClosed, match="create a new one"):
        await client.start()
    await asyncio.sleep(FIRST_LOOK_S + 0.2)  # then the first search for an earlier result would begin
    assert not [one for one in asyncio.all_tasks() - before if one.get_name() == "parallax-client-history"]
    await p.client.cancel(given.id)
    await p.client.cancel(other.id)


async def test_the_blocking_twin_works_in_a_forked_process(p: Pipeline) -> None:
    """The thread of its event loop is left behind in the parent."""
    code = f"""
import os, signal
from streams.sync import Client, ClientError
with Client({p.bootstrap_servers!r}) as client:
    assert client.run("echo", {{"n": 1}}).value == {{"n": 1}}
client = Client({p.bootstrap_servers!r})
client.start()
child = os.fork()
if child == 0:
    signal.alarm(30)
    try:
        client.run("echo", {{"n": 1}})
    except ClientError as error:
        assert "forked" in str(error)
    else:
        os._exit(1)
    client.close()
    with Client({p.bootstrap_servers!r}) as client:
        os._exit(0 if client.run("echo", {{"n": 2}}).value == {{"n": 2}} else 1)
assert os.waitpid(child, 0)[1] == 0
assert client.run("echo", {{"n": 3}}).value == {{"n": 3}}
client.close()
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    assert await process.wait() == 0


@pytest.mark.parametrize("task_id", [None, "huge"])
async def test_what_kafka_refuses_ends_each_kind_of_call(p: Pipeline, task_id: str | None) -> None:
    huge = {"n": "x" * (LARGE_RECORD_BYTES + 1)}
    async with asyncio.timeout(30):
        with pytest.raises(InvalidTask, match="larger than Kafka accepts"):
            await p.client.run("echo", huge, id=task_id)
        with pytest.raises(InvalidTask, match="larger than Kafka accepts"):
            await p.client.submit("echo", huge, id=task_id)
        for ordered in (False, True):
            with pytest.raises(InvalidTask, match="larger than Kafka accepts"):
                async with aclosing(p.client.map("echo", [huge, {"n": 1}], ordered=ordered)) as results:
                    await anext(results)
        if task_id is not None:  # the id is not spent
            assert (await p.client.run("echo", {"n": 7}, id=task_id)).value == {"n": 7}
