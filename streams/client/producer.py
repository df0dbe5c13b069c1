"""Sends a client's records: acknowledged by all replicas, idempotent if the broker allows it, repeated until
acknowledged.

In: requests. Out: records on the broker. A failed record is sent again unchanged, with the same id: the pipeline
answers an id once. If the producer's own task died, it is replaced.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka import errors as kafka

from schemas.partitioning import owner_partition, partition_for
from schemas.topics import LARGE_RECORD_BYTES, full_name
from streams.broker.kafka import client_options, start
from streams.client.connection import supports_idempotence
from streams.client.errors import ClientClosed, ClientError, InvalidTask, KafkaUnreachable
from streams.client.requests import Request
from streams.settings import Settings

log = logging.getLogger(__name__)

LINGER_MS = 1
RETRY_PAUSE_S = 0.5
COUNT_INTERVAL_S = 30.0
METADATA_MAX_AGE_MS = 30_000
CLOSE_TIMEOUT_S = 5.0
_FINAL = (
    kafka.MessageSizeTooLargeError,
    kafka.TopicAuthorizationFailedError,
    kafka.ClusterAuthorizationFailedError,
    kafka.InvalidTopicError,
)
_WORN = (
    kafka.OutOfOrderSequenceNumber,
    kafka.UnknownProducerId,
    kafka.InvalidProducerIdMapping,
    kafka.InvalidProducerEpoch,
    kafka.ProducerFenced,
)
"""The broker and this producer disagree on what was sent: only a new producer can continue."""

Lost = Callable[[Request, ClientError], None]


class TaskProducer:
    """`partitions`: short topic name to its number of partitions. `lost`: called with a record that can never be sent.

    `give_up_after_s`: how long `send` waits for a partition that takes nothing; None: forever.
    """

    def __init__(self, settings: Settings, lost: Lost, give_up_after_s: float | None = None) -> None:
        self.partitions: dict[str, int] = {}
        self.idempotent = False
        self._settings = settings
        self._lost = lost
        self._give_up_after_s = give_up_after_s
        self._producer: Any = None
        self._renewing = asyncio.Lock()
        self._turns: defaultdict[tuple[str, int | None], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._taken: dict[TopicPartition, float] = {}
        """Loop time at which each partition last took a record of this producer."""
        self._worn = False
        self._counted = 0.0
        self._again: set[asyncio.Task[None]] = set()
        self._closed = False

    async def start(self) -> None:
        """Connect. Raises `KafkaError`, `OSError`."""
        self.idempotent = await supports_idempotence(self._settings)
        self._producer = await self._made()

    async def close(self) -> None:
        """Send what is pending, within bounded time, and disconnect."""
        self._closed = True
        for task in tuple(self._again):
            task.cancel()
        producer, self._producer = self._producer, None
        if producer is not None:
            await _stop(producer)

    async def post(self, topic: str, request: Request) -> None:
        """Queue a record and return; `lost` is called if it can never be sent. Raises `ClientError`."""
        try:
            acknowledged = await self._send(topic, request)
        except (kafka.KafkaError, OSError) as error:
            if final := self._final(error):
                raise final from None
            self._failed(topic, request, error)
            return
        acknowledged.add_done_callback(lambda done: self._acknowledged(topic, request, done))

    async def send(self, topic: str, request: Request) -> None:
        """Send a record and wait for the acknowledgement. Raises `ClientError`, `KafkaUnreachable` if that takes too
        long.
        """
        try:
            async with self._bounded(topic, request):
                await self._deliver(topic, request)
        except TimeoutError:
            raise KafkaUnreachable(
                f"Kafka at {self._settings.bootstrap_servers} has not taken {request.id} within "
                f"{self._give_up_after_s:g} s; it may still arrive"
            ) from None

    @asynccontextmanager
    async def _bounded(self, topic: str, request: Request) -> AsyncIterator[None]:
        """Raises TimeoutError when the request's partition has taken no record for `give_up_after_s`.

        A record behind thousands of others is not given up while those arrive.
        """
        limit_s = self._give_up_after_s
        if limit_s is None:
            yield
            return
        loop = asyncio.get_running_loop()
        begun = loop.time()
        timer: asyncio.TimerHandle
        async with asyncio.timeout(None) as bound:

            def check() -> None:
                nonlocal timer
                partition = None if self._closed else self._partition(topic, request)
                taken = self._taken.get(TopicPartition(full_name(topic, self._settings.topic_prefix), partition), begun)
                left_s = max(begun, taken) + limit_s - loop.time()
                if left_s > 0:
                    timer = loop.call_later(left_s, check)
                else:
                    bound.reschedule(loop.time())

            timer = loop.call_later(limit_s, check)
            try:
                yield
            finally:
                timer.cancel()

    async def _deliver(self, topic: str, request: Request) -> None:
        """Send until acknowledged, as often as needed."""
        while True:
            try:
                # What is cancelled here stays in the producer: it may be on its way.
                self._note_taken(await asyncio.shield(await self._send(topic, request)))
                return
            except (kafka.KafkaError, OSError) as error:
                if final := self._final(error):
                    raise final from None
                log.debug("sending %s to %s failed; sending again: %r", request.id, topic, error)
            await asyncio.sleep(RETRY_PAUSE_S)

    async def _send(self, topic: str, request: Request) -> asyncio.Future[Any]:
        if self._producer is None or self._closed:
            raise ClientClosed("the client is closed")
        partition = self._partition(topic, request)
        # aiokafka wakes all that wait for room in a batch whenever there is some: thousands would mostly wake each other.
        async with self._turns[topic, partition]:
            producer = self._producer
            if producer is None or self._closed:
                raise ClientClosed("the client is closed")
            if self._worn or _dead(producer):
                producer = await self._renewed()
            sent: asyncio.Future[Any] = await producer.send(
                full_name(topic, self._settings.topic_prefix),
                value=request.value or None,
                key=request.key,
                partition=partition,
            )
        return sent

    def _note_taken(self, acknowledged: Any) -> None:
        """Remember when a partition last took a record. `acknowledged`: aiokafka's RecordMetadata."""
        self._taken[acknowledged.topic_partition] = asyncio.get_running_loop().time()

    def _partition(self, topic: str, request: Request) -> int | None:
        if request.partition is not None:
            return request.partition
        now = asyncio.get_running_loop().time()
        if now - self._counted > COUNT_INTERVAL_S:
            self._counted = now
            self._recount()
        count = self.partitions.get(topic)
        if count is None:
            return None
        return owner_partition(request.key.decode(), count) if request.agent else partition_for(request.key, count)

    def _recount(self) -> None:
        """Ask again for the number of partitions: keys must go where other producers put them."""
        for topic, count in self.partitions.items():
            name = full_name(topic, self._settings.topic_prefix)
            self.partitions[topic] = len(self._producer.client.cluster.partitions_for_topic(name) or range(count))

    def _acknowledged(self, topic: str, request: Request, done: asyncio.Future[Any]) -> None:
        if done.cancelled():
            return
        if (error := done.exception()) is not None:
            self._failed(topic, request, error)
        else:
            self._note_taken(done.result())

    def _failed(self, topic: str, request: Request, error: BaseException) -> None:
        if self._closed:
            return
        if final := self._final(error):
            self._lost(request, final)
            return
        task = asyncio.ensure_future(self._send_again(topic, request))
        self._again.add(task)
        task.add_done_callback(self._again.discard)

    async def _send_again(self, topic: str, request: Request) -> None:
        await asyncio.sleep(RETRY_PAUSE_S)
        try:
            await self._deliver(topic, request)
        except ClientError as error:
            self._lost(request, error)

    def _final(self, error: BaseException) -> ClientError | None:
        """The error if sending again cannot help; None: it can, with another producer if necessary."""
        self._worn = self._worn or isinstance(error, _WORN)
        if isinstance(error, kafka.MessageSizeTooLargeError):
            return InvalidTask(f"payload: larger than Kafka accepts: {error}")
        if isinstance(error, _FINAL):
            return KafkaUnreachable(f"Kafka at {self._settings.bootstrap_servers} refuses to write: {error!r}")
        return ClientClosed("the client is closed") if self._closed else None

    async def _renewed(self) -> Any:
        async with self._renewing:
            if self._producer is not None and (self._worn or _dead(self._producer)):
                old, self._producer = self._producer, await self._made()
                self._worn = False
                await _stop(old)
            return self._producer

    async def _made(self) -> Any:
        producer = AIOKafkaProducer(
            **client_options(self._settings),
            acks="all",
            linger_ms=LINGER_MS,
            max_request_size=LARGE_RECORD_BYTES,
            enable_idempotence=self.idempotent,
            retry_backoff_ms=100,
            metadata_max_age_ms=METADATA_MAX_AGE_MS,
        )
        await start(producer)
        return producer


def _dead(producer: Any) -> bool:
    sender = producer._sender
    return bool(sender is not None and sender.sender_task is not None and sender.sender_task.done())


async def _stop(producer: Any) -> None:
    """Stop within bounded time, also if the brokers are gone."""
    stopping = asyncio.ensure_future(producer.stop())
    await asyncio.wait([stopping], timeout=CLOSE_TIMEOUT_S)
    if stopping.done():
        if not stopping.cancelled():
            stopping.exception()
        return
    stopping.cancel()
    await asyncio.wait([asyncio.ensure_future(producer.client.close())], timeout=CLOSE_TIMEOUT_S)
