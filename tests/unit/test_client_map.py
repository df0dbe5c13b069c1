"""What `Client.map` leaves behind when it ends early."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any, cast

import pytest

from streams.client import mapping
from streams.client.errors import KafkaUnreachable
from streams.client.handle import Handle
from streams.client.mapping import cancel_all, cancel_open
from streams.client.result import TaskResult


class Task:
    """A handle. `takes_s`: how long Kafka needs for its cancellation; None: it gives up."""

    done = False

    def __init__(self, takes_s: float | None) -> None:
        self.takes_s = takes_s
        self.cancelled = False

    async def cancel(self, reason: str | None = None) -> None:
        await asyncio.sleep(self.takes_s or 0)
        if self.takes_s is None:
            raise KafkaUnreachable("nobody answers")
        self.cancelled = True


class Running:
    """A handle of a task that succeeds at once."""

    done = True

    def __init__(self, name: str) -> None:
        self.id = name

    def future(self) -> asyncio.Future[Any]:
        found: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        found.set_result(SimpleNamespace(status="success"))
        return found


def window(*tasks: Task) -> dict[str, Handle]:
    return cast("dict[str, Any]", {str(number): task for number, task in enumerate(tasks)})


async def test_each_task_under_way_is_cancelled_also_after_one_that_kafka_refused() -> None:
    tasks = [Task(0), Task(None), Task(0)]
    await cancel_all(window(*tasks))
    assert [task.cancelled for task in tasks] == [True, False, True]


async def test_cancelling_many_tasks_without_kafka_takes_as_long_as_cancelling_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mapping, "CANCEL_TIMEOUT_S", 0.05, raising=False)
    async with asyncio.timeout(1):
        await cancel_all(window(*(Task(3600) for _ in range(100))))


async def test_closing_a_client_ends_each_of_its_maps() -> None:
    """The first one leaves the table while its tasks are cancelled."""
    tasks = Task(0), Task(0)
    open_windows = {number: window(task) for number, task in enumerate(tasks)}

    async def cancelled_first(reason: str | None = None) -> None:
        del open_windows[0]

    tasks[0].cancel = cancelled_first  # type: ignore[method-assign]
    await cancel_open(open_windows)
    assert tasks[1].cancelled


async def test_a_map_that_ends_leaves_those_that_are_as_far_as_it_was() -> None:
    """Two have no task under way yet; one of them ends, then the other submits one."""
    open_windows: mapping.OpenWindows = {}
    begun = asyncio.Event()

    async def submit(payload: Any) -> Handle:
        return cast("Any", Running(payload))

    async def later() -> AsyncGenerator[str]:
        await begun.wait()
        yield "a"

    def results(payloads: mapping.Payloads) -> AsyncGenerator[TaskResult[Any]]:
        return mapping.run_all(
            submit, payloads, concurrency=1, ordered=True, tolerate=0, into=None, open_windows=open_windows
        )  # fmt: skip

    async with asyncio.timeout(5), aclosing(results(later())) as first:
        waiting = asyncio.ensure_future(anext(first))
        await asyncio.sleep(0)
        assert [result async for result in results([])] == []
        begun.set()
        await waiting
        assert len(open_windows) == 1
    assert open_windows == {}
