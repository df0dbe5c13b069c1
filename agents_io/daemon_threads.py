"""A bounded number of daemon threads for work that cannot be interrupted.

In: callables. Out: futures. Work that is cancelled before a thread takes it never runs; work that runs, runs to its
end. Python's own executor joins its threads at exit, so a hung one would keep a worker from ending: these are daemons.
"""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")
IDLE_S = 30.0
"""An idle thread ends after this time."""

_Item = tuple["Future[Any]", contextvars.Context, Callable[[], Any]]


class DaemonThreads:
    """At most `most` threads, started on demand."""

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._items: queue.Queue[_Item] = queue.Queue()
        self._lock = threading.Lock()
        self._threads = 0
        self._open = 0
        """Submitted work that has not ended."""

    @property
    def threads(self) -> int:
        return self._threads

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Run `work` in a thread, in the context of the caller."""
        future: Future[T] = Future()
        with self._lock:
            self._items.put((future, contextvars.copy_context(), work))
            self._open += 1
            begin = self._threads < min(self._open, self._most)
            self._threads += begin
        if begin:
            threading.Thread(target=self._run, name=self._name, daemon=True).start()
        return future

    def _run(self) -> None:
        while (item := self._next()) is not None:
            future, context, work = item
            try:
                if future.set_running_or_notify_cancel():
                    future.set_result(context.run(work))
            except BaseException as error:  # any exception: the waiting caller must get it
                future.set_exception(error)
            finally:
                del item, future, context, work
                with self._lock:
                    self._open -= 1

    def _next(self) -> _Item | None:
        while True:
            try:
                return self._items.get(timeout=IDLE_S)
            except queue.Empty:
                with self._lock:
                    if self._items.empty():
                        self._threads -= 1
                        return None
