"""Agents on a Kafka topic, on the embedded broker: what only this protocol has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from agents_io.errors import AgentError, CallTimeout, ClientError, InternalError, Unsupported
from agents_io.fakes.steps import ScriptStep, answer, hang
from agents_io.protocols.kafka.fake import FakeKafkaAgent
from agents_io.protocols.kafka.transport import KafkaTransport
from agents_io.transport import Answer, Call
from schemas.messages import AgentRegistration, SecretRef
from streams.agents.kafka_exchange import KafkaExchange
from streams.broker.embedded import EmbeddedBroker
from streams.broker.topics_admin import ensure
from streams.settings import Settings
from tests.conftest import SettingsFor
from tests.support.health import is_well
from tests.support.wait import until

pytestmark = [pytest.mark.embedded, pytest.mark.timeout(90)]
AGENT = AgentRegistration(id="a", endpoint="kafka://requests")


def call(transport: KafkaTransport, timeout_s: float = 10.0, body: bytes = b"{}", **changes: Any) -> Any:
    """One call."""
    agent = AGENT.model_copy(update=changes) if changes else AGENT
    return transport.call(agent, Call("t", "key-1", body, timeout_s, (("traceparent", "00-1-2-01"),)))


@pytest.fixture
async def settings(embedded: EmbeddedBroker, settings_for: SettingsFor) -> Settings:
    """A broker with the agent's topic."""
    made = settings_for(embedded)
    await ensure(made, "requests", 2, {})
    return made


class Exchange(KafkaExchange):
    """Keeps the producers that it makes."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.producers: list[AIOKafkaProducer] = []

    def producer(self, max_record_bytes: int) -> AIOKafkaProducer:
        self.producers.append(super().producer(max_record_bytes))
        return self.producers[-1]


@pytest.fixture
def exchange(settings: Settings) -> Exchange:
    """A worker's clients for agents on Kafka."""
    return Exchange(settings)


@pytest.fixture
async def transport(exchange: Exchange) -> AsyncIterator[KafkaTransport]:
    """A worker's transport."""
    made = KafkaTransport(exchange)
    yield made
    await made.close()


async def test_request_and_reply_as_a_foreign_client_sees_them(settings: Settings, transport: KafkaTransport) -> None:
    """Headers under our names and Spring's; a reply that copies only Spring's is found."""
    consumer = AIOKafkaConsumer("requests", bootstrap_servers=settings.bootstrap_servers, auto_offset_reset="earliest")
    producer = AIOKafkaProducer(bootstrap_servers=settings.bootstrap_servers)
    await consumer.start()
    await producer.start()
    try:
        task = asyncio.create_task(call(transport, body=b'{"n":1}'))
        record = await asyncio.wait_for(consumer.getone(), 20)
        headers = dict(record.headers)
        assert record.value == b'{"n":1}'
        assert headers["kafka_correlationId"] == headers["correlation-id"]
        assert headers["kafka_replyTopic"] == headers["reply-topic"]
        assert (headers["idempotency-key"], headers["traceparent"]) == (b"key-1", b"00-1-2-01")
        assert 0 < int(headers["request-timeout-ms"]) <= 10_000
        name = headers["reply-topic"].decode()
        assert name == f"{settings.topic_prefix}replies.{settings.app_id}"
        reply = b'{"value":"mine","confidence":1}'
        stranger = [("kafka_correlationId", b"somebody-else:1")]
        await producer.send_and_wait(name, b'{"value":"not mine","confidence":1}', headers=stranger)
        await producer.send_and_wait(name, b"no headers at all")
        await producer.send_and_wait(name, reply, headers=[("kafka_correlationId", headers["kafka_correlationId"])])
        assert await task == Answer("mine", 1.0)
    finally:
        await producer.stop()
        await consumer.stop()


