"""The worker's pages are found at the address that is told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest
from aiokafka.structs import TopicPartition
from prometheus_client import CollectorRegistry

from streams.engine.engine import Engine
from streams.engine.event_sink import EventSink
from streams.engine.expired_records import ExpiredRange, ExpiredRecords
from streams.role import EngineRole
from streams.rules.engine.record_ages import RecordAges
from streams.settings import RoleName, Settings
from streams.web import WebServer


class _Role(EngineRole[Any]):
    """A role whose engine only has numbers."""

    def __init__(self, name: RoleName, **numbers: Any) -> None:
        self.name = name
        self.engine = cast("Engine[Any]", SimpleNamespace(log_changes=0, processors={}, ready=True, **numbers))
        self.sink = cast("EventSink", SimpleNamespace(dropped=0))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_the_address_that_is_told_is_a_url(host: str) -> None:
    """Also where it is one of IPv6."""
    web = WebServer(Settings(web_host=host, web_port=0), CollectorRegistry())
    await web.start()
    try:
        async with aiohttp.ClientSession() as session, session.get(web.reachable + "/livez") as answer:
            assert (answer.status, await answer.json()) == (200, {"status": "ok"})
    finally:
        await web.stop()


async def test_consumers_that_were_replaced_are_counted_by_role() -> None:
    """Of the roles that are up; from zero on."""
    registry = CollectorRegistry()
    web = WebServer(Settings(), registry)
    assert registry.get_sample_value("parallax_consumer_renewals_total", {"role": "dispatch"}) is None
    expired, ages = ExpiredRecords(), RecordAges[TopicPartition]()
    web.add(_Role("dispatch", renewals=2, expired=expired, ages=ages))
    web.add(_Role("plans", renewals=0, expired=expired, ages=ages))
    counted = [
        registry.get_sample_value("parallax_consumer_renewals_total", {"role": role}) for role in ("dispatch", "plans")
    ]
    assert counted == [2.0, 0.0]


async def test_expired_records_and_retention_are_shown_by_topic() -> None:
    """Counters begin at zero; a topic that keeps its records forever has no retention."""
    registry = CollectorRegistry()
    web = WebServer(Settings(), registry)
    expired, ages = ExpiredRecords(["t.tasks", "t.parked"]), RecordAges[TopicPartition]()
    web.add(_Role("dispatch", renewals=0, expired=expired, ages=ages))
    expired.committed({TopicPartition("t.tasks", 1): ExpiredRange(5, 9, 4)})
    ages.retention_ms = {"t.tasks": 90_000}

    def values(name: str) -> list[float | None]:
        return [registry.get_sample_value(name, {"topic": topic}) for topic in ("t.tasks", "t.parked")]

    assert values("parallax_expired_records_total") == [4.0, 0.0]
    assert values("parallax_topic_retention_seconds") == [90.0, None]
