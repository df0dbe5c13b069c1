"""A partition whose offsets are there and whose state is not says so when it opens."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from structlog.testing import capture_logs

from streams.engine import group
from streams.engine.config import EngineConfig
from streams.engine.kept_offsets import KeptOffsets
from streams.engine.partition_processor import PartitionProcessor
from streams.rules.engine.start_offsets import KeptOffset

KEPT = KeptOffsets("app-dispatch", "state", lambda: 1_700_000_000_000)
TP = TopicPartition("t.tasks", 2)


async def opened(
    monkeypatch: pytest.MonkeyPatch, committed: int | None, rows: list[bytes], has_state: bool = True
) -> list[str]:
    """What the worker logs as an error."""

    async def offsets(*_: Any) -> dict[TopicPartition, OffsetAndMetadata]:
        return {} if committed is None else {TP: OffsetAndMetadata(committed, "")}

    async def ends(tps: list[TopicPartition]) -> dict[TopicPartition, int]:
        return {TP: 9 if TP in tps else 0}

    async def begins(tps: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(tps, 0)

    async def state() -> list[bytes]:
        return rows

    monkeypatch.setattr(group, "committed_offsets", offsets)
    processor = SimpleNamespace(number=2, partitions={"tasks": TP}, kept=KEPT if has_state else None, is_added=False)
    config = EngineConfig({}, "t.", "app-dispatch", ("tasks",), None, 6.0, 1.0, 1.0, "state", False)
    consumer: Any = SimpleNamespace(beginning_offsets=begins, end_offsets=ends)
    with capture_logs() as logs:
        heads, _ = await group.find_start_offsets(config, consumer, cast("PartitionProcessor", processor), state, {})
    assert heads["tasks"].offset == (committed or 0)
    return [f"{row['topic']}/{row['partition']}" for row in logs if row["log_level"] == "error"]


async def test_lost_state_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """By topic and partition; it starts where it was all the same. Rows of other groups are not its state."""
    assert await opened(monkeypatch, 7, []) == ["t.state/2"]
    foreign = KeptOffsets("other-dispatch", "state", lambda: 0).record(2, {"tasks": KeptOffset(7)})
    assert await opened(monkeypatch, 7, [foreign.value or b""]) == ["t.state/2"]


async def test_a_partition_that_is_new_or_has_its_state_reports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does one of a role without state."""
    own = KEPT.record(2, {"tasks": KeptOffset(7)}).value or b""
    assert await opened(monkeypatch, 7, [own]) == []
    assert await opened(monkeypatch, None, []) == []
    assert await opened(monkeypatch, 7, [], has_state=False) == []
