"""How long `parallax submit --wait` waits, and what it says meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from schemas.messages import Limits
from streams.cli import patience
from streams.cli.workers import FoundWorkers
from streams.settings import Settings

pytestmark = pytest.mark.virtual_time


def told(monkeypatch: pytest.MonkeyPatch, *reasons: str | None) -> list[list[str]]:
    """Workers that give these reasons one after the other, the last for ever; the ids that they are asked after."""
    asked: list[list[str]] = []

    async def workers(_: Settings, given: Sequence[str]) -> FoundWorkers:
        asked.append([])
        return FoundWorkers([], ["http://w"], {})

    async def ask_each(_: Settings, urls: Sequence[str], path: str) -> list[tuple[str, Any, str]]:
        name = path.removeprefix("/api/v1/tasks/").removesuffix("/waiting")
        asked[-1].append(name)
        reason = reasons[min(len(asked), len(reasons)) - 1]
        held = reason is not None and name == "t9"  # the last one that is asked after
        return [(urls[0], {"reason": reason, "agentId": "a"} if held else None, "")]

    monkeypatch.setattr(patience, "found_workers", workers)
    monkeypatch.setattr(patience, "ask_each", ask_each)
    return asked


async def waited(done: asyncio.Task[None], signs: Sequence[int] = (), timeout_s: float | None = None) -> None:
    counts = list(signs) or [0]
    ids = [f"t{number}" for number in range(30)]
    try:
        await patience.until_done(
            done, Settings(), lambda: counts.pop(0) if len(counts) > 1 else counts[0], lambda: ids, timeout_s
        )
    finally:
        done.cancel()


def work(seconds: float) -> asyncio.Task[None]:
    return asyncio.create_task(asyncio.sleep(seconds))


async def test_tasks_that_a_limit_paces_are_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For many times the patience; the oldest are asked after, and the reason is told."""
    asked = told(monkeypatch, "rate_limited")
    await waited(work(5 * patience.PATIENCE_S))
    assert len(asked) > 1
    assert asked[0] == [f"t{number}" for number in range(10)]
    assert "30 without a result yet: agent a has had all the calls" in capsys.readouterr().err


@pytest.mark.parametrize("reason", ["no_agent", "circuit_open", None])
async def test_without_progress_it_gives_up(monkeypatch: pytest.MonkeyPatch, reason: str | None) -> None:
    """Nobody holds the task, or what it waits for may never come."""
    asked = told(monkeypatch, reason)
    with pytest.raises(TimeoutError):
        await waited(work(300 * patience.PATIENCE_S))
    assert all(names == [f"t{number}" for number in range(10)] for names in asked)


async def test_what_moved_once_and_then_stands_still_ends_too(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = told(monkeypatch, "calling", "calling", "no_agent")
    with pytest.raises(TimeoutError):
        await waited(work(300 * patience.PATIENCE_S))
    assert len(asked) > 2


async def test_a_time_that_was_given_is_a_bound_whatever_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, "rate_limited")
    with pytest.raises(TimeoutError):
        await waited(work(300 * patience.PATIENCE_S), range(10**6), timeout_s=1.5 * patience.PATIENCE_S)


async def test_a_limit_that_no_worker_reports_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By default a window ends and the next call is answered within the patience. That no worker answers is told once."""

    async def workers(*_: Any) -> FoundWorkers:
        return FoundWorkers([], [], {"http://w": "401: no token"})

    monkeypatch.setattr(patience, "found_workers", workers)
    await waited(work((Limits().window_ms + Settings().dispatch.default_timeout) / 1000 + 5))
    assert capsys.readouterr().err.count("no worker reports what they wait for: http://w: 401: no token") == 1


async def test_results_that_keep_coming_need_no_worker(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = told(monkeypatch, None)
    await waited(work(4 * patience.PATIENCE_S), range(10**6))
    assert asked == []
    assert capsys.readouterr().err == ""


async def test_what_breaks_the_reading_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, None)

    async def broken() -> None:
        raise ValueError("torn")

    with pytest.raises(ValueError, match="torn"):
        await waited(asyncio.create_task(broken()))
