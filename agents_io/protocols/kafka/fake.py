"""A scripted agent that reads a Kafka topic, and an example of one: `reply_to` is all that such an agent must do.

In: steps as for `FakeAgent`, requests as records. Out: replies on the topic each request names, and a log of every request. A
hang or a drip answers nothing; what cuts a connection has no meaning here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.structs import ConsumerRecord, TopicPartition

from agents_io.fakes.http import FakeAgent, Received
from agents_io.fakes.steps import ScriptStep

HUGE = 400_000


class FakeKafkaAgent(FakeAgent):
    """`async with FakeKafkaAgent("localhost:9092", "requests", answer()) as agent:` answers at `agent.endpoint`.

    The topic must be there. `client`: more for aiokafka's clients, how to log in for one.
    """

    def __init__(
        self, servers: str, topic: str, *arguments: Any, client: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self._client = {"bootstrap_servers": servers} | dict(client or {})
        self._topic = topic
        self._work: dict[str, asyncio.Task[None]] = {}

    @property
    def endpoint(self) -> str:
        """The endpoint for its registration."""
        return f"kafka://{self._topic}"

    async def __aenter__(self) -> Self:
        self._consumer = AIOKafkaConsumer(**self._client, fetch_max_wait_ms=50)
        self._producer = AIOKafkaProducer(**self._client)
        await self._consumer.start()
        await self._producer.start()
        # Without a group: nothing to join, nothing to wait for. A real agent uses a group to run several instances.
        tps = [TopicPartition(self._topic, n) for n in await self._producer.partitions_for(self._topic)]
        self._consumer.assign(tps)
        await self._consumer.seek_to_end(*tps)
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = [self._reading, *self._work.values()]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await self._consumer.stop()
        await self._producer.stop()

    async def _read(self) -> None:
        async for record in self._consumer:
            headers = {name: value.decode() for name, value in record.headers}
            correlation = headers["correlation-id"]
            if "cancel" in headers:
                if (task := self._work.get(correlation)) is not None:
                    task.cancel()
                continue
            task = self._work[correlation] = asyncio.create_task(self._serve(record, headers))
            task.add_done_callback(lambda _, correlation=correlation: self._work.pop(correlation))  # type: ignore[misc]

    async def _serve(self, record: ConsumerRecord, headers: dict[str, str]) -> None:
        key = headers["idempotency-key"]
        payload = orjson.loads(record.value)
        step = self._step_for(key)
        received = Received(time.time(), key, headers, payload, step.kind)
        self.calls.append(received)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await self.reply_to(headers, *await self._answer(step, payload))
            received.ended, received.code = "answered", step.code
        except asyncio.CancelledError:
            received.ended = "closed"
            raise
        finally:
            self.in_flight -= 1
            received.ended_at = time.time()

    async def reply_to(self, request: dict[str, str], value: bytes, headers: list[tuple[str, bytes]]) -> None:
        """What an agent must do: answer on the topic the request names, under the request's correlation id."""
        correlation = ("correlation-id", request["correlation-id"].encode())
        await self._producer.send_and_wait(request["reply-topic"], value=value, headers=[correlation, *headers])

    async def _answer(self, step: ScriptStep, payload: Any) -> tuple[bytes, list[tuple[str, bytes]]]:
        await asyncio.sleep(step.delay_s)
        if step.kind in ("hang", "drip"):
            await asyncio.Event().wait()
        if step.kind == "huge":
            return b"x" * HUGE, []
        body = step.compute(payload) if step.compute is not None else step.body
        headers = [(name.lower(), value.encode()) for name, value in step.headers if name == "Retry-After"]
        if step.code != 200:
            headers.append(("status", str(step.code).encode()))
        return body if isinstance(body, bytes) else orjson.dumps(body), headers
