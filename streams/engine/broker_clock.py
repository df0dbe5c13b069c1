"""The time as the Kafka brokers have it, on which machines with different clocks agree.

In: this machine's clock, and the time a broker stamped on one of our records. Out: epoch milliseconds that agree with
those of every other worker to within a round trip. Deadlines, pauses and open circuits travel between workers as times;
by the machines' own clocks, a worker a minute ahead would end every task that moves to it.

It measures by writing a tombstone at intervals to a topic whose records the broker stamps (`LogAppendTime`). On a topic
without that setting the difference stays unknown, and this machine's clock is used unchanged.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from aiokafka.errors import KafkaError

log = structlog.get_logger(__name__)

PROBE_S = 60.0
PROBE_TIMEOUT_S = 10.0
PROBE_KEY = b"clock"
NEGLIGIBLE_MS = 500
"""Differences below this may be round trips, and are not corrected."""
REPORTED_MS = 5_000
MAX_ROUND_TRIP_MS = 2_000
LOG_APPEND_TIME = 1


def wall_ms() -> int:
    """This machine's clock, epoch milliseconds."""
    return time.time_ns() // 1_000_000


class BrokerClock:
    """`send(key)`: writes a tombstone under `key` and returns aiokafka's `RecordMetadata`."""

    def __init__(self, send: Callable[[bytes], Awaitable[Any]], local_ms: Callable[[], int] = wall_ms) -> None:
        self._send = send
        self._local_ms = local_ms
        self._reported = False
        self.skew_ms = 0
        """How far this machine is ahead of the brokers; 0 while unknown or negligible."""

    def now_ms(self) -> int:
        """Epoch milliseconds."""
        return self._local_ms() - self.skew_ms

    async def run(self) -> None:
        """Measure again and again, until cancelled."""
        while True:
            await asyncio.sleep(PROBE_S)
            await self.measure()

    async def measure(self) -> None:
        """Measure once. A failed or too slow, hence inexact, measurement changes nothing."""
        before = self._local_ms()
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                stamped = await self._send(PROBE_KEY)
        except (KafkaError, TimeoutError, OSError) as error:
            log.debug("the brokers' clock could not be asked", error=repr(error))
            return
        after = self._local_ms()
        if stamped.timestamp_type != LOG_APPEND_TIME or not 0 <= after - before <= MAX_ROUND_TRIP_MS:
            return
        skew_ms = (before + after) // 2 - stamped.timestamp
        self.skew_ms = skew_ms if abs(skew_ms) >= NEGLIGIBLE_MS else 0
        self._report()

    def _report(self) -> None:
        large = abs(self.skew_ms) >= REPORTED_MS
        if large and not self._reported:
            log.warning(describe_skew(self.skew_ms))
        self._reported = large


def describe_skew(skew_ms: int) -> str:
    """The difference as a sentence.

    >>> describe_skew(45_100)
    "this machine's clock is 45.1 s ahead of the Kafka brokers' (corrected; synchronize it, for example by NTP)"
    """
    direction = "ahead of" if skew_ms > 0 else "behind"
    return (
        f"this machine's clock is {abs(skew_ms) / 1000:.1f} s {direction} the Kafka brokers'"
        " (corrected; synchronize it, for example by NTP)"
    )
