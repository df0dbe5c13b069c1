"""Progress events: bounded, in order, and lost only with a number to tell."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka.errors import KafkaConnectionError, KafkaError, OutOfOrderSequenceNumber

from streams.engine import event_sink
from streams.engine.event_sink import EventSink
from streams.rules.records import Output
from tests.support.wait import until

pytestmark = pytest.mark.virtual_time


class FakeProducer:
    """Connects to nothing; `away`: how many starts find no broker, of all producers together."""

    away = 0
    started = 0

    def __init__(self, **options: Any) -> None:
        self.stopped = 0
        self._sender: Any = None

    async def start(self) -> None:
        """Count it."""
        if FakeProducer.away:
            FakeProducer.away -= 1
            raise KafkaConnectionError("away")
        FakeProducer.started += 1

    def end_task(self) -> None:
        """As aiokafka's own task ends: everything is taken then, and nothing sent."""
        over = asyncio.get_running_loop().create_future()
        over.set_result(None)
        self._sender = SimpleNamespace(sender_task=over)

    async def stop(self) -> None:
        """Count it."""
        self.stopped += 1


class FakeBatcher:
    """Keeps what is sent once the gate is open; `errors` come first."""

    def __init__(self) -> None:
        self.sent: list[Output] = []
        self.sends = 0
        self.errors: list[BaseException] = []
        self.refused: list[BaseException] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def send(self, producer: Any, outputs: Iterable[Output]) -> list[asyncio.Future[Any]]:
        """One future, as a batch has."""
        self.sends += 1
        await self.gate.wait()
        if self.errors:
            raise self.errors.pop()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self.refused:
            future.set_exception(self.refused.pop())
        else:
            self.sent += outputs
            future.set_result(None)
        return [future]


@pytest.fixture
def batcher() -> FakeBatcher:
    """The sink's batcher."""
    return FakeBatcher()


@pytest.fixture
async def sink(monkeypatch: pytest.MonkeyPatch, batcher: FakeBatcher) -> EventSink:
    """A sink that is not started."""
    monkeypatch.setattr(event_sink, "AIOKafkaProducer", FakeProducer)
    monkeypatch.setattr(event_sink, "LINGER_S", 0.001)
    monkeypatch.setattr(event_sink, "CHECK_S", 0.02)
    monkeypatch.setattr(event_sink, "RENEW_PAUSE_S", 0.005)
    monkeypatch.setattr(FakeProducer, "started", 0)
    monkeypatch.setattr(FakeProducer, "away", 0)
    made = EventSink(options={}, prefix="t.", idempotent=False)
    made.batcher = cast("Any", batcher)
    return made


def event(number: int) -> Output:
    """An event told apart by its key."""
    return Output("events", str(number).encode(), b"{}")


def numbers(outputs: Iterable[Output]) -> list[int]:
    """Which ones they are."""
    return [int(output.key or b"-1") for output in outputs]


async def test_events_go_out_in_order_and_together(sink: EventSink, batcher: FakeBatcher) -> None:
    """A hundred in one go are few sends, and none is missing."""
    await sink.start()
    for number in range(100):
        sink.emit(event(number))
    await until(lambda: len(batcher.sent) == 100)
    assert numbers(batcher.sent) == list(range(100))
    assert batcher.sends == 1
    await sink.stop()
    assert sink.dropped == 0


