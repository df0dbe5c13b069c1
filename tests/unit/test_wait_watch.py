"""Why no call can begin, and for how long a call waits for the end of each reason."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from streams.client import watch
from streams.client.errors import ClientError, KafkaUnreachable, NoWorker
from streams.client.watch import WaitWatch
from streams.settings import Settings

pytestmark = pytest.mark.virtual_time

GIVE_UP_S = 30.0


class Call:
    """A call that waits since the beginning."""

    def __init__(self) -> None:
        self.since = asyncio.get_running_loop().time()
        self.error: ClientError | None = None

    def fail(self, error: ClientError) -> None:
        """It is given up."""
        self.error = self.error or error


class World:
    """Whether Kafka answers and a worker is there; one call waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kafka = self.worker = True
        self.delivered = 0
        self.call = Call()
        monkeypatch.setattr(watch, "connect", self._connect)
        monkeypatch.setattr(watch, "workers_present", self._workers_present)
        reader: Any = self
        self.watch = WaitWatch(Settings(), [reader], GIVE_UP_S)
        self.watch.start()

    async def _connect(self, *_: object) -> None:
        if not self.kafka:
            raise KafkaUnreachable("connection refused")

    async def _workers_present(self, *_: object) -> bool:
        return self.worker

    def waiting(self) -> list[Call]:
        """As a reader of results has them."""
        return [self.call]


async def test_each_reason_has_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Brokers that were away for 25 s leave workers, which have lost their group, the whole time to come back."""
    world = World(monkeypatch)
    world.kafka = world.worker = False
    await asyncio.sleep(25)
    world.kafka = True
    await asyncio.sleep(25)
    assert world.call.error is None
    world.worker = True
    await asyncio.sleep(60)
    assert world.call.error is None
    await world.watch.close()


@pytest.mark.parametrize(("kafka", "error"), [(False, KafkaUnreachable), (True, NoWorker)])
async def test_a_reason_that_stays_fails_the_call(
    monkeypatch: pytest.MonkeyPatch, kafka: bool, error: type[ClientError]
) -> None:
    """After the time, and not before."""
    world = World(monkeypatch)
    world.kafka, world.worker = kafka, False
    await asyncio.sleep(GIVE_UP_S)
    assert world.call.error is None
    await asyncio.sleep(4 * watch.LOOK_EVERY_S)
    assert type(world.call.error) is error
    await world.watch.close()
