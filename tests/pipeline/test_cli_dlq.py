"""`parallax dlq` against the embedded broker: letters listed, shown and sent back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.structs import ConsumerRecord

from schemas.topics import full_name
from streams.broker.client import catalog
from streams.broker.dlq_reader import last_offsets, read_until
from streams.broker.kafka import client_options, start
from streams.broker.topic_feed import TopicFeed, read_all
from streams.rules.records import Output, Recorder
from streams.rules.source_record import SourceRecord
from tests.support.cli import Cli
from tests.support.cli import cli as cli
from tests.support.cli import ready as ready

NOW_MS = 1_795_354_620_123
TIME = "2026-11-22T13:37:00.123Z"


@asynccontextmanager
async def producing(cli: Cli) -> AsyncIterator[AIOKafkaProducer]:
    """A producer for the block."""
    producer = AIOKafkaProducer(**client_options(cli.settings), max_request_size=2_000_000)
    await start(producer)  # closes it when the test ends in the middle of this
    try:
        yield producer
    finally:
        await producer.stop()


def refused(cli: Cli, topic: str, offset: int, value: bytes | None, **more: Any) -> Output:
    """The letter dispatch writes of a record."""
    recorder = Recorder(app_id="app", processor="dispatch", prefix=cli.settings.topic_prefix, group="app-dispatch")
    letter = SourceRecord(
        topic, 1, offset, more.get("key", b"a1"), value, more.get("headers", (("mine", b"\xff\x00"),))
    )
    return recorder.dead_letter(letter, more.get("stage", "decode"), more.get("reason", "value: is not JSON"), NOW_MS)[
        0
    ]


async def lay(cli: Cli, outputs: Sequence[Output], partition: int = 0) -> None:
    """Letters on their topics, those of one call in one batch where they share a topic."""
    async with producing(cli) as producer:
        sent = [
            await producer.send(
                full_name(output.topic, cli.settings.topic_prefix),
                value=output.value,
                key=output.key,
                headers=output.headers,
                partition=partition,
            )
            for output in outputs
        ]
        await asyncio.gather(*sent)


async def records(cli: Cli, topic: str) -> list[ConsumerRecord]:
    """What lies on a topic."""
    return [record async for record in read_all(cli.settings, topic)]


async def test_no_letters_are_an_empty_list(ready: Cli) -> None:
    """Exit 0; stdout is a table without rows, an empty array, nothing."""
    table, json, jsonl, one = await asyncio.gather(
        ready("dlq", "ls"),
        ready("dlq", "ls", "-o", "json"),
        ready("dlq", "ls", "-o", "jsonl"),
        ready("dlq", "ls", "tasks"),
    )
    assert [ended.code for ended in (table, json, jsonl, one)] == [0, 0, 0, 0]
    assert table.out.split() == ["PLACE", "FROM", "TIME", "STAGE", "REASON"]
    assert (json.lines(), jsonl.out) == ([[]], "")
    assert "no dead letters" in table.err
    nothing = await ready("dlq", "replay", "--all")
    assert (nothing.code, nothing.out) == (0, "")


async def test_ls_tells_where_from_when_and_why(ready: Cli) -> None:
    """All topics or one, ours and others', bounded by --max."""
    prefix = ready.settings.topic_prefix
    foreign = Output(
        "dlq.sink", b"k", b"v", [("__connect.errors.topic", b"orders"), ("__connect.errors.exception.message", b"no")]
    )
    await lay(ready, [refused(ready, "tasks", 41, b"{nope", reason="two\nlines \x1b[2J"), foreign])
    await lay(ready, [refused(ready, "data-points", 7, b"{}", stage="validate")], partition=1)
    listed = await ready("dlq", "ls", "-o", "jsonl")
    rows = {row["place"]: row for row in listed.lines()}
    tasks = rows[f"dlq.{prefix}tasks/0/0"]
    assert listed.code == 0
    assert set(rows) == {f"dlq.{prefix}{place}" for place in ("tasks/0/0", "data-points/1/0", "sink/0/0")}
    assert (tasks["from"], tasks["time"], tasks["stage"]) == (f"{prefix}tasks/1/41", TIME, "decode")
    assert (tasks["family"], tasks["key"], tasks["bytes"], tasks["replayed"]) == ("parallax", "a1", 5, 0)
    assert (rows[f"dlq.{prefix}sink/0/0"]["from"], rows[f"dlq.{prefix}sink/0/0"]["reason"]) == ("orders/?/?", "no")
    one = await ready("dlq", "ls", "data-points", "-o", "json")
    assert [row["stage"] for row in orjson.loads(one.out)] == ["validate"]
    table = await ready("dlq", "ls", "tasks")
    assert f"{prefix}tasks/1/41  {TIME}  decode  two lines \\x1b[2J" in table.out
    assert len((await ready("dlq", "ls", "--max", "2", "-o", "jsonl")).lines()) == 2
    unknown = await ready("dlq", "ls", "nosuch")
    assert (unknown.code, unknown.out) == (2, "")
    assert "no such dead-letter topic" in unknown.err