async def test_a_full_buffer_drops_the_oldest_and_counts(
    sink: EventSink, batcher: FakeBatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker is away: the newest ten stay, everything older is counted as lost."""
    monkeypatch.setattr(event_sink, "BUFFER", 10)
    for number in range(25):
        sink.emit(event(number))
    assert sink.dropped == 15
    await sink.start()
    await until(lambda: batcher.sent)
    assert numbers(batcher.sent) == list(range(15, 25))
    await sink.stop()
    assert sink.dropped == 15


async def test_what_is_withdrawn_is_not_sent(
    sink: EventSink, batcher: FakeBatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that waits under the key, oldest first; it makes room for others, and what is on its way is not taken back."""
    monkeypatch.setattr(event_sink, "BUFFER", 4)
    first, second = event(1), event(1)
    for output in (event(0), first, event(2), second):
        sink.emit(output)
    withdrawn = sink.withdraw(b"1")
    assert [id(output) for output in withdrawn] == [id(first), id(second)]
    assert sink.withdraw(b"1") == sink.withdraw(b"nothing") == []
    sink.emit(event(3))
    sink.emit(event(4))
    assert sink.dropped == 0
    await sink.start()
    await until(lambda: batcher.sent)
    assert numbers(batcher.sent) == [0, 2, 3, 4]
    assert sink.withdraw(b"0") == []
    await sink.stop()


async def test_a_full_buffer_drops_the_oldest_of_the_oldest_key(
    sink: EventSink, batcher: FakeBatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One at a time, also where a key has several."""
    monkeypatch.setattr(event_sink, "BUFFER", 3)
    kept = event(0)
    for output in (event(0), kept, event(1), event(2)):
        sink.emit(output)
    assert sink.dropped == 1
    assert [id(output) for output in sink.withdraw(b"0")] == [id(kept)]
    for number in (3, 4):
        sink.emit(event(number))
    assert sink.dropped == 2
    await sink.start()
    await until(lambda: batcher.sent)
    assert numbers(batcher.sent) == [2, 3, 4]
    await sink.stop()


@pytest.mark.parametrize("where", ["errors", "refused"])
async def test_what_the_broker_refuses_is_counted_and_the_next_goes_out(
    sink: EventSink, batcher: FakeBatcher, where: str
) -> None:
    """Whether the send fails or the batch does: best effort, and the sink lives on."""
    getattr(batcher, where).append(KafkaError("away"))
    await sink.start()
    sink.emit(event(0))
    sink.emit(event(1))
    await until(lambda: sink.dropped == 2)
    sink.emit(event(2))
    await until(lambda: batcher.sent)
    assert numbers(batcher.sent) == [2]
    await sink.stop()


async def test_a_producer_that_failed_is_replaced(sink: EventSink, batcher: FakeBatcher) -> None:
    """What comes while no broker is there waits for the next one; the old one is stopped."""
    await sink.start()
    first = cast("Any", sink.producer)
    batcher.refused.append(OutOfOrderSequenceNumber())
    FakeProducer.away = 3
    sink.emit(event(0))
    await until(lambda: sink.dropped == 1)
    sink.emit(event(1))
    await until(lambda: batcher.sent)
    assert numbers(batcher.sent) == [1]
    assert (FakeProducer.started, FakeProducer.away) == (2, 0)
    assert sink.producer is not first
    await until(lambda: first.stopped == 1)
    await sink.stop()


async def test_a_producer_whose_task_has_ended_is_replaced_unasked(sink: EventSink) -> None:
    """Others use it as well; they cannot wait for the next event."""
    await sink.start()
    first = cast("Any", sink.producer)
    first.end_task()
    await until(lambda: sink.producer is not first)
    assert FakeProducer.started == 2
    await sink.stop()


async def test_stop_sends_what_is_left(sink: EventSink, batcher: FakeBatcher) -> None:
    """Also what came while the last batch was on its way; then the producer is stopped."""
    await sink.start()
    batcher.gate.clear()
    sink.emit(event(0))
    await until(lambda: batcher.sends)
    sink.emit(event(1))
    stopping = asyncio.create_task(sink.stop())
    await asyncio.sleep(0)
    batcher.gate.set()
    await stopping
    assert numbers(batcher.sent) == [0, 1]
    assert cast("Any", sink.producer).stopped == 1


async def test_stop_is_bounded(sink: EventSink, batcher: FakeBatcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that does not answer keeps no worker from leaving."""
    monkeypatch.setattr(event_sink, "FLUSH_TIMEOUT_S", 0.02)
    await sink.start()
    batcher.gate.clear()
    sink.emit(event(0))
    await until(lambda: batcher.sends)
    async with asyncio.timeout(5):
        await sink.stop()
    assert batcher.sent == []


async def test_the_producer_is_there_once_started(sink: EventSink) -> None:
    """Before that, a clear error."""
    with pytest.raises(RuntimeError, match="not started"):
        _ = sink.producer
    await sink.start()
    assert isinstance(sink.producer, FakeProducer)
    await sink.stop()
