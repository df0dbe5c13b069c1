"""Brokers for tests. In: the fixtures a test asks for. Out: a broker, a prefix of its own for each test, settings for both.

A test that asks for a broker carries its mark (`kafka`, `embedded`) whether it says so or not, so that `make test` never
starts a JVM by accident. Nothing here skips: a missing Java is a failure.
"""

from __future__ import annotations

import asyncio
import signal
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Protocol

import hypothesis
import pytest

from streams.broker.embedded import EmbeddedBroker
from streams.settings import Settings
from streams.testing.virtual_loop import VirtualTimeLoop
from tests.support.kafka import KafkaCluster

# Started in the background, a shell ignores Ctrl-C for us, and every process that a test starts would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says nothing on a machine that others use.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


class Broker(Protocol):
    """Whatever has an address."""

    @property
    def bootstrap_servers(self) -> str: ...


SettingsFor = Callable[..., Settings]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark by fixture, before `-m` selects."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if fixtures & {"kafka", "kafka3"}:
            item.add_marker(pytest.mark.kafka)
        if "embedded" in fixtures:
            item.add_marker(pytest.mark.embedded)


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Virtual time for the tests that ask for it."""
    if item.get_closest_marker("virtual_time"):
        return {"virtual_time": VirtualTimeLoop}
    return {"asyncio": asyncio.new_event_loop}


@pytest.fixture(scope="session")
def kafka() -> Iterator[KafkaCluster]:
    """One real Kafka broker for the whole run; do not kill it: other tests use it."""
    with KafkaCluster(brokers=1) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def kafka3() -> Iterator[KafkaCluster]:
    """Three real Kafka brokers for one module, replication 3, two in sync; yours to kill and restart."""
    with KafkaCluster(brokers=3) as cluster:
        yield cluster


@pytest.fixture
async def embedded() -> AsyncIterator[EmbeddedBroker]:
    """An embedded broker for one test; it starts in a tenth of a second."""
    async with EmbeddedBroker() as broker:
        yield broker


@pytest.fixture
def prefix() -> str:
    """A topic prefix (and a good group name, without the dot) that no other test has."""
    return f"t{uuid.uuid4().hex[:10]}."


@pytest.fixture
def settings_for(prefix: str) -> SettingsFor:
    """`settings_for(broker, **fields)`: settings that reach it, with this test's prefix and ids; nothing from the environment."""

    def build(broker: Broker | str, **fields: Any) -> Settings:
        address = broker if isinstance(broker, str) else broker.bootstrap_servers
        name = prefix.rstrip(".")
        return Settings(**{"bootstrap_servers": address, "topic_prefix": prefix, "app_id": name} | fields)

    return build
