"""Functions as agents in a whole pipeline: over HTTP, dialled in, on Kafka; and `parallax agent serve`."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from agents_io import Answer, Declined, agent, current_call
from agents_io.serving.gateway import DialFailed, GatewayAgent
from agents_io.serving.kafka import ConsumeFailed, KafkaAgent
from streams import AgentRejected, TaskCancelled, sequence, step
from streams.broker.topics_admin import ensure
from streams.testing import FakeAgent, Pipeline
from tests.support.own_agents import price
from tests.support.rig import ROOT, parallax

pytestmark = [pytest.mark.embedded, pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def p() -> AsyncIterator[Pipeline]:
    async with Pipeline() as pipeline:
        yield pipeline


async def registered(p: Pipeline, name: str) -> None:
    """Wait until the worker knows an agent that registers itself."""
    await p.wait_for_agents(name)


async def test_over_http(p: Pipeline) -> None:
    await p.add(price)
    result = await p.client.run("price", {"item": "tea", "count": 2})
    assert (result.value, result.confidence) == ({"item": "tea", "total": 6}, 0.9)
    with pytest.raises(AgentRejected, match="payload: count: "):
        await p.client.run("price", {"item": "tea", "count": "many"})


async def test_dialled_in(p: Pipeline) -> None:
    begun, cut = asyncio.Event(), asyncio.Event()

    @agent("dialled", capabilities=["x"])
    async def dialled(payload: dict[str, Any], context: dict[str, Any] | None = None) -> Answer:
        if payload.get("hang"):
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                cut.set()
        if payload.get("no"):
            raise Declined("not this one")
        return Answer({"payload": payload, "seen": (context or {}).get("previous")}, 0.7, reasoning="so")

    async with GatewayAgent(dialled, [p.gateway]) as running:
        assert "dialled" in running.ready_line
        await registered(p, "dialled")
        result = await p.client.run("dialled", {"task": "sum", "data": {"n": 1}})
        assert (result.value["payload"], result.confidence) == ({"task": "sum", "data": {"n": 1}}, 0.7)
        with pytest.raises(AgentRejected, match="not this one"):
            await p.client.run("dialled", {"no": True})
        handle = await p.client.submit("dialled", {"hang": True})
        async with asyncio.timeout(20):
            await begun.wait()
            await handle.cancel()
            await cut.wait()
        with pytest.raises(TaskCancelled):
            await handle.result(wait=20)
        plan = await p.client.plan(sequence([step("dialled", {"n": 1}), step("dialled", {"n": 2})]), wait=60)
        assert plan.results[1].result["seen"]["payload"] == {"n": 1}
    await p.add(price)
    with pytest.raises(DialFailed, match="registered with protocol http"):
        async with GatewayAgent(price, [p.gateway]):
            pass


async def test_a_dialled_agent_that_is_full_fails_no_task(p: Pipeline) -> None:
    """It takes fewer calls at once than the worker makes: tasks wait for it, as for one over HTTP."""

    @agent("narrow", concurrency=1)
    async def narrow(payload: dict[str, Any]) -> Any:
        await asyncio.sleep(1.0)
        return payload["n"]

    async with GatewayAgent(narrow, [p.gateway]):
        await registered(p, "narrow")
        values = [one.value async for one in p.client.map("narrow", [{"n": n} for n in range(6)])]
    assert sorted(values) == list(range(6))


async def test_on_kafka(p: Pipeline, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("agents_io.serving.kafka.REPLY_TIMEOUT_S", 5.0)

    @agent("reader", concurrency=3)
    async def reader(payload: dict[str, Any]) -> tuple[Any, float]:
        await asyncio.sleep(0.01)
        return payload["n"], 0.6

    with pytest.raises(ConsumeFailed, match=r"topic missing\.requests does not exist; create it"):
        async with KafkaAgent(
            agent=reader, servers=p.bootstrap_servers, topic="missing.requests", group=None, client={}
        ):
            pass
    await ensure(p.settings, "reader.requests", 2, {})
    async with KafkaAgent(agent=reader, servers=p.bootstrap_servers, topic=None, group=None, client={}) as running:
        # What cannot be answered is passed over, and what follows is answered.
        strange: list[list[tuple[str, Any]]] = [
            [],
            [("correlation-id", None)],
            [("correlation-id", b"c"), ("reply-topic", b"no such/topic")],
            [("correlation-id", b"c"), ("reply-topic", b"replies"), ("request-timeout-ms", b"soon")],
        ]
        async with AIOKafkaProducer(bootstrap_servers=p.bootstrap_servers) as producer:
            for headers in strange:
                await producer.send_and_wait(running.topic, value=b"\xff{", headers=headers)
            late = [("correlation-id", b"c"), ("reply-topic", b"replies"), ("request-timeout-ms", b"2000")]
            minute_ago = int(time.time() * 1000) - 60_000
            for _ in range(3):
                await producer.send_and_wait(running.topic, value=b"{}", headers=late, timestamp_ms=minute_ago)
        await p.client.agents.add("reader", f"kafka://{running.topic}")
        await p.wait_for_agents("reader")
        values = [one.value async for one in p.client.map("reader", [{"n": n} for n in range(50)], ordered=True)]
        assert values == list(range(50))
    # Its end waits for what is under way, and commits.
    async with AIOKafkaConsumer(bootstrap_servers=p.bootstrap_servers, group_id="reader") as consumer:
        tps = [TopicPartition(running.topic, number) for number in (0, 1)]
        consumer.assign(tps)
        assert sum([await consumer.committed(tp) or 0 for tp in tps]) == 50 + len(strange) + 3
    said = [record.getMessage() for record in caplog.records if "its caller no longer waits" in record.getMessage()]
    assert len(said) == 1, said
    assert re.search(r"is 6\d\.\d s old and had 2\.0 s; .* clock", said[0]), said


@pytest.mark.parametrize("conversation", ["c-1", "Gespräch 2"])
async def test_an_agent_learns_which_conversation_a_call_belongs_to(p: Pipeline, conversation: str) -> None:
    """Over HTTP, dialled in and on Kafka; a function too. Equal calls of a conversation are not answered from the cache."""
    seen: list[str] = []

    async def told(payload: Any) -> int:
        seen.append(current_call().context_id)
        return len(seen)

    name = f"talks-{len(conversation)}"
    over_http, dialled, reading = (agent(f"{name}-{way}")(told) for way in ("http", "dialled", "kafka"))
    await p.add(over_http)
    await ensure(p.settings, f"{reading.id}.requests", 1, {})
    async with (
        GatewayAgent(dialled, [p.gateway]),
        KafkaAgent(agent=reading, servers=p.bootstrap_servers, topic=None, group=None, client={}) as running,
    ):
        await p.client.agents.add(reading.id, f"kafka://{running.topic}")
        await p.wait_for_agents(dialled.id, reading.id)
        for one in (over_http, dialled, reading):
            seen.clear()
            values = [(await p.client.run(one.id, {"n": 1}, context_id=conversation)).value for _ in range(2)]
            values.append((await p.client.run(one.id, {"n": 1})).value)
            assert (values, seen) == ([1, 2, 3], [conversation, conversation, ""]), one.id
            result = await p.client.run(one.id, {"n": 1}, context_id=conversation, cache=True)
            assert (result.value, result.cached, result.metadata["contextId"]) == (4, False, conversation)
            result = await p.client.run(one.id, {"n": 1}, context_id="another", cache=True)
            assert (result.value, result.cached) == (5, False)


async def test_fakes_of_every_protocol(p: Pipeline) -> None:
    for protocol in ("http", "grpc", "gateway", "a2a", "openai", "mcp", "kafka"):
        fake = FakeAgent(lambda payload: {"got": payload["n"]}, id=f"fake-{protocol}", protocol=protocol)  # type: ignore[arg-type]
        await p.add(fake)
        result = await p.client.run(fake.id, {"n": 1, "protocol": protocol}, wait=60, context_id="c 1")
        assert result.value == {"got": 1}, protocol
        [call] = fake.calls
        assert {name.lower(): value for name, value in call.headers.items()}["x-context-id"] == "utf-8''c%201", protocol


@pytest.mark.parametrize("way", ["--port", "--dial"])
async def test_the_command_serves_until_sigterm(p: Pipeline, way: str) -> None:
    where = "0" if way == "--port" else p.gateway
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    name = "price" if way == "--port" else "dialled-price"
    command = parallax("agent", "serve", f"tests.support.own_agents:{name.replace('-', '_')}", way, where)
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        assert process.stderr is not None
        line = (await asyncio.wait_for(process.stderr.readline(), 60)).decode()
        assert line.startswith(f"agent {name} "), line
        if way == "--port":
            await p.add({"id": "price", "endpoint": line.split()[-1]})
        else:
            await registered(p, name)
        assert (await p.client.run(name, {"item": way, "count": 4})).value["total"] == 12
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 30) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("nonsense",), 2, "MODULE:FUNCTION"),
        (("tests.support.own_agents:not_an_agent",), 2, "marked are price"),
        (("no_such_module:f",), 2, "no_such_module"),
        (("tests.support.own_agents:price", "--port", "1", "--dial", "x:1"), 2, "exclude each other"),
        (("tests.support.own_agents:price", "--consume", "127.0.0.1:1"), 3, "127.0.0.1:1"),
    ],
)
async def test_mistakes_on_the_command_line(arguments: tuple[str, ...], code: int, said: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *parallax("agent", "serve", *arguments), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    _, errors = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, said in errors.decode(), len(errors.decode().splitlines())) == (code, True, 1), errors


async def test_a_port_that_is_in_use_is_named() -> None:
    """With the option that chooses another."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        process = await asyncio.create_subprocess_exec(
            *parallax("agent", "serve", "tests.support.own_agents:price", "--port", port),
            cwd=ROOT,
            stderr=subprocess.PIPE,
        )
        _, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 1
    assert f"127.0.0.1:{port} is in use; choose another with --port" in errors.decode()
