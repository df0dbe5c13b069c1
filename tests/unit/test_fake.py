"""The fake agent itself: scripts, steps as text, and as a process of its own."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

import aiohttp
import pytest

from agents_io.fakes.http import FakeAgent
from agents_io.fakes.steps import answer, parse_step, status


async def ask(endpoint: str, key: str = "t") -> int:
    """The status of one call."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(endpoint + "/analyze", json={"n": 1}, headers={"Idempotency-Key": key}) as response,
    ):
        await response.read()
        return response.status


async def test_script_runs_step_by_step_and_the_last_one_stays() -> None:
    """Two failures, one other, then answers for ever; the log tells it all."""
    async with FakeAgent([status(500, times=2), status(503, times=1), answer()]) as fake:
        assert [await ask(fake.endpoint) for _ in range(5)] == [500, 500, 503, 200, 200]
        assert [call.step for call in fake.calls] == ["status"] * 3 + ["answer"] * 2
        assert [call.code for call in fake.calls] == [500, 500, 503, 200, 200]
        assert fake.calls[0].payload == {"n": 1}


async def test_per_task_each_key_has_its_own_script() -> None:
    """Every task fails once."""
    async with FakeAgent([status(500, times=1), answer()], per_task=True) as fake:
        assert [await ask(fake.endpoint, key) for key in ("a", "b", "a", "b")] == [500, 500, 200, 200]


@pytest.mark.parametrize("text", ["explode", "answer:confidence", "answer:times=x", "hang:code=500", "status"])
def test_text_that_is_no_step_is_explained(text: str) -> None:
    """With the kind or the part that is wrong."""
    with pytest.raises(ValueError, match=text.partition(":")[0]):
        parse_step(text)


async def test_as_a_process_it_can_be_healed_and_keeps_a_log(tmp_path: Path) -> None:
    """Prints its endpoint, takes a new script, ends on SIGTERM."""
    log = tmp_path / "calls.jsonl"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agents_io.fakes.http", "--behaviour", "status:code=503", "--log", str(log)),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        endpoint = json.loads(await process.stdout.readline())["endpoint"]
        assert await ask(endpoint, "before") == 503
        async with aiohttp.ClientSession() as session:
            async with session.post(endpoint + "/script", json=["answer:confidence=0.5"]) as response:
                assert response.status == 204
            async with session.post(endpoint + "/script", json=["explode"]) as response:
                assert response.status == 400
        assert await ask(endpoint, "after") == 200
    finally:
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["key"], line["step"], line["ended"], line["code"]) for line in lines] == [
        ("before", "status", "answered", 503),
        ("after", "answer", "answered", 200),
    ]
    assert all(line["at"] <= line["endedAt"] for line in lines)
