"""A watcher that fails goes on."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from streams.engine import supervised
from tests.support.wait import until

pytestmark = pytest.mark.virtual_time


async def test_a_watcher_that_fails_runs_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever it raised; it ends when it is cancelled."""
    monkeypatch.setattr(supervised, "PAUSE_S", 0.001)
    runs = 0

    async def run() -> None:
        nonlocal runs
        runs += 1
        if runs < 3:
            raise AttributeError("nobody foresaw this")
        await asyncio.sleep(60)

    task = asyncio.create_task(supervised.supervised("log-check", run))
    await until(lambda: runs >= 3)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert runs == 3
