"""Records on `agents` that are no registration, or one that cannot work: on the dead letters with the reason, once."""

from __future__ import annotations

from typing import Any

import pytest

from streams.broker.embedded import EmbeddedBroker
from tests.support.pipeline import pipeline_on, stop
from tests.support.points import read_all
from tests.support.wait import until

pytestmark = [pytest.mark.embedded, pytest.mark.timeout(150)]


async def test_bad_registrations_are_reported(embedded: EmbeddedBroker, prefix: str) -> None:
    """The good one beside them is called; nobody is left to read a worker's log."""
    async with pipeline_on(embedded.bootstrap_servers, prefix, 2) as pipeline:
        worker = await pipeline.start()
        try:
            await pipeline.send(
                "agents",
                [
                    ("bad", {"id": "bad", "endpoint": "http://h", "breaker": {"failureThreshold": 0}}),
                    ("other", {"id": "one", "endpoint": "http://h"}),
                    ("m", {"id": "m", "endpoint": "openai://h/v1"}),
                    ("good", {"id": "good", "endpoint": "http://h"}),
                ],
            )
            wanted = {b"bad": "breaker.failureThreshold", b"other": "id: is 'one'", b"m": "metadata.model"}
            topic = f"dlq.{prefix}agents"

            async def rejected() -> list[Any]:
                found = await read_all(embedded.bootstrap_servers, topic)
                return found if len(found) >= len(wanted) else []

            found = await until(rejected, 60)
            reasons = {record.key: dict(record.headers)["__dlq.errors.message"].decode() for record in found}
            assert len(found) == len(wanted)
            for key, reason in wanted.items():
                assert reason in reasons[key]
            events = [event for event in await pipeline.read("events") if event["type"] == "task:dead-lettered"]
            assert {event["data"]["topic"] for event in events} == {f"{prefix}agents"}
            assert len(events) == len(wanted)
        finally:
            await stop(worker)
