"""Reports what blocks a partition: `dispatch:blocked` when one record holds back a commit for long.

In: the open partitions, checked at intervals. Out: one event for a record that has been at the head for `after_s`, and
again every `after_s` while it stays there. Tasks that wait for their turn hold back a commit on purpose and are left
out. It changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from schemas.topics import full_name
from streams.engine.partition_processor import PartitionProcessor
from streams.rules.records import Output, Recorder

LOOK_S = 5.0


class BlockWatch:
    """Checks `processors()` every few seconds."""

    def __init__(
        self,
        *,
        processors: Callable[[], Iterable[PartitionProcessor]],
        recorder: Recorder,
        emit: Callable[[Output], None],
        wall_ms: Callable[[], int],
        prefix: str,
        after_s: float,
    ) -> None:
        self._processors = processors
        self._recorder = recorder
        self._emit = emit
        self._wall_ms = wall_ms
        self._prefix = prefix
        self._after_ms = after_s * 1000
        self._reported: dict[tuple[str, int], tuple[int, float]] = {}

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.look()

    def look(self) -> None:
        present = set()
        for processor in self._processors():
            for source in processor.ledgers:
                found = processor.blocking(source)
                if found is None or found.get("waits") or found.get("age", 0) < self._after_ms:
                    continue
                place = (source, processor.number)
                present.add(place)
                offset, age_ms = self._reported.get(place, (-1, 0.0))
                if offset == found["offset"] and found["age"] - age_ms < self._after_ms:
                    continue
                self._reported[place] = (found["offset"], found["age"])
                topic = full_name(source, self._prefix)
                data = {"topic": topic, "partition": processor.number, **found}
                tail = f"/{found['offset']}/{found['age']}"
                self._emit(
                    self._recorder.event("dispatch:blocked", f"{topic}/{processor.number}", data, self._wall_ms(), tail)
                )
        for place in [place for place in self._reported if place not in present]:
            del self._reported[place]
