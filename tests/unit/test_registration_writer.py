"""Registrations are written with everything a record of ours carries, and whatever the brokers do wrong has one name."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest
from aiokafka.errors import KafkaTimeoutError

from schemas.messages import AgentRegistration
from streams.agents import registration_writer
from streams.agents.registration_writer import NotWritten, RegistrationWriter
from streams.rules.agents.gateway_claim import OWN_HEADER, Position
from streams.rules.records import Recorder


class Producer:
    """Keeps what is sent, or fails as told; `hangs`: never answers."""

    def __init__(self, error: Exception | None = None, hangs: bool = False) -> None:
        self.sent: list[tuple[str, Any, dict[str, Any]]] = []
        self._error = error
        self._hangs = hangs

    async def send_and_wait(self, topic: str, value: Any, **more: Any) -> Any:
        """One record; where it lies."""
        if self._error is not None:
            raise self._error
        if self._hangs:
            await asyncio.Event().wait()
        self.sent.append((topic, value, more))
        return SimpleNamespace(partition=3, offset=len(self.sent) - 1)


def writer(producer: Producer, caught_up: list[bool]) -> RegistrationWriter:
    """With a table that only notes that it was caught up with."""

    async def catch_up() -> None:
        caught_up.append(True)

    return RegistrationWriter(
        sink=cast(Any, SimpleNamespace(producer=producer)),
        table=cast(Any, SimpleNamespace(catch_up=catch_up)),
        recorder=Recorder(app_id="app", processor="dispatch", prefix="t.", group="group"),
        prefix="t.",
        wall_ms=lambda: 1_700_000_000_000,
    )


async def test_a_registration_is_a_cloud_event_and_known_here_when_it_is_written() -> None:
    """By its agent's id; a tombstone has no value."""
    producer, caught_up = Producer(), list[bool]()
    agent = AgentRegistration(id="a", endpoint="grpc://h:1", metadata={"region": "eu"})
    await writer(producer, caught_up).write("a", agent)
    await writer(producer, caught_up).write("a", None)
    (topic, value, more), (_, gone, gone_more) = producer.sent
    assert (topic, more["key"]) == ("t.agents", b"a")
    assert AgentRegistration.model_validate(orjson.loads(value)) == agent
    assert {"ce_specversion", "ce_id", "ce_source", "ce_type", "content-type"} <= dict(more["headers"]).keys()
    assert (gone, gone_more["key"]) == (None, b"a")
    assert caught_up == [True, True]


async def test_what_the_gateway_writes_carries_its_mark_and_tells_its_place() -> None:
    """Its order among others is decided by where it lies."""
    producer, caught_up = Producer(), list[bool]()
    assert await writer(producer, caught_up).put("a", None, "gone") == Position(3, 0)
    [(_, _, more)] = producer.sent
    assert dict(more["headers"]) == {OWN_HEADER: b"gone"}
    assert not caught_up


async def test_many_are_written_together_and_then_read_once() -> None:
    """Not one after the other."""
    producer, caught_up = Producer(), list[bool]()
    await writer(producer, caught_up).write_all([(f"a{n}", None) for n in range(1200)])
    assert (len(producer.sent), caught_up) == (1200, [True])


@pytest.mark.parametrize("producer", [Producer(KafkaTimeoutError()), Producer(hangs=True)], ids=["fails", "hangs"])
async def test_brokers_that_do_not_take_it_are_one_error(producer: Producer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a bounded time."""
    monkeypatch.setattr(registration_writer, "WRITE_TIMEOUT_S", 0.05)
    caught_up: list[bool] = []
    with pytest.raises(NotWritten):
        await writer(producer, caught_up).write("a", None)
    assert not caught_up
