"""A submitted task or plan: wait for its result, cancel it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar, overload

from streams.client.errors import WaitTimeout, failure_of
from streams.client.parsing import parse_value
from streams.client.result import TaskResult
from streams.client.times import Duration, seconds

if TYPE_CHECKING:
    from streams.client.waiting import WaitingCall

T = TypeVar("T")


class Handle:
    """`id`: the task's. Made by `Client.submit` and `Client.handle`; several tasks may await it."""

    __slots__ = ("_cancel", "_waiting", "id")

    def __init__(
        self, waiting: WaitingCall[TaskResult[Any]], cancel: Callable[[str, str | None], Awaitable[None]]
    ) -> None:
        self.id = waiting.id
        self._waiting = waiting
        self._cancel = cancel

    def __repr__(self) -> str:
        return f"Handle({self.id!r}, {'done' if self.done else 'waiting'})"

    @property
    def done(self) -> bool:
        """Whether the result has come."""
        return self._waiting.future.done()

    @overload
    async def result(self, wait: Duration | None = None, *, into: None = None) -> TaskResult[Any]: ...

    @overload
    async def result(self, wait: Duration | None = None, *, into: type[T]) -> TaskResult[T]: ...

    async def result(self, wait: Duration | None = None, *, into: type[T] | None = None) -> TaskResult[Any]:
        """Wait for the result, at most `wait`. Raises `TaskFailed`, `WaitTimeout`, `NoWorker`, `InvalidValue`."""
        result = await self.outcome(wait)
        if result.status != "success":
            raise failure_of(result)
        return result if into is None else parse_value(result, into)

    async def outcome(self, wait: Duration | None = None) -> TaskResult[Any]:
        """As `result`, but returns a failed task's result too. Raises `WaitTimeout`, `NoWorker`."""
        future = self._waiting.future
        if not future.done():
            limit_s = None if wait is None else seconds(wait, "wait")
            await asyncio.wait((future,), timeout=limit_s)
            if not future.done():
                raise still_waiting(self.id, limit_s)
        return future.result()

    def future(self) -> asyncio.Future[TaskResult[Any]]:
        """The future of the calls that wait now. If it fails, later calls wait on a new one."""
        return self._waiting.future

    async def cancel(self, reason: str | None = None) -> None:
        """Request that the task be cancelled. Its result then has the status `cancelled`, unless it has ended
        before.
        """
        await self._cancel(self.id, reason)


def still_waiting(name: str, limit_s: float | None, noun: str = "task") -> WaitTimeout:
    """The error once `wait` has passed."""
    verb = "explain" if noun == "task" else noun
    return WaitTimeout(
        f"{noun} {name} has no result after {limit_s:g} s; it goes on: wait longer, or see why it waits with "
        f"`parallax {verb} {name}`"
    )
