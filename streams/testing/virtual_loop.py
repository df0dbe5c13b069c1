"""An asyncio event loop whose time passes only while nothing else can happen.

In: the loop of a test. Out: waits of any length that end at once, in the order of their times, and
durations that do not depend on the machine. What the operating system does (threads, sockets, processes) takes no time here, so
a wait for it would be over before it was done: the loop refuses to begin it, and says so again when it is closed, in case the
refusal was caught.
"""

from __future__ import annotations

import asyncio
import selectors
import threading
from collections.abc import Callable
from contextvars import Context
from typing import Any, NoReturn, TypeVarTuple, Unpack

Ts = TypeVarTuple("Ts")


class RealTimeNeeded(RuntimeError):
    """An operation needs real time, or its wait could never end."""


class _Selector(selectors.DefaultSelector):
    """Never waits: passes the `timeout` (seconds; None: no end) to `waited` instead."""

    def __init__(self, waited: Callable[[float | None], None]) -> None:
        super().__init__()
        self._waited = waited

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if not ready and (timeout is None or timeout > 0):
            self._waited(timeout)
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """`time()` begins at 1,000 s and moves only by waits.

    Raises `RealTimeNeeded`: where a thread, a socket or a process is asked for, and where every task waits and no timer runs.
    """

    def __init__(self) -> None:
        self._now = 1000.0
        self._thread = threading.get_ident()
        self._refused: list[str] = []
        super().__init__(_Selector(self._wait))

    def _wait(self, seconds: float | None) -> None:
        if seconds is None:
            raise RealTimeNeeded(f"virtual time: no timer runs, so these would wait forever: {_waiting(self)}")
        self._now += seconds

    def time(self) -> float:
        """Virtual seconds."""
        return self._now

    def close(self) -> None:
        """Raises `RealTimeNeeded` if anything was refused."""
        super().close()
        refused, self._refused = self._refused, []
        if refused:
            raise RealTimeNeeded(f"virtual time: refused while the loop ran: {', '.join(refused)}")

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """From this loop's own thread only."""
        if threading.get_ident() != self._thread:
            self._refuse("a call from another thread")
        return super().call_soon_threadsafe(callback, *args, context=context)

    def _refuse(self, what: str) -> NoReturn:
        self._refused.append(what)
        raise RealTimeNeeded(f"virtual time: {what} takes real time; run this in an ordinary event loop")


def _refusing(method: str, what: str) -> Callable[..., Any]:
    def refuse(self: VirtualTimeLoop, *_args: Any, **_kwargs: Any) -> NoReturn:
        self._refuse(f"{what} ({method})")

    refuse.__name__ = method
    return refuse


_TAKES_REAL_TIME = {
    "a thread": ("run_in_executor",),
    "a name look-up": ("getaddrinfo", "getnameinfo"),
    "a process": ("subprocess_exec", "subprocess_shell"),
    "a pipe": ("connect_read_pipe", "connect_write_pipe"),
    "a socket": (
        "add_reader",
        "add_writer",
        "connect_accepted_socket",
        "create_connection",
        "create_datagram_endpoint",
        "create_server",
        "create_unix_connection",
        "create_unix_server",
        "sock_accept",
        "sock_connect",
        "sock_recv",
        "sock_recv_into",
        "sock_recvfrom",
        "sock_recvfrom_into",
        "sock_sendall",
        "sock_sendfile",
        "sock_sendto",
    ),
}
for _what, _methods in _TAKES_REAL_TIME.items():
    for _method in _methods:
        setattr(VirtualTimeLoop, _method, _refusing(_method, _what))


def _waiting(loop: asyncio.AbstractEventLoop) -> str:
    """Where each task stands: `name at file:line`."""
    stands = []
    for task in asyncio.all_tasks(loop):
        frames = task.get_stack()
        where = f" at {frames[-1].f_code.co_filename}:{frames[-1].f_lineno}" if frames else ""
        stands.append(f"{task.get_name()}{where}")
    return ", ".join(sorted(stands)) or "no task"
