"""Runs an agent's function: one run per idempotency key, a bounded number at once, each with a deadline. Answers are
cached for a while.

In: calls. Out: replies, or `CallFailed` with an HTTP status. A run without a waiting caller is cancelled. A plain
function in its thread cannot be cancelled: it keeps its slot until it returns, and a repeated call joins it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from agents_io.daemon_threads import DaemonThreads
from agents_io.protocols.functions.catalogue import CURRENT, FunctionCall
from agents_io.serving.answers import CallFailed, Reply, failure_of, reply_of
from agents_io.transport import text_of
from schemas.exact_json import loads

log = logging.getLogger(__name__)

REMEMBER_S = 300.0
REMEMBER_ANSWERS = 1000
REMEMBER_BYTES = 8 * 1024 * 1024
RETRY_AFTER_S = 1


@dataclass(slots=True)
class _Run:
    """One run of the function, and how many calls wait for it."""

    task: asyncio.Task[Reply]
    callers: int = 0


class Served(Protocol):
    """An agent as its servers need it."""

    @property
    def id(self) -> str: ...

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What it can do."""
        ...

    @property
    def concurrency(self) -> int:
        """How many calls it takes at once."""
        ...

    def runs(self) -> Runs:
        """The runs of its function."""
        ...


class Runs:
    """The runs of one agent. `call`: takes the payload's JSON and returns what the function returns, awaitable if `is_async`."""

    def __init__(
        self, name: str, call: Callable[[Any], Any], *, is_async: bool, concurrency: int, default_confidence: float
    ) -> None:
        self._call = call
        self._is_async = is_async
        self._concurrency = concurrency
        self._default_confidence = default_confidence
        self._threads = DaemonThreads(concurrency, f"agent-{name}")
        self._runs: dict[str, _Run] = {}
        self._all: set[asyncio.Task[Reply]] = set()
        self._answers: OrderedDict[str, tuple[float, Reply]] = OrderedDict()
        self._bytes = 0
        self._busy = 0
        self.draining = False

    @property
    def in_flight(self) -> int:
        """Functions that run now, also those whose caller no longer waits."""
        return self._busy

    async def run(self, key: str, payload: Any, timeout_s: float | None, context: str = "") -> Reply:
        """The answer to a call. Raises `CallFailed`; cancelling it stops waiting.

        `key`: the idempotency key; "": none, every call is a run. `context`: the header that names its conversation.
        """
        loop = asyncio.get_running_loop()
        if key and (remembered := self._remembered(key, loop.time())) is not None:
            return remembered
        run = self._runs.get(key) if key else None
        if run is None:
            run = self._started(key, payload, timeout_s, context)
        run.callers += 1
        try:
            await asyncio.wait((run.task,), timeout=timeout_s)
            if not run.task.done():
                raise CallFailed(504, f"no answer within {timeout_s:.3g} s")
            if run.task.cancelled():
                raise CallFailed(503, "the agent is stopping", RETRY_AFTER_S)
            return run.task.result()
        finally:
            run.callers -= 1
            if not run.callers and not run.task.done() and self._is_async:
                run.task.cancel()
                if self._runs.get(key) is run:
                    del self._runs[key]

    async def drain(self, timeout_s: float) -> None:
        """Accept no more calls, let those under way finish, then cancel them."""
        self.draining = True
        if self._all:
            await asyncio.wait(self._all, timeout=timeout_s)
        for task in tuple(self._all):
            task.cancel()

    def _started(self, key: str, payload: Any, timeout_s: float | None, context: str) -> _Run:
        if self.draining:
            raise CallFailed(503, "the agent is stopping", RETRY_AFTER_S)
        if self._busy >= self._concurrency:
            raise CallFailed(429, f"the agent is busy with {self._busy} calls", RETRY_AFTER_S)
        self._busy += 1
        task = asyncio.create_task(self._work(key, payload, timeout_s, context), name="agent-run")
        run = _Run(task)
        self._all.add(task)
        if key:
            self._runs[key] = run
        task.add_done_callback(lambda done: self._over(key, run))
        return run

    def _over(self, key: str, run: _Run) -> None:
        self._all.discard(run.task)
        self._busy -= 1
        if self._runs.get(key) is run:
            del self._runs[key]
        if not run.task.cancelled() and run.task.exception() is None and key:
            self._remember(key, run.task.result())

    async def _work(self, key: str, payload: Any, timeout_s: float | None, context: str) -> Reply:
        CURRENT.set(FunctionCall(key, key, float("inf") if timeout_s is None else timeout_s, text_of(context)))
        try:
            if self._is_async:
                returned = await self._call(payload)
            else:
                returned = await asyncio.wrap_future(self._threads.submit(lambda: self._in_thread(payload)))
            return reply_of(returned, self._default_confidence)
        except BaseException as error:  # SystemExit too: one call must not end the agent under the others
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise  # by `run` or `drain`; without a request the function has cancelled itself
            failed = failure_of(error)
            if failed.status == 500:
                # An answer that cannot be sent has no traceback of the user's code: the message says it all.
                raised = error.__cause__ if isinstance(error, CallFailed) else error
                log.warning("agent function failed: %s", failed, exc_info=raised)
            raise failed from None

    def _in_thread(self, payload: Any) -> Any:
        """The function's result. Raises only `CallFailed`: asyncio's futures accept neither StopIteration nor
        CancelledError.
        """
        try:
            return self._call(payload)
        except BaseException as error:
            raise failure_of(error) from error

    def _remember(self, key: str, reply: Reply) -> None:
        if key in self._answers:  # of a run that was cancelled, and went on all the same
            self._bytes -= len(self._answers.pop(key)[1].body)
        self._answers[key] = asyncio.get_running_loop().time(), reply
        self._bytes += len(reply.body)
        while len(self._answers) > REMEMBER_ANSWERS or (self._bytes > REMEMBER_BYTES and self._answers):
            _, (_, old) = self._answers.popitem(last=False)
            self._bytes -= len(old.body)

    def _remembered(self, key: str, now: float) -> Reply | None:
        while self._answers:
            first, (at, old) = next(iter(self._answers.items()))
            if now - at <= REMEMBER_S:
                break
            del self._answers[first]
            self._bytes -= len(old.body)
        found = self._answers.get(key)
        return None if found is None else found[1]


def parse_body(raw: bytes) -> Any:
    """A request's JSON. Raises `CallFailed`."""
    try:
        return loads(raw)
    except ValueError as error:
        raise CallFailed(400, f"body: is not JSON: {error}") from None