async def test_late_reply_is_passed_over(settings: Settings, transport: KafkaTransport) -> None:
    """Never taken for the answer to another request."""
    async with FakeKafkaAgent(
        settings.bootstrap_servers, "requests", [answer("late", delay_s=4.0, times=1), answer("new")]
    ) as agent:
        await transport.open()  # its first call connects, which may take longer than the call below has
        with pytest.raises(CallTimeout, match=r"no answer within 2 s"):
            await call(transport, 2.0)
        assert (await call(transport)).value == "new"
        await until(lambda: all(received.ended for received in agent.calls))
        assert (await call(transport)).value == "new"


async def test_two_workers_of_one_app_share_the_reply_topic(settings: Settings, transport: KafkaTransport) -> None:
    """Each takes its own."""
    second = KafkaTransport(KafkaExchange(settings))
    echo = ScriptStep("compute", compute=lambda payload: {"value": payload, "confidence": 1})
    try:
        async with FakeKafkaAgent(settings.bootstrap_servers, "requests", [echo]):
            calls = [call((transport, second)[n % 2], body=b"%d" % n) for n in range(20)]
            assert [found.value for found in await asyncio.gather(*calls)] == list(range(20))
    finally:
        await second.close()


async def test_without_cancel_records_nothing_is_taken_back(settings: Settings, transport: KafkaTransport) -> None:
    """An agent that does not know them would choke on a record without a value."""
    async with FakeKafkaAgent(settings.bootstrap_servers, "requests", [hang()]) as agent:
        task = asyncio.create_task(call(transport))
        await until(lambda: agent.in_flight == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.3)
        assert agent.in_flight == 1


async def test_producer_whose_task_ended_is_replaced(
    settings: Settings, exchange: Exchange, transport: KafkaTransport
) -> None:
    """aiokafka's takes everything then and sends nothing."""
    async with FakeKafkaAgent(settings.bootstrap_servers, "requests"):
        await call(transport)
        [producer] = exchange.producers
        sender = producer._sender.sender_task
        sender.cancel()
        await asyncio.wait([sender])
        assert (await call(transport)).value == "ok"
        assert len(exchange.producers) == 2


async def test_health_is_whether_the_topic_is_there(settings: Settings, transport: KafkaTransport) -> None:
    """And asking does not make it."""
    nowhere = AgentRegistration(id="b", endpoint="kafka://nowhere")
    for _ in range(2):
        assert not await is_well(transport, nowhere, 5.0)
    assert await is_well(transport, AGENT, 5.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"endpoint": "kafka://"},
        {"endpoint": "kafka://a b"},
        {"endpoint": "kafka://.."},
        {"auth": SecretRef(env="X")},
        {"metadata": {"defaultConfidence": "x"}},
    ],
)
async def test_registration_that_cannot_work_makes_no_call(transport: KafkaTransport, changes: dict[str, Any]) -> None:
    """A secret above all goes on no topic."""
    with pytest.raises(Unsupported, match=r"endpoint|auth|metadata\.defaultConfidence"):
        await call(transport, **changes)


async def test_task_that_is_too_large_for_the_topic_is_the_callers_fault(transport: KafkaTransport) -> None:
    """No retry."""
    with pytest.raises(ClientError, match="larger than topic requests takes"):
        await call(transport, body=b'"' + b"x" * 11_000_000 + b'"')


async def test_no_broker_is_a_fault_of_ours_or_of_the_line_and_never_a_hang(settings_for: SettingsFor) -> None:
    """Before the first call and in the middle of the work."""
    async with EmbeddedBroker() as broker:
        settings = settings_for(broker)
        await ensure(settings, "requests", 1, {})
        transport = KafkaTransport(KafkaExchange(settings))
        async with FakeKafkaAgent(broker.bootstrap_servers, "requests"):
            await call(transport)
    with pytest.raises(AgentError) as caught:
        await call(transport, 1.0)
    assert caught.value.code == "connection"
    assert not await is_well(transport, AGENT, 1.0)
    await transport.close()
    fresh = KafkaTransport(KafkaExchange(settings))
    with pytest.raises((InternalError, AgentError)) as caught:
        await call(fresh, 2.0)
    assert caught.value.retryable
    await fresh.close()
