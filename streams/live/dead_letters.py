"""Searches dead letters for the live page: the newest of all topics, and one by its position or by that of its original
record.

In: settings, how far back to search. Out: records. Raises `NotFound` with the reason.
"""

from __future__ import annotations

from contextlib import aclosing
from heapq import heappush, heappushpop
from itertools import count

from aiokafka.structs import ConsumerRecord

from schemas.times import format_time
from schemas.topics import BY_NAME, dead_letter_topics, full_name
from streams.broker.dlq_reader import dlq_topics, look_up
from streams.broker.topic_feed import read_all
from streams.client.errors import NotFound
from streams.rules.broker.dead_letters import MAX_DIGITS, RecordId, dlq_topic, read_dlq_headers
from streams.settings import Settings


async def newest(settings: Settings, since_ms: int, most: int) -> list[ConsumerRecord]:
    """The `most` newest since then, of all topics, newest first."""
    kept: list[tuple[int, int, ConsumerRecord]] = []
    arrival = count()
    existing = await dlq_topics(settings)
    for name in sorted(dead_letter_topics()):
        if full_name(name, settings.topic_prefix) not in existing:
            continue
        async with aclosing(read_all(settings, name, since_ms)) as records:
            async for one in records:
                row = one.timestamp, next(arrival), one
                if len(kept) < most:
                    heappush(kept, row)
                else:
                    heappushpop(kept, row)
    return [record for _, _, record in sorted(kept, reverse=True)]


async def find(settings: Settings, topic: str, partition: str, offset: str, since_ms: int) -> ConsumerRecord:
    """The dead letter at a position of a dead-letter topic, or the newest one of the record at this position of its
    origin.
    """
    if max(len(partition), len(offset)) > MAX_DIGITS:
        raise NotFound("there is no such partition or offset")
    place = int(partition), int(offset)
    prefix = settings.topic_prefix
    name = dlq_topic(topic, prefix)
    short = name.removeprefix(f"dlq.{prefix}")
    if short not in BY_NAME or not BY_NAME[short].dead_letters:
        raise NotFound(f"{topic}: this installation has no dead letters of such a topic")
    if topic == name:
        async with aclosing(look_up(settings, [RecordId(name, *place)])) as found:
            async for _, record in found:
                if record is not None:
                    return record
        raise NotFound(f"{RecordId(name, *place)}: there is no dead letter")
    origin = str(RecordId(full_name(short, prefix), *place))
    last = None
    async with aclosing(read_all(settings, f"dlq.{short}", since_ms)) as records:
        async for one in records:
            if read_dlq_headers(one.headers).origin == origin:
                last = one
    if last is None:
        raise NotFound(f"{origin}: no dead letter of this record since {format_time(since_ms)}; give an earlier since")
    return last
