"""A transactional request that is delayed in the network arrives in the middle of the next transaction: that one is not torn.

Real Kafka and the real committer. Only the network is simulated, inside the client: the first request of a kind is held back
while its sender is told that the answer was lost; it is delivered after the first batch of transaction 2 has arrived, and the
worker dies there.
"""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaConnectionError, RequestTimedOutError
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from streams.engine.batcher import Batcher
from streams.engine.commit import Commit, CommitFailed
from streams.engine.membership import Membership
from streams.engine.strict_producer import StrictProducer
from streams.engine.transactor import KafkaTransactor
from streams.rules.records import Output
from tests.support.kafka import KafkaCluster
from tests.support.memory import held
from tests.support.rig import apply_topics

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]

NOBODY = Membership(-1, "")
"""Of an empty group: its coordinator takes these offsets. No worker sends them."""


def transactor(kafka: KafkaCluster, prefix: str) -> KafkaTransactor:
    """Always with the same transactional id."""
    return KafkaTransactor(
        {"bootstrap_servers": kafka.bootstrap_servers},
        transactional_id=f"{prefix}group-0",
        group=f"{prefix}group",
        prefix=prefix,
        state="state",
        batcher=Batcher(prefix),
    )


class Killed(Exception):
    """The worker ends here."""


class Network:
    """Between a producer's client and the broker. Holds back the first request called `name`."""

    def __init__(self, name: str, lost: BaseException) -> None:
        self.name = name
        self.lost = lost
        self.held: Any = None
        self.late_code: int | None = None
        self.kill_after_late = False

    def put_before(self, producer: Any) -> None:
        """From now on this producer's requests come through here."""
        real = producer.client.send

        async def send(node_id: int, request: Any, **options: Any) -> Any:
            if self.held is None and type(request).__name__ == self.name:
                self.held = (node_id, request, options)
                raise self.lost
            answer = await real(node_id, request, **options)
            if self.kill_after_late and type(request).__name__ == "ProduceRequest" and self.late_code is None:
                held_node, held_request, held_options = self.held
                late = await real(held_node, held_request, **held_options)
                rows = [row for topic in getattr(late, "errors", ()) for row in topic[1]]
                self.late_code = rows[0][1] if rows else late.error_code
                raise Killed
            return answer

        producer.client.send = send


@pytest.mark.parametrize("name", ["EndTxnRequest", "MemberOffsets", "AddOffsetsToTxnRequest"])
@pytest.mark.parametrize("lost", [RequestTimedOutError(), KafkaConnectionError("reset")], ids=["timeout", "reset"])
async def test_a_late_request_does_not_end_the_next_transaction(
    kafka: KafkaCluster, prefix: str, name: str, lost: BaseException
) -> None:
    """Transaction 1 is there once; transaction 2, cut off half way, is not there at all."""
    apply_topics(kafka.bootstrap_servers, prefix)
    tasks, results = TopicPartition(f"{prefix}tasks", 0), TopicPartition(f"{prefix}results", 0)
    network = Network(name, lost)

    async def new() -> KafkaTransactor:
        made = transactor(kafka, prefix)
        await made.start()
        [producer] = held(made, StrictProducer)
        network.put_before(producer)
        return made

    async def commit(committer: KafkaTransactor, number: int) -> None:
        outputs = [Output("results", b"k", f"result-{number}".encode(), partition=0)]
        await committer.run([Commit(0, outputs, {tasks: OffsetAndMetadata(number, "")})], NOBODY)

    committer = await new()
    try:
        with pytest.raises(CommitFailed, match="was lost") as caught:
            await commit(committer, 1)
        assert caught.value.transient
        assert (caught.value.again, caught.value.unknown) == (name != "EndTxnRequest", name == "EndTxnRequest")
    finally:
        await committer.close()
    committer = await new()
    try:
        if await _committed(kafka, f"{prefix}group", tasks) != 1:
            await commit(committer, 1)
        network.kill_after_late = True
        with pytest.raises(CommitFailed):
            await commit(committer, 2)
        assert network.late_code not in (None, 0), "the broker took the late request"
    finally:
        await committer.close()
    heir = await new()
    await heir.close()
    assert await _values(kafka, results) == [b"result-1"]
    assert await _committed(kafka, f"{prefix}group", tasks) == 1


async def test_a_commit_of_many_batches_for_one_partition_goes_through(kafka: KafkaCluster, prefix: str) -> None:
    """Ten times what one batch holds, beside other partitions, in their order; and small ones after it."""
    apply_topics(kafka.bootstrap_servers, prefix)
    tasks, results = TopicPartition(f"{prefix}tasks", 0), TopicPartition(f"{prefix}results", 0)
    committer = transactor(kafka, prefix)
    await committer.start()
    try:
        sizes = [(n * 37_000) % 700_000 + 100_000 for n in range(24)]
        outputs = [Output("results", b"k", b"%d " % n + b"x" * size, partition=0) for n, size in enumerate(sizes)]
        outputs += [Output("results", b"k", b"other", partition=n) for n in (1, 2)]
        await committer.run([Commit(0, outputs, {tasks: OffsetAndMetadata(1, "")})], NOBODY)
        last = [Output("results", b"k", b"24 ", partition=0)]
        await committer.run([Commit(0, last, {tasks: OffsetAndMetadata(2, "")})], NOBODY)
    finally:
        await committer.close()
    assert [int(value.split()[0]) for value in await _values(kafka, results)] == list(range(25))
    assert await _committed(kafka, f"{prefix}group", tasks) == 2


async def _committed(kafka: KafkaCluster, group: str, tp: TopicPartition) -> int | None:
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap_servers, group_id=group, enable_auto_commit=False)
    await consumer.start()
    try:
        found: int | None = await consumer.committed(tp)
        return found
    finally:
        await consumer.stop()


async def _values(kafka: KafkaCluster, tp: TopicPartition) -> list[bytes]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka.bootstrap_servers, isolation_level="read_committed", enable_auto_commit=False
    )
    await consumer.start()
    try:
        consumer.assign([tp])
        await consumer.seek_to_beginning(tp)
        [end] = (await consumer.end_offsets([tp])).values()
        found: list[bytes] = []
        while await consumer.position(tp) < end:
            found += [record.value for record in (await consumer.getmany(tp, timeout_ms=200)).get(tp, ())]
        return found
    finally:
        await consumer.stop()
