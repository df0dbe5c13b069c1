"""Points that wait until their schema is fetched; those of other partitions do not wait.

In: the result of a fetch. Out: the same without a partition's records from the first one with an unknown schema on, and
with them as soon as it is known. They wait in memory: a partition with held records is not fetched from.
"""

from __future__ import annotations

import asyncio
from typing import Any

from faust.types import TP

from streams.schema_registry import SchemaRegistry, registry


class HeldRecords:
    """The held records of one consumer."""

    def __init__(self) -> None:
        self._held: dict[TP, list[Any]] = {}
        self._learning: dict[TP, asyncio.Task[None]] = {}

    def __contains__(self, tp: TP) -> bool:
        return tp in self._held

    def without(self, active: set[TP] | None) -> set[TP] | None:
        """The partitions to fetch from; None: all."""
        return active - self._held.keys() if active and self._held else active

    def exchange(self, records: dict[TP, Any], topic: str) -> None:
        """Hold back the records of `topic` that must wait, and add those that need not wait any more."""
        schemas = registry()
        if schemas is None:
            return
        for tp in [tp for tp, task in self._learning.items() if task.done()]:
            del self._learning[tp]
            records[tp] = [*self._held.pop(tp), *records.get(tp, ())]
        for tp in [tp for tp in records if tp.topic == topic]:
            if tp in self._held:
                self._held[tp] += records.pop(tp)
            else:
                self._split(schemas, tp, records)

    def _split(self, schemas: SchemaRegistry, tp: TP, records: dict[TP, Any]) -> None:
        found = list(records[tp])
        at = schemas.first_unknown(found)
        if at is None:
            return
        self._held[tp] = found[at:]
        self._learning[tp] = asyncio.create_task(schemas.learn(found[at:]), name=f"schema-of-{tp.topic}-{tp.partition}")
        del records[tp]
        if at:
            records[tp] = found[:at]

    def clear(self) -> None:
        """Drop them: they will be read again, here or elsewhere."""
        for task in self._learning.values():
            task.cancel()
        self._held.clear()
        self._learning.clear()
