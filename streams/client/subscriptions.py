"""Subscriptions: results, events, anomalies and aggregates as they are written, read committed, without a consumer
group.

Each iterator begins at its first `anext`, at the end of its topic or at `since`, and continues until it is closed.
Unreadable records are skipped and logged. When the client is closed, iterators raise `ClientClosed`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any, TypeVar, get_args

from schemas.codec import Headers, Rejected, decode
from schemas.messages import Aggregate, Anomaly, Event, EventType, Interval, ResultStatus, Severity
from streams.broker.topic_feed import TopicFeed
from streams.client.connection import kafka_errors
from streams.client.errors import InvalidTask
from streams.client.result import TaskResult, read_result
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
    require_open: Callable[[], None],
) -> AsyncGenerator[M]:
    """The wanted messages of a topic. Raises `ClientError` on first use only, and the errors of `require_open` any time."""
    require_open()
    begin_ms = None if since is None else since_ms(since, round(time.time() * 1000))
    feed = TopicFeed(settings, topic, since_ms=begin_ms)
    async with kafka_errors(settings):
        await feed.open()
    try:
        while True:
            records = await feed.poll()
            require_open()
            for record in records:
                if record.value is None:
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


_SEVERITIES: tuple[Severity, ...] = ("low", "medium", "high")


def _check(name: str, value: str | None, known: tuple[str, ...]) -> None:
    """Raises `InvalidTask` for a filter value that no record can have."""
    if value is not None and value not in known:
        raise InvalidTask(f"{name}: must be one of {', '.join(known)}, not {value!r}")


class Subscriptions:
    """The part of a client that follows the pipeline's output. A filter that no record can match raises
    `InvalidTask`.
    """

    settings: Settings

    def _require_open(self) -> None:
        raise NotImplementedError

    def results(
        self, *, agent: str | None = None, status: ResultStatus | None = None, since: Since | None = None
    ) -> AsyncGenerator[TaskResult[Any]]:
        """Results of all tasks, from now on or from `since`: a time, or a duration before now ("1h")."""
        _check("status", status, get_args(ResultStatus))

        def wanted(result: TaskResult[Any]) -> bool:
            return agent in (None, result.agent_id) and status in (None, result.status)

        return subscribe(self.settings, "results", read_result, wanted, since, self._require_open)

    def events(self, *types: str, since: Since | None = None) -> AsyncGenerator[Event]:
        """Lifecycle events whose type begins with one of `types`: `client.events("task:", "circuit:open")`."""
        for begin in types:
            if not any(known.startswith(begin) for known in get_args(EventType)):
                raise InvalidTask(f"types: no event's type begins with {begin!r}")

        def wanted(event: Event) -> bool:
            return not types or event.type.startswith(types)

        return subscribe(self.settings, "events", partial(decode, Event), wanted, since, self._require_open)

    def anomalies(
        self, *, agent: str | None = None, min_severity: Severity = "low", since: Since | None = None
    ) -> AsyncGenerator[Anomaly]:
        """Anomalies as they fire and resolve, of at least this severity."""
        _check("min_severity", min_severity, _SEVERITIES)
        least = _SEVERITIES.index(min_severity)

        def wanted(anomaly: Anomaly) -> bool:
            return agent in (None, anomaly.agent_id) and _SEVERITIES.index(anomaly.severity) >= least

        return subscribe(self.settings, "anomalies", partial(decode, Anomaly), wanted, since, self._require_open)

    def aggregates(
        self, *, agent: str | None = None, interval: Interval | None = None, since: Since | None = None
    ) -> AsyncGenerator[Aggregate]:
        """Windows of agents' statistics, each revision as it is written."""
        _check("interval", interval, get_args(Interval))

        def wanted(window: Aggregate) -> bool:
            return agent in (None, window.agent_id) and interval in (None, window.interval)

        return subscribe(self.settings, "aggregates", partial(decode, Aggregate), wanted, since, self._require_open)
