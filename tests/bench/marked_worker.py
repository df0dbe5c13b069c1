"""Runs `parallax` from a source tree; on request notes when each task passes which stage. For `tests.bench.latency`.

    python tests/bench/marked_worker.py TREE MARKS worker --roles dispatch ...

In: `TREE`, the checkout whose code runs (this one or another, for a comparison); `MARKS`, the file for the stages, or `-` for
none; then the command line. Out: one JSON line a task when the worker ends: its id and the wall clock at each stage, seconds.
Production code knows nothing of this: its methods are wrapped here. Wrapping costs about 20 us a task; figures of CPU and the
latencies that count are taken without it.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from time import time
from typing import Any

StageTimes = dict[str, Any]
_REQUESTS = {
    "AddPartitionsToTxnRequest": "partitions",
    "ProduceRequest": "produce",
    "AddOffsetsToTxnRequest": "group",
    "MemberOffsets": "offsets",
    "EndTxnRequest": "end",
}


class Recorder:
    """Tasks by the place of their record; the newest commit of each transactional id."""

    def __init__(self) -> None:
        self.tasks: dict[tuple[str, int, int], StageTimes] = {}
        self.commits: dict[str, StageTimes] = {}

    def mark(self, source: str, number: int, offset: int, stage: str, at: float | None = None) -> None:
        """The first time counts."""
        self.tasks.setdefault((source, number, offset), {}).setdefault(stage, time() if at is None else at)

    def write(self, path: Path) -> None:
        """What was noted of each task."""
        with path.open("w", encoding="utf-8") as file:
            for marks in self.tasks.values():
                if "id" in marks:
                    file.write(json.dumps(marks) + "\n")


def _before(owner: Any, name: str, note: Any) -> None:
    """Call `note` with the arguments of each call of a method, before it."""
    inner = getattr(owner, name)

    @functools.wraps(inner)
    def noted(*args: Any, **kwargs: Any) -> Any:
        note(*args, **kwargs)
        return inner(*args, **kwargs)

    setattr(owner, name, noted)


def _watch_fetching(recorder: Recorder) -> None:
    from aiokafka.consumer.fetcher import FetchResult

    from streams.engine.feed import Feed

    _before(FetchResult, "__init__", lambda self, *_, **__: setattr(self, "fetched_at", time()))
    inner = FetchResult.getall

    def getall(self: Any, max_records: int | None = None) -> Any:
        found = inner(self, max_records)
        for record in found:
            fetched[record.topic, record.partition, record.offset] = self.fetched_at
        return found

    FetchResult.getall = getall
    fetched: dict[tuple[str, int, int], float] = {}

    def accepted(feed: Any, batches: Any) -> None:
        for tp, records in batches.items():
            source = feed._names[tp.topic]
            for record in records:
                at = fetched.pop((tp.topic, tp.partition, record.offset), None)
                recorder.mark(source, tp.partition, record.offset, "fetched", at)
                recorder.mark(source, tp.partition, record.offset, "polled")

    _before(Feed, "_accept", accepted)


def _watch_tasks(recorder: Recorder) -> None:
    from streams.dispatch.processor import DispatchProcessor

    def at_run(stage: str) -> Any:
        return lambda _, run, *__: recorder.mark(run.source, run.record.partition, run.offset, stage)

    _before(DispatchProcessor, "process", lambda _, source, record: recorder.mark(
        source, record.partition, record.offset, "processed"))  # fmt: skip
    _before(DispatchProcessor, "on_first_call", at_run("called"))
    _before(DispatchProcessor, "on_finished", at_run("answered"))
    inner = DispatchProcessor._admit

    def admit(self: Any, source_record: Any, *args: Any, **kwargs: Any) -> Any:
        run = inner(self, source_record, *args, **kwargs)
        recorder.tasks.setdefault((run.source, source_record.partition, run.offset), {})["id"] = run.task_id
        return run

    DispatchProcessor._admit = admit  # type: ignore[method-assign]


def _watch_commits(recorder: Recorder) -> None:
    from aiokafka.client import AIOKafkaClient

    from streams.engine.partition_processor import PartitionProcessor
    from streams.engine.transactor import KafkaTransactor

    collect, run, send = PartitionProcessor._collect, KafkaTransactor.run, AIOKafkaClient.send
    collected: dict[int, list[tuple[str, int, int]]] = {}
    """By partition number; the plans' partitions have numbers too, but their records are no tasks of the bench."""
    _before(
        PartitionProcessor,
        "complete",
        lambda partition, source, offset, *_: recorder.mark(source, partition.number, offset, "completed"),
    )

    def noted(partition: Any, committed: Any) -> Any:
        collected[partition.number] = [(source, partition.number, offset) for source, offset in partition._finished]
        return collect(partition, committed)

    async def timed(transactor: Any, commits: Any, member: Any) -> None:
        marks: StageTimes = {"begun": time()}
        recorder.commits[transactor._id] = marks
        places = [place for commit in commits for place in collected.get(commit.number, ())]
        await run(transactor, commits, member)
        marks |= {"committed": time(), "batch": len(places)}
        for place in places:
            task = recorder.tasks.get(place)
            if task is not None and "begun" not in task:
                task.update(marks)

    async def sent(client: Any, node_id: Any, request: Any, **kwargs: Any) -> Any:
        kind = _REQUESTS.get(type(request).__name__)
        owner = None if kind is None else request._producer[0] if kind == "offsets" else request._transactional_id
        marks = recorder.commits.get(owner or "")
        if marks is None:
            return await send(client, node_id, request, **kwargs)
        marks.setdefault(f"{kind}_sent", time())
        answer = await send(client, node_id, request, **kwargs)
        marks[f"{kind}_done"] = time()
        marks[f"{kind}_times"] = marks.get(f"{kind}_times", 0) + 1
        return answer

    PartitionProcessor._collect = noted  # type: ignore[method-assign]
    KafkaTransactor.run = timed  # type: ignore[method-assign]
    AIOKafkaClient.send = sent


def main() -> None:
    """The command."""
    tree, marks, *words = sys.argv[1:]
    sys.path[0] = tree
    from streams.cli.main import main as parallax

    sys.argv = ["parallax", *words]
    if marks == "-":
        parallax()
        return
    recorder = Recorder()
    _watch_fetching(recorder)
    _watch_tasks(recorder)
    _watch_commits(recorder)
    try:
        parallax()
    finally:
        recorder.write(Path(marks))


if __name__ == "__main__":
    main()
