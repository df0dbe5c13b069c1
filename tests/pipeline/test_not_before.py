"""`metadata.notBefore` on the embedded broker: called at its time, cancelled before it, refused if it cannot be."""

from __future__ import annotations

import time
from typing import Any

import pytest

from agents_io import agent
from streams import TaskCancelled, TaskExpired
from streams.testing import Pipeline

called: list[tuple[Any, float]] = []


@agent("later")
async def later(payload: Any) -> tuple[Any, float]:
    """Keeps when it was called."""
    called.append((payload, time.time()))
    return payload, 0.9


async def test_a_task_is_called_at_its_time_and_not_before() -> None:
    """Tasks for sooner are not held up by those for later; one for the past is called at once."""
    async with Pipeline(agents=[later]) as p:
        begun = time.time()
        far = await p.client.submit("later", "far", not_before=begun + 3600)
        near = await p.client.submit("later", "near", not_before=begun + 2)
        past = await p.client.run("later", "past", not_before=begun - 60)
        assert past.value == "past"
        assert (await near.result(wait=20)).value == "near"
        [at] = [at for payload, at in called if payload == "near"]
        assert at >= begun + 2
        await far.cancel()
        with pytest.raises(TaskCancelled):
            await far.result(wait=20)
        with pytest.raises(TaskExpired, match=r"metadata\.notBefore: .* is not before the deadline"):
            await p.client.run("later", "never", not_before=begun + 3600, expires_in=60, wait=20)
        assert {payload for payload, _ in called} == {"past", "near"}
