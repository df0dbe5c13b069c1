"""The clock that workers agree on: measured against what a broker stamped, and corrected."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError

from streams.engine.broker_clock import LOG_APPEND_TIME, BrokerClock

BROKER_MS = 1_800_000_000_000


class Rig:
    """A machine whose clock is ahead of the broker's by `skew_ms`, with this much time between request and answer."""

    def __init__(self, skew_ms: int, round_trip_ms: int = 10, kind: int = LOG_APPEND_TIME) -> None:
        self.skew_ms, self.round_trip_ms, self.kind = skew_ms, round_trip_ms, kind
        self.broker_ms = BROKER_MS
        self.error: Exception | None = None
        self.clock = BrokerClock(self.send, self.local_ms)

    def local_ms(self) -> int:
        return self.broker_ms + self.skew_ms

    async def send(self, key: bytes) -> Any:
        assert key == b"clock"
        if self.error is not None:
            raise self.error
        self.broker_ms += self.round_trip_ms
        return SimpleNamespace(timestamp_type=self.kind, timestamp=self.broker_ms - self.round_trip_ms // 2)


@pytest.mark.parametrize("skew_ms", [45_000, -45_000, 3_600_000, 1000])
async def test_a_clock_that_is_off_is_corrected(skew_ms: int) -> None:
    """To within a round trip."""
    rig = Rig(skew_ms)
    assert rig.clock.now_ms() == rig.local_ms()
    await rig.clock.measure()
    assert abs(rig.clock.now_ms() - rig.broker_ms) <= rig.round_trip_ms


async def test_small_differences_are_left_alone() -> None:
    """They are no more than round trips."""
    rig = Rig(100)
    await rig.clock.measure()
    assert rig.clock.skew_ms == 0


@pytest.mark.parametrize("fields", [{"kind": 0}, {"round_trip_ms": 5000}], ids=["topic without stamps", "slow answer"])
async def test_what_cannot_be_measured_changes_nothing(fields: dict[str, int]) -> None:
    """The producer's own timestamp says nothing; nor does an answer that took seconds."""
    rig = Rig(45_000, **fields)
    await rig.clock.measure()
    assert rig.clock.skew_ms == 0


async def test_a_failed_measurement_keeps_the_last_one() -> None:
    """Brokers that are away do not set the clock back."""
    rig = Rig(45_000)
    await rig.clock.measure()
    known = rig.clock.skew_ms
    rig.error = KafkaConnectionError("away")
    await rig.clock.measure()
    assert rig.clock.skew_ms == known > 0


async def test_a_large_difference_is_logged_once(capsys: pytest.CaptureFixture[str]) -> None:
    """And once more if it comes back."""
    rig = Rig(45_000)
    for _ in range(3):
        await rig.clock.measure()
    rig.skew_ms = 0
    await rig.clock.measure()
    rig.skew_ms = 45_000
    await rig.clock.measure()
    captured = capsys.readouterr()
    assert (captured.out + captured.err).count("ahead of the Kafka brokers'") == 2
