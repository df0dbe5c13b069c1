"""Subscriptions: results, events, anomalies and aggregates as they are written, read committed, without a consumer group.

Each iterator begins when it is first asked, at the end of its topic or at `since`, and goes on until it is closed. Records that
cannot be read are passed over and logged.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Callable
from typing import TypeVar

from schemas.codec import Headers, Rejected
from streams.client.connection import kafka_errors
from streams.client.feed import Feed
from streams.client.times import Since, since_ms
from streams.settings import Settings

log = logging.getLogger(__name__)

M = TypeVar("M")
Read = Callable[[bytes | None, Headers], M]


async def subscribe(
    settings: Settings,
    topic: str,
    read: Read[M],
    wanted: Callable[[M], bool],
    since: Since | None,
    key: bytes | None = None,
) -> AsyncGenerator[M]:
    """Messages of a topic that are wanted. `key`: only records that have it. Raises `ClientError` at its beginning alone."""
    begin_ms = None if since is None else since_ms(since, round(time.time() * 1000))
    feed = Feed(settings, topic, since_ms=begin_ms)
    async with kafka_errors(settings):
        await feed.open()
    try:
        while True:
            for record in await feed.poll():
                if record.value is None or (begin_ms is not None and record.timestamp < begin_ms):
                    continue
                if key is not None and record.key != key:
                    continue
                try:
                    message = read(record.value, record.headers)
                except Rejected as error:
                    log.debug("passed over %s offset %d: %s", record.topic, record.offset, error.reason)
                    continue
                if wanted(message):
                    yield message
    finally:
        await feed.close()
