"""Where a worker tells others it can be found, and how long it may take to stop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

import pytest

from streams.cli import process
from streams.rules.addresses import advertised
from streams.settings import Settings


@pytest.mark.parametrize(
    ("wanted", "url", "told"),
    [
        (None, "http://0.0.0.0:5", "http://w1:5"),
        (None, "http://[::]:5", "http://w1:5"),
        (None, "http://127.0.0.1:5", "http://127.0.0.1:5"),
        ("w1.workers:0", "http://0.0.0.0:5", "http://w1.workers:5"),
        ("10.0.0.7:80", "http://127.0.0.1:5", "http://10.0.0.7:80"),
        ("[fd00::7]:80", "http://[::]:5", "http://[fd00::7]:80"),
    ],
)
def test_others_are_told_the_address_that_was_wanted_or_the_one_it_listens_on(
    wanted: str | None, url: str, told: str
) -> None:
    """A host's own name is told only where it listens everywhere and nobody said better."""
    assert f"http://{advertised(wanted, url.removeprefix('http://'), 'w1')}" == told


async def test_a_longer_drain_has_a_longer_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that may take `dispatch.stop_timeout` to finish are not cut off by the limit on the whole end."""
    handlers: dict[signal.Signals, Callable[..., None]] = {}
    ends: list[float] = []

    class Loop:
        """Keeps what it is told."""

        def add_signal_handler(self, which: signal.Signals, handler: Callable[..., None], *arguments: Any) -> None:
            handlers[which] = lambda: handler(*arguments)

        def call_later(self, delay_s: float, *_: Any) -> None:
            ends.append(delay_s)

    async def run(settings: Settings, *, on_ready: Callable[[Any], None], stop: asyncio.Event) -> None:
        handlers[signal.SIGTERM]()
        assert stop.is_set()

    monkeypatch.setattr("streams.worker.run", run)
    monkeypatch.setattr("asyncio.get_running_loop", Loop)
    settings = Settings(dispatch={"stop_timeout": "2m"})  # type: ignore[arg-type]
    assert await process.run_worker(settings, process.Format.text) == 0
    assert ends == [120 + process.AFTER_DRAIN_S]
