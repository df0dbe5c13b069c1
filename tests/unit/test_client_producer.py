"""A client's producer sends again what failed, through another producer when the old one cannot go on."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka import errors as kafka

from streams.client import producer as module
from streams.client.errors import ClientError, InvalidTask, KafkaUnreachable
from streams.client.producer import TaskProducer
from streams.client.requests import Request
from streams.settings import Settings
from tests.support.wait import settle, until

pytestmark = pytest.mark.virtual_time


class FakeProducer:
    """Fails each send with the next of `errors`, then takes all."""

    def __init__(self, errors: list[Exception]) -> None:
        self.errors = errors
        self.sent: list[tuple[str, bytes, int]] = []
        self.stopped = False
        self.topics = {"parallax.tasks": 4}
        self._sender = SimpleNamespace(sender_task=None)
        cluster = SimpleNamespace(partitions_for_topic=lambda name: set(range(self.topics[name])))
        self.client = SimpleNamespace(cluster=cluster)

    async def send(self, topic: str, *, value: bytes, key: bytes, partition: int) -> asyncio.Future[Any]:
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self.errors:
            done.set_exception(self.errors.pop(0))
        else:
            self.sent.append((topic, value, partition))
            done.set_result(SimpleNamespace(topic_partition=TopicPartition(topic, partition)))
        return done

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        self.stopped = True


class Rig:
    """A producer on fakes; `made` in turn."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *fakes: FakeProducer, give_up_after_s: float | None = None
    ) -> None:
        self.lost: list[ClientError] = []
        self.producer = TaskProducer(Settings(), lambda _, error: self.lost.append(error), give_up_after_s)
        self.producer.partitions["tasks"] = 4
        left = list(fakes)

        def made(**options: Any) -> FakeProducer:
            assert options["enable_idempotence"] is True
            assert options["acks"] == "all"
            return left.pop(0)

        async def idempotent(_: Settings) -> bool:
            return True

        monkeypatch.setattr(module, "supports_idempotence", idempotent)
        monkeypatch.setattr(module, "RETRY_PAUSE_S", 0.0)
        monkeypatch.setattr(module, "AIOKafkaProducer", made)


REQUEST = Request("t1", b"a1", b"{}", agent=True)


async def test_what_timed_out_is_sent_again_through_the_same_producer(monkeypatch: pytest.MonkeyPatch) -> None:
    only = FakeProducer([kafka.KafkaTimeoutError(), kafka.NotLeaderForPartitionError()])
    rig = Rig(monkeypatch, only)
    await rig.producer.start()
    await rig.producer.post("tasks", REQUEST)
    await until(lambda: only.sent)
    await settle()
    assert [value for _, value, _ in only.sent] == [b"{}"]
    assert rig.lost == []


@pytest.mark.parametrize("error", [kafka.OutOfOrderSequenceNumber(), kafka.ProducerFenced(), kafka.UnknownProducerId()])
async def test_a_producer_that_lost_its_sequence_is_replaced(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    first, second = FakeProducer([error]), FakeProducer([])
    rig = Rig(monkeypatch, first, second)
    await rig.producer.start()
    await rig.producer.send("tasks", REQUEST)
    assert (first.sent, first.stopped, len(second.sent)) == ([], True, 1)


async def test_what_kafka_will_never_take_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch, FakeProducer([kafka.MessageSizeTooLargeError(), kafka.MessageSizeTooLargeError()]))
    await rig.producer.start()
    await rig.producer.post("tasks", REQUEST)
    await asyncio.sleep(0)
    assert [type(error) for error in rig.lost] == [InvalidTask]
    with pytest.raises(InvalidTask, match="larger than Kafka accepts"):
        await rig.producer.send("tasks", REQUEST)


async def test_what_is_refused_at_once_is_raised_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(FakeProducer):
        async def send(self, topic: str, *, value: bytes, key: bytes, partition: int) -> asyncio.Future[None]:
            raise kafka.MessageSizeTooLargeError

    rig = Rig(monkeypatch, Refusing([]))
    await rig.producer.start()
    with pytest.raises(InvalidTask, match="larger than Kafka accepts"):
        await rig.producer.post("tasks", REQUEST)
    assert rig.lost == []


class Slow(FakeProducer):
    """Takes a second for each record of a partition; `at_once`: how many calls wait for a partition, at most."""

    def __init__(self) -> None:
        super().__init__([])
        self.waiting: Counter[int] = Counter()
        self.at_once = 0
        self.down: set[int] = set()

    async def send(self, topic: str, *, value: bytes, key: bytes, partition: int) -> asyncio.Future[Any]:
        self.waiting[partition] += 1
        self.at_once = max(self.at_once, *self.waiting.values())
        await asyncio.sleep(3600 if partition in self.down else 1)
        self.waiting[partition] -= 1
        return await super().send(topic, value=value, key=key, partition=partition)


async def test_many_records_wait_for_their_turn_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a partition, in the order they were sent; and none is given up while those before it arrive."""
    slow = Slow()
    rig = Rig(monkeypatch, slow, give_up_after_s=30)
    await rig.producer.start()
    sends = [rig.producer.send("tasks", Request(f"t{n}", b"a1", b"%d" % n, agent=True)) for n in range(100)]
    other = [rig.producer.send("tasks", Request(f"u{n}", b"a3", b"u", agent=True)) for n in range(10)]
    begun = asyncio.get_running_loop().time()
    await asyncio.gather(*sends, *other)
    assert asyncio.get_running_loop().time() - begun == pytest.approx(100)  # partitions do not wait for each other
    assert slow.at_once == 1
    assert [value for _, value, _ in slow.sent if value != b"u"] == [b"%d" % n for n in range(100)]


async def test_a_partition_that_takes_nothing_is_given_up_while_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow()
    rig = Rig(monkeypatch, slow, give_up_after_s=30)
    await rig.producer.start()
    await rig.producer.send("tasks", Request("t", b"a1", b"{}", agent=True))
    slow.down = {partition for _, _, partition in slow.sent}
    begun = asyncio.get_running_loop().time()
    others = asyncio.gather(*(rig.producer.send("tasks", Request(f"u{n}", b"a3", b"u", agent=True)) for n in range(60)))
    stuck = [rig.producer.send("tasks", Request(f"t{n}", b"a1", b"{}", agent=True)) for n in range(3)]
    raised = await asyncio.gather(*stuck, return_exceptions=True)
    assert {type(error) for error in raised} == {KafkaUnreachable}
    assert asyncio.get_running_loop().time() - begun == pytest.approx(30)
    await others


async def test_added_partitions_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    only = FakeProducer([])
    rig = Rig(monkeypatch, only)
    await rig.producer.start()
    only.topics["parallax.tasks"] = 64
    monkeypatch.setattr(module, "COUNT_INTERVAL_S", -1.0)
    for number in range(64):
        await rig.producer.send("tasks", Request(f"t{number}", b"k%d" % number, b"{}"))
    assert max(partition for _, _, partition in only.sent) > 3
