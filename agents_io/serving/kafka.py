"""An agent that reads requests from a Kafka topic and replies on the topic each request names.

In: records as `agents_io/protocols/kafka/rules/headers.py` describes them. Out: replies with the request's correlation
id. Instances of one group share the partitions. A request is committed when it and all before it have been answered, so
a crash repeats requests and loses none. A request whose time has passed is skipped; the log says so, as this machine's
clock may be the reason.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord

from agents_io.serving.answers import CallFailed
from agents_io.serving.runs import Served, parse_body
from agents_io.transport import CONTEXT_HEADER
from schemas.exact_json import dumps

log = logging.getLogger(__name__)

QUEUED = 10
"""Requests read ahead per possible run: requests behind them, and cancels, are seen in time."""
COMMIT_INTERVAL_S = 1.0
CONNECT_TIMEOUT_S = 20.0
RETRY_PAUSE_S = 1.0
REPLY_TIMEOUT_S = 60.0
"""How long sending a reply is tried: brokers may be unreachable, or the topic that the request names may not exist."""
LATE_INTERVAL_S = 60.0
"""Requests that are skipped as too late are reported once in this time: there may be a long backlog of them."""


class ConsumeFailed(Exception):
    """The topic is missing, or Kafka is unreachable."""


class _Progress:
    """Answered requests of one partition: everything before `done` may be committed."""

    def __init__(self) -> None:
        self._open: dict[int, bool] = {}
        self.done: int | None = None

    def begin(self, offset: int) -> None:
        self._open[offset] = False

    def end(self, offset: int) -> None:
        if offset not in self._open:
            return
        self._open[offset] = True
        while self._open and self._open[first := next(iter(self._open))]:
            del self._open[first]
            self.done = first + 1


class KafkaAgent(ConsumerRebalanceListener):  # type: ignore[misc]
    """`async with KafkaAgent(agent, "localhost:9092", None, None, {}):` reads and replies within the block."""

    def __init__(
        self,
        *,
        agent: Served,
        servers: str,
        topic: str | None,
        group: str | None,
        client: Mapping[str, Any],
        stop_timeout: float = 20.0,
    ) -> None:
        self.topic = topic or f"{agent.id}.requests"
        self._agent = agent
        self._servers = servers
        self._group = group or agent.id
        self._client = {"bootstrap_servers": servers} | dict(client)
        self._stop_timeout = stop_timeout
        self._runs = agent.runs()
        self._slots = asyncio.Semaphore(agent.concurrency)
        self._progress: dict[TopicPartition, _Progress] = {}
        self._working: dict[str, asyncio.Task[None]] = {}
        self._reader: asyncio.Task[None] | None = None
        self._committing: asyncio.Task[None] | None = None
        self._consumer: Any = None
        self._producer: Any = None
        self._late = 0
        self._late_told = -LATE_INTERVAL_S

    @property
    def ready_line(self) -> str:
        """The line to print once it reads."""
        return (
            f"agent {self._agent.id} reads topic {self.topic} at {self._servers}; register it: "
            f"parallax agents add {self._agent.id} kafka://{self.topic}"
        )

    async def failed(self) -> None:
        """Wait until reading ends; raises the reason."""
        if self._reader is not None:
            await asyncio.shield(self._reader)

    async def __aenter__(self) -> Self:
        self._producer = AIOKafkaProducer(**self._client, acks="all")
        self._consumer = AIOKafkaConsumer(
            **self._client, group_id=self._group, enable_auto_commit=False, auto_offset_reset="earliest"
        )
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._producer.start()
                await self._require_topic()
                await self._consumer.start()
        except (KafkaError, OSError, TimeoutError) as error:
            await self._close()
            raise ConsumeFailed(f"Kafka at {self._servers}: {str(error) or type(error).__name__}") from None
        except BaseException:
            await self._close()
            raise
        self._consumer.subscribe([self.topic], listener=self)
        self._reader = asyncio.create_task(self._read(), name="agent-requests")
        self._committing = asyncio.create_task(self._commits(), name="agent-commits")
        return self

    async def _require_topic(self) -> None:
        cluster = await self._producer.client.fetch_all_metadata()
        if self.topic not in cluster.topics():
            raise ConsumeFailed(
                f"topic {self.topic} does not exist; create it: kafka-topics.sh --create --topic {self.topic} "
                f"--bootstrap-server {self._servers}"
            )

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop reading, let calls finish, commit."""
        for task in (self._reader, self._committing):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        if self._working:
            await asyncio.wait(tuple(self._working.values()), timeout=self._stop_timeout)
        for task in tuple(self._working.values()):
            task.cancel()
        await self._runs.drain(0)
        await self._commit()
        await self._close()

    async def _close(self) -> None:
        for client in (self._consumer, self._producer):
            if client is not None:
                stopping = asyncio.ensure_future(client.stop())
                await asyncio.wait([stopping], timeout=5.0)

    async def _read(self) -> None:
        async for record in self._consumer:
            headers = {name: (value or b"").decode("utf-8", "replace") for name, value in record.headers or ()}
            correlation = headers.get("correlation-id") or headers.get("kafka_correlationId", "")
            if "cancel" in headers:
                for task in self._working.values():
                    if task.get_name() == correlation:
                        task.cancel()
                continue
            tp = TopicPartition(record.topic, record.partition)
            progress = self._progress.setdefault(tp, _Progress())
            progress.begin(record.offset)
            while len(self._working) >= QUEUED * self._agent.concurrency:
                await asyncio.wait(tuple(self._working.values()), return_when=asyncio.FIRST_COMPLETED)
            task = asyncio.create_task(self._serve(record, headers, correlation), name=correlation)
            name = f"{record.partition}/{record.offset}"
            self._working[name] = task
            task.add_done_callback(lambda _, n=name, p=progress, o=record.offset: self._served(n, p, o))  # type: ignore[misc]

    def _served(self, name: str, progress: _Progress, offset: int) -> None:
        self._working.pop(name, None)
        progress.end(offset)

    async def _serve(self, record: ConsumerRecord, headers: dict[str, str], correlation: str) -> None:
        reply_topic = headers.get("reply-topic") or headers.get("kafka_replyTopic")
        if not reply_topic or not correlation:
            log.warning(
                "task skipped, it has no header reply-topic: %s %d/%d", record.topic, record.partition, record.offset
            )
            return
        async with self._slots:
            value, more = await self._answer(record, headers)
        if value is None:
            return
        reply_headers = [("correlation-id", correlation.encode()), ("kafka_correlationId", correlation.encode()), *more]
        try:
            async with asyncio.timeout(REPLY_TIMEOUT_S):
                await self._reply(reply_topic, value, reply_headers)
        except Exception as error:  # an invalid reply topic affects this request only
            log.error("no reply to %s on %s: %r", correlation, reply_topic[:250], error)

    async def _reply(self, topic: str, value: bytes, headers: list[tuple[str, bytes]]) -> None:
        while True:
            try:
                await self._producer.send_and_wait(topic, value=value, headers=headers)
                return
            except KafkaError as error:
                if not error.retriable:
                    raise
            await asyncio.sleep(RETRY_PAUSE_S)

    async def _answer(
        self, record: ConsumerRecord, headers: dict[str, str]
    ) -> tuple[bytes | None, list[tuple[str, bytes]]]:
        """The reply's value and headers; None: it is too late, the caller no longer waits."""
        text = headers.get("request-timeout-ms", "")
        timeout_s = int(text) / 1000 if text.isascii() and text.isdigit() and len(text) < 12 else None
        if timeout_s is not None:
            age_s = max(0.0, time.time() - record.timestamp / 1000)
            if age_s >= timeout_s:
                self._tell_late(record, age_s, timeout_s)
                return None, []
            timeout_s -= age_s
        try:
            payload, context = parse_body(record.value or b""), headers.get(CONTEXT_HEADER, "")
            reply = await self._runs.run(headers.get("idempotency-key", ""), payload, timeout_s, context)
        except CallFailed as failed:
            more = [("status", str(failed.status).encode())]
            if failed.retry_after_s is not None:
                more.append(("retry-after", str(failed.retry_after_s).encode()))
            return dumps({"error": str(failed)}), more
        return reply.body, []

    def _tell_late(self, record: ConsumerRecord, age_s: float, timeout_s: float) -> None:
        self._late += 1
        now = time.monotonic()
        if now - self._late_told < LATE_INTERVAL_S:
            return
        self._late_told = now
        log.warning(
            "task skipped, its caller no longer waits (%d so far): %s %d/%d is %.1f s old and had %.1f s; "
            "if callers do wait, compare this machine's clock with theirs",
            self._late,
            record.topic,
            record.partition,
            record.offset,
            age_s,
            timeout_s,
        )

    async def _commits(self) -> None:
        while True:
            await asyncio.sleep(COMMIT_INTERVAL_S)
            await self._commit()

    async def _commit(self) -> None:
        assigned = self._consumer.assignment()
        offsets = {tp: one.done for tp, one in self._progress.items() if one.done is not None and tp in assigned}
        if not offsets:
            return
        try:
            await self._consumer.commit(offsets)
        except KafkaError as error:  # requests answered since are answered again after a restart
            log.info("offsets were not committed: %r", error)
            return
        for tp, offset in offsets.items():
            if self._progress[tp].done == offset:
                self._progress[tp].done = None

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """Commit what is answered; another instance answers the rest."""
        await self._commit()
        for tp in revoked:
            self._progress.pop(tp, None)

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Continue after what was committed."""
