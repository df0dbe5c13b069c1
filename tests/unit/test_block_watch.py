"""What blocks a partition is told: once when it has lasted, again when it lasts as long again, never for parked records."""

from __future__ import annotations

from typing import Any, cast

import orjson

from streams.dispatch.block_watch import BlockWatch
from streams.engine.partition_processor import PartitionProcessor
from streams.rules.records import Output, Recorder


class Blocked:
    """A partition that says what the test wants."""

    number = 3

    def __init__(self) -> None:
        self.ledgers = {"tasks": None, "parked": None}
        self.found: dict[str, dict[str, Any]] = {}

    def blocking(self, source: str) -> dict[str, Any] | None:
        """As told."""
        return self.found.get(source)


def test_a_record_that_holds_a_commit_back_is_told_now_and_then() -> None:
    """Below the limit nothing; then an event with place, task, agent and reason; then silence until as long again."""
    partition, emitted = Blocked(), list[Output]()
    watch = BlockWatch(
        processors=lambda: [cast("PartitionProcessor", partition)],
        recorder=Recorder(app_id="app", processor="dispatch", prefix="t.", group="g"),
        emit=emitted.append,
        wall_ms=lambda: 0,
        prefix="t.",
        after_s=60.0,
    )
    stuck = {"offset": 7, "taskId": "t7", "agentId": "a", "reason": "calling"}
    for age in (1000, 59_000, 61_000, 90_000, 119_000, 122_000):
        partition.found["tasks"] = {**stuck, "age": age}
        watch.look()
    ages = [orjson.loads(output.value or b"")["data"]["age"] for output in emitted]
    assert ages == [61_000, 122_000]
    event = orjson.loads(emitted[0].value or b"")
    assert event["type"] == "dispatch:blocked"
    assert event["data"] == {"topic": "t.tasks", "partition": 3, **stuck, "age": 61_000}
    partition.found = {"parked": {"offset": 1, "reason": "parked"}}
    watch.look()
    partition.found["tasks"] = {**stuck, "offset": 9, "age": 70_000}
    watch.look()
    assert len(emitted) == 3
