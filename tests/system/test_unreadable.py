"""Records that are hard to read: every codec, and header keys that are no UTF-8. None stops or loses a neighbour."""

from __future__ import annotations

import asyncio
import json
import struct
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.util import calc_crc32c

from tests.support.kafka import KafkaCluster
from tests.support.rig import Tap, apply_topics, instant_agent, produce, register, start_worker, stopping

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]
CRC_AT, COVERED_FROM = 17, 21
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
WIDE = {"maxRequests": 1_000_000, "windowMs": 60_000, "maxConcurrency": 50}


def task(name: str) -> bytes:
    return json.dumps({"id": name, "type": "agent", "target": "a", "payload": {"n": name}}).encode()


class OddBatch(BatchBuilder):
    """A batch as a C client may write it: one header key holds bytes that are no UTF-8."""

    def _build(self) -> Any:
        built = bytearray(bytes(super()._build()).replace(b"odd-key", b"odd\xff\xfe\xfd\xfc"))
        struct.pack_into(">I", built, CRC_AT, calc_crc32c(memoryview(built)[COVERED_FROM:]))
        self._buffer = built
        return built


async def write_odd(bootstrap: str, topic: str, partition: int) -> None:
    """Three tasks in one batch, the middle one with the odd header."""
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        batch = OddBatch(100_000, 0)
        for name, headers in (("before", []), ("odd", [("odd-key", b"1")]), ("after", [])):
            batch.append(timestamp=None, key=None, value=task(name), headers=headers)
        await (await producer.send_batch(batch, topic, partition=partition))


def test_all_codecs_and_an_odd_header_are_answered(kafka: KafkaCluster, prefix: str) -> None:
    """Tasks in every compression, and a batch with an undecodable header key among good ones: one result each."""
    broker = kafka.bootstrap_servers
    apply_topics(broker, prefix)
    with instant_agent() as (_, endpoint):
        register(broker, prefix, {"id": "a", "endpoint": endpoint, "limits": WIDE})
        for codec in CODECS:
            records = ((None, task(f"{codec}-{n}")) for n in range(300))
            produce(broker, f"{prefix}tasks", records, **{"compression.type": codec, "linger.ms": 50})
        for partition in (0, 3):
            asyncio.run(write_odd(broker, f"{prefix}tasks", partition))
        expected = {f"{codec}-{n}" for codec in CODECS for n in range(300)} | {"before", "odd", "after"}
        with stopping(start_worker(broker, prefix, "--roles", "dispatch")):
            tap = Tap(broker, f"{prefix}results")
            found = [json.loads(message.value()) for message in tap.until(len(expected), 60, quiet_s=1)]
            tap.close()
        assert {result["taskId"] for result in found} == expected
        assert len(found) == len(expected), (
            "the odd batch was sent to two partitions: its ids are answered once all the same"
        )
        assert {result["status"] for result in found} == {"success"}