@pytest.mark.parametrize(
    ("value", "kind", "shown", "text"),
    [
        (b'{"a":[1]}', "json", {"a": [1]}, '{\n  "a": [\n    1\n  ]\n}'),
        (b"{n\x1b[2Jope", "text", "{n\x1b[2Jope", "{n\\x1b[2Jope"),
        (b"\xff\x00", "hex", "ff00", "ff00"),
        (None, "none", None, "(none)"),
    ],
)
async def test_show_has_everything(ready: Cli, value: bytes | None, kind: str, shown: Any, text: str) -> None:
    """Headers and the value as JSON, text or hexadecimal digits."""
    await lay(ready, [refused(ready, "tasks", 41, value)])
    as_json, as_text = await asyncio.gather(
        ready("dlq", "show", "tasks/0/0", "-o", "jsonl"),
        ready("dlq", "show", f"dlq.{ready.settings.topic_prefix}tasks/0/0"),
    )
    (found,) = as_json.lines()
    assert (found["valueIs"], found["value"], found["stage"]) == (kind, shown, "decode")
    assert {"name": "mine", "value": "ff00"} in found["headers"]
    assert {"name": "__dlq.errors.offset", "value": "41"} in found["headers"]
    assert as_text.out.endswith(f"value:\n{text}\n")
    assert "reason: value: is not JSON\n" in as_text.out


async def test_each_letter_of_a_batch_is_found_and_none_beyond(ready: Cli) -> None:
    """Also the last ones, whose offsets the embedded broker's end does not cover; exit 4 where there is none."""
    await lay(ready, [refused(ready, "tasks", n, b"%d" % n) for n in range(5)])
    shown = await asyncio.gather(*(ready("dlq", "show", f"tasks/0/{n}", "-o", "jsonl") for n in (0, 3, 4)))
    assert [ended.lines()[0]["value"] for ended in shown] == [0, 3, 4]
    places = ("tasks/0/5", "tasks/1/0", "tasks/9/0", "nosuch/0/0", "plans/0/0", "tasks/0/999999999999")
    for ended in await asyncio.gather(*(ready("dlq", "show", place) for place in places)):
        assert (ended.code, ended.out) == (4, "")
        assert "there is no dead letter" in ended.err


async def test_replay_sends_back_what_came(ready: Cli) -> None:
    """Bytes, key and own headers as they were, the marks gone, the replays counted; --dry-run sends nothing."""
    again = (("ce_id", b"e1"), ("parallax-replayed", b"2"), ("mine", b"\xff\x00"))
    await lay(ready, [refused(ready, "tasks", 0, b"x"), refused(ready, "parked", 41, b'{"id":1}', headers=again)])
    dry = await ready("dlq", "replay", "parked/0/0", "--dry-run")
    assert (dry.code, "would be replayed to" in dry.out) == (0, True)
    assert await records(ready, "tasks") == []
    done = await ready("dlq", "replay", "parked/0/0", "parked/0/0", "-o", "jsonl")
    prefix = ready.settings.topic_prefix
    assert (done.code, len(done.lines())) == (0, 1)
    assert done.lines()[0] == {
        "place": f"dlq.{prefix}parked/0/0",
        "to": f"{prefix}tasks",
        "status": "replayed",
        "count": 3,
        "reason": None,
    }
    (record,) = await records(ready, "tasks")
    assert (record.key, record.value) == (b"a1", b'{"id":1}')
    assert record.headers == (("ce_id", b"e1"), ("mine", b"\xff\x00"), ("parallax-replayed", b"3"))


