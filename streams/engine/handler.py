"""The interface of the code that processes a partition's records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from aiokafka.structs import ConsumerRecord

from streams.rules.records import Output
from streams.rules.source_record import SourceRecord


class Handler(Protocol):
    """Processes the records of one partition. Every record taken must end in one `partition.complete`."""

    def room(self, source: str) -> bool:
        """Whether another record of topic `source` may be taken now."""
        ...

    def process(self, source: str, record: ConsumerRecord) -> None:
        """Work on a record of topic `source` (short name)."""
        ...

    def explain(self, source: str, offset: int) -> dict[str, Any] | None:
        """What a record in flight waits for, for people; None if unknown."""
        ...

    def unblock(self, source: str, offsets: Sequence[int]) -> None:
        """These records hold back the commit of `source`: let each end soon, and its work continue elsewhere."""
        ...

    def changes(self) -> list[Output]:
        """What changed in the handler's state since the last call, for the next commit."""
        ...

    def hold(self) -> None:
        """Start nothing new; calls under way may finish."""
        ...

    def running(self) -> int:
        """How many calls are under way."""
        ...

    def close(self) -> None:
        """Cancel the calls under way."""
        ...


def source_record_of(source: str, record: ConsumerRecord) -> SourceRecord:
    """A record of topic `source` (short name), as a consumer returned it."""
    return SourceRecord(
        source, record.partition, record.offset, record.key, record.value, record.headers, record.timestamp
    )
