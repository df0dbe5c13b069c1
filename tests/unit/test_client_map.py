"""What `Client.map` leaves behind when it ends early."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from streams.client import Client, mapping
from streams.client.errors import KafkaUnreachable
from streams.client.handle import Handle
from streams.client.mapping import cancel_all


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
    """The first one leaves the list while its tasks are cancelled."""
    client = Client("127.0.0.1:9")
    tasks = Task(0), Task(0)
    client._windows = [window(task) for task in tasks]

    async def cancelled_first(reason: str | None = None) -> None:
        del client._windows[0]

    tasks[0].cancel = cancelled_first  # type: ignore[method-assign]
    await client.close()
    assert tasks[1].cancelled
