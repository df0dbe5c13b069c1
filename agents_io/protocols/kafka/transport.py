"""Calls to agents that read a Kafka topic and answer on another, protocol `kafka`.

In: a registration `kafka://TOPIC`. Out: the agent's reply as an `Answer`, or one `AgentError` (`rules/headers.py`). All
workers of an app share one reply topic. Each reads it from its end at the first call, takes the replies to its own
requests and ignores all others, also late ones. A request that the broker does not accept is a failed connection. No
secret goes on a topic: such agents have no `auth`.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import dataclass
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from aiokafka.structs import ConsumerRecord

from agents_io.best_effort import BestEffortRequests
from agents_io.errors import CallTimeout, ClientError, ConnectionFailed, Expired, InternalError, Unsupported
from agents_io.per_agent import PerAgent
from agents_io.protocols.kafka.broker import Broker, Replies
from agents_io.protocols.kafka.rules.headers import (
    cancel_headers,
    correlation_of,
    reply_answer,
    request_headers,
    topic_of,
)
from agents_io.rules.answer import Reading, excerpt, reading_of
from agents_io.transport import MAX_ANSWER_BYTES, Answer, Call
from schemas.messages import AgentRegistration
from schemas.topics import LARGE_RECORD_BYTES

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Agent:
    """A parsed registration."""

    topic: str
    reading: Reading
    cancels: bool


def _agent(agent: AgentRegistration) -> _Agent:
    if agent.auth is not None:
        raise Unsupported(
            "auth: not for kafka agents: the secret would be stored on a topic; use the authentication of the brokers"
        )
    cancels = (agent.metadata or {}).get("cancelRecords") is True
    return _Agent(topic_of(agent.endpoint), reading_of(agent.metadata, agent.confidence), cancels)


class KafkaTransport:
    """Calls agents of protocol `kafka`; one producer and one reader of replies for all of a worker's agents."""

    def __init__(self, broker: Broker, *, max_answer_bytes: int = MAX_ANSWER_BYTES) -> None:
        self._broker = broker
        self._max_answer_bytes = max_answer_bytes
        self._nonce = uuid.uuid4().hex[:16].encode() + b":"
        self._number = 0
        self._agents = PerAgent(_agent)
        self._waiting: dict[bytes, asyncio.Future[ConsumerRecord]] = {}
        self._producer: AIOKafkaProducer | None = None
        self._replies: Replies | None = None
        self._opening = asyncio.Lock()
        self._best_effort = BestEffortRequests()

    async def call(self, agent: AgentRegistration, call: Call) -> Answer:
        """One attempt. Raises `AgentError`. Cancelling it stops waiting, and informs agents with
        `metadata.cancelRecords`.
        """
        if not call.timeout_s > 0:
            raise Expired("no time is left for a call")
        peer = self._agents.get(agent)
        self._number += 1
        correlation = self._nonce + b"%d" % self._number
        sent = opened = False
        try:
            async with asyncio.timeout(call.timeout_s):
                await self.open()
                opened = True
                waiting = self._waiting[correlation] = asyncio.get_running_loop().create_future()
                await self._send(peer.topic, call, correlation)
                sent = True
                reply = await waiting
        except BaseException as error:
            if sent and peer.cancels:
                self._best_effort.start("kafka-cancel", lambda: self._take_back(peer.topic, call, correlation))
            if not isinstance(error, TimeoutError):
                raise
            if not opened:
                raise InternalError(f"agents on Kafka could not be reached within {call.timeout_s:.3g} s") from None
            if not sent:
                raise ConnectionFailed(f"the request could not be sent within {call.timeout_s:.3g} s") from None
            raise CallTimeout(f"no answer within {call.timeout_s:.3g} s") from None
        finally:
            self._waiting.pop(correlation, None)
        return reply_answer(reply.value, reply.headers, peer.reading, self._max_answer_bytes, time.time(), call.attempt)

    async def check_health(self, agent: AgentRegistration, timeout_s: float) -> None:
        """The agent's topic exists; only a call shows whether an agent reads it. Raises `AgentError`; `Unsupported`."""
        topic = self._agents.get(agent).topic
        try:
            async with asyncio.timeout(timeout_s):
                await self.open(replies=False)
                found = await _topics(self._living())
        except TimeoutError:
            raise CallTimeout(f"Kafka does not answer within {timeout_s:.3g} s") from None
        except KafkaError as error:
            raise ConnectionFailed(f"cannot query Kafka: {error!r}") from None
        if topic not in found:
            raise ConnectionFailed(f"there is no topic {topic}")

    async def close(self) -> None:
        """Disconnect. Calls under way are left to their deadlines."""
        await self._best_effort.close()
        if self._replies is not None:
            await self._replies.stop()
        if self._producer is not None:
            await self._broker.stop_producer(self._producer)

    async def _send(self, topic: str, call: Call, correlation: bytes) -> None:
        headers = request_headers(call, correlation, self._broker.reply_topic)
        key = call.task_id.encode()
        try:
            await self._living().send_and_wait(topic, value=call.body, key=key, headers=headers)
        except MessageSizeTooLargeError:
            raise ClientError(f"the task is larger than topic {topic} takes") from None
        except KafkaError as error:
            raise ConnectionFailed(f"the request could not be sent to topic {topic}: {_shown(error)}") from None

    async def _take_back(self, topic: str, call: Call, correlation: bytes) -> None:
        await self._living().send_and_wait(
            topic, value=None, key=call.task_id.encode(), headers=cancel_headers(correlation)
        )

    def _living(self) -> AIOKafkaProducer:
        if self._producer is None:
            raise InternalError("the requests' producer was lost")
        return self._producer

    async def open(self, *, replies: bool = True) -> None:
        """Connect, which the first call does otherwise and in its own time; idempotent. Raises `InternalError`.

        A producer whose own task has ended is replaced. `replies`: also read the reply topic.
        """
        reading = self._replies is not None or not replies
        if reading and self._producer is not None and not _ended(self._producer):
            return
        async with self._opening:
            try:
                if self._producer is None or _ended(self._producer):
                    await self._renew_producer()
                if self._replies is None and replies:
                    await self._read_replies()
            except KafkaError as error:
                raise InternalError(f"this worker cannot reach agents on Kafka: {_shown(error)}") from error

    async def _renew_producer(self) -> None:
        worn, self._producer = self._producer, None
        if worn is not None:
            log.warning("the producer of requests to agents was replaced")
            await self._broker.stop_producer(worn)
        producer = self._broker.producer(LARGE_RECORD_BYTES)
        try:
            await producer.start()
        except BaseException:
            await self._broker.stop_producer(producer)
            raise
        self._producer = producer

    async def _read_replies(self) -> None:
        await self._broker.ensure_reply_topic()
        replies = self._broker.replies(self._take)
        try:
            await replies.start()
        except BaseException:
            await replies.stop()
            raise
        self._replies = replies

    def _take(self, record: ConsumerRecord) -> None:
        correlation = correlation_of(record.headers)
        if correlation is None or not correlation.startswith(self._nonce):
            return  # another worker's
        waiting = self._waiting.get(correlation)
        if waiting is not None and not waiting.done():
            waiting.set_result(record)


async def _topics(producer: AIOKafkaProducer) -> set[str]:
    """Every topic that the brokers show to this user. Asking creates none."""
    cluster: Any = await producer.client.fetch_all_metadata()
    return set(cluster.topics())


def _ended(producer: AIOKafkaProducer) -> bool:
    sender = producer._sender
    return sender is not None and sender.sender_task is not None and sender.sender_task.done()


def _shown(error: BaseException) -> str:
    return f"{type(error).__name__} {excerpt(str(error).encode('utf-8', 'replace'))}"