async def test_a_place_without_a_letter_stops_all(ready: Cli) -> None:
    """Exit 4, and the letters that are there are not sent."""
    await lay(ready, [refused(ready, "tasks", 0, b"x")])
    ended = await ready("dlq", "replay", "tasks/0/0", "tasks/0/1")
    assert (ended.code, ended.out) == (4, "")
    assert "tasks/0/1; nothing was sent" in ended.err
    assert await records(ready, "tasks") == []


async def test_what_cannot_go_back_is_told_and_the_rest_goes(ready: Cli) -> None:
    """Exit 1: a value that was left out, no origin, a topic that is not there (and is not made)."""
    large = refused(ready, "tasks", 3, b"x" * 70_000).fallback
    assert large is not None
    lost = Output("dlq.tasks", b"k", b"v", [("__dlq.errors.topic", b"gone.orders")])
    blank = Output("dlq.tasks", b"k", b"v", [("a", b"b")])
    await lay(ready, [large, refused(ready, "tasks", 4, b"good"), lost, blank])
    ended = await ready("dlq", "replay", "--all", "tasks", "-o", "json")
    assert ended.code == 1
    rows = orjson.loads(ended.out)
    assert [row["status"] for row in rows] == ["failed", "replayed", "failed", "failed"]
    assert "70000 bytes was too large" in rows[0]["reason"]
    assert "gone.orders" in rows[2]["reason"]
    assert "no header names" in rows[3]["reason"]
    assert [record.value for record in await records(ready, "tasks")] == [b"good"]
    assert "gone.orders" not in await catalog(ready.settings)


async def test_all_ends_although_every_letter_comes_back(ready: Cli) -> None:
    """With a pipeline that refuses each again at once, each dead letter there at the start is sent once."""

    async def refuse_again() -> None:
        offset = 100
        async for record in reader.follow():
            offset += 1
            await lay(ready, [refused(ready, "tasks", offset, record.value, headers=record.headers)], offset % 2)

    await lay(ready, [refused(ready, "tasks", n, b"%d" % n) for n in range(6)])
    async with TopicFeed(ready.settings, "tasks") as reader:
        refusing = asyncio.create_task(refuse_again())
        try:
            ended = await ready("dlq", "replay", "--all", "-o", "jsonl")
        finally:
            refusing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await refusing
    assert ended.code == 0
    assert [row["count"] for row in ended.lines()] == [1] * 6
    assert sorted(record.value or b"" for record in await records(ready, "tasks")) == [b"%d" % n for n in range(6)]


async def test_letters_that_come_later_are_not_in_all(ready: Cli) -> None:
    """The bound is where each partition ended at the start, in the middle of what is read then."""
    topic = f"dlq.{ready.settings.topic_prefix}tasks"
    await lay(ready, [refused(ready, "tasks", n, b"first") for n in range(3)])
    last = await last_offsets(ready.settings, [topic])
    for partition in (0, 1):
        await lay(ready, [refused(ready, "tasks", n, b"later") for n in range(3)], partition)
    found = [(str(place), record.value) async for place, record in read_until(ready.settings, last)]
    assert found == [(f"{topic}/0/{n}", b"first") for n in range(3)]


@pytest.mark.parametrize(
    "arguments", ["replay", "replay --all tasks plans", "replay --all tasks/0/0", "replay tasks", "show tasks/0"]
)
async def test_usage(ready: Cli, arguments: str) -> None:
    """One line and exit 2 for what does not say which letter."""
    ended = await ready("dlq", *arguments.split())
    assert (ended.code, ended.out, len(ended.err.splitlines())) == (2, "", 1)
