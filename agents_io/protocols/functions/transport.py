"""Function tasks: calls to Python callables a worker knows by name, one attempt each.

In: the function's registration and a `Call` whose body is its argument. Out: an `Answer`, or one `AgentError`. A plain
function runs in a daemon thread, an async one on this loop. Neither can be made to end: one that goes on after its time is
left alone, and keeps its place until it ends, so that a function that hangs takes no more than its own places and keeps no
worker from stopping. It imports nothing and trusts no result.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

import structlog

from agents_io.daemon_threads import DaemonThreads
from agents_io.errors import AgentError, CallTimeout, ExecutionFailed, Expired, UnknownFunction, Unsupported
from agents_io.protocols.functions.catalogue import CURRENT, Function, FunctionCall, Functions
from agents_io.protocols.functions.rules.results import read_result
from agents_io.rules.answer import excerpt
from agents_io.transport import MAX_ANSWER_BYTES, Answer, Call
from schemas.exact_json import loads
from schemas.messages import AgentRegistration

log = structlog.get_logger(__name__)


class FunctionTransport:
    """Calls `functions`. `threads`: for all together; `places`: calls of one function at once, those given up included."""

    def __init__(
        self, functions: Functions, *, threads: int = 32, places: int = 8, max_answer_bytes: int = MAX_ANSWER_BYTES
    ) -> None:
        self._functions = functions
        self._threads = DaemonThreads(threads, "parallax-function")
        self._places = {name: asyncio.Semaphore(places) for name in functions.names}
        self._max_answer_bytes = max_answer_bytes

    async def call(self, agent: AgentRegistration, call: Call) -> Answer:
        """One attempt; the function's name is the endpoint. Raises `AgentError`."""
        if not call.timeout_s > 0:
            raise Expired("no time is left for a call")
        function = self._functions.get(agent.endpoint)
        if function is None:
            raise UnknownFunction(unknown(agent.endpoint))
        deadline = asyncio.get_running_loop().time() + call.timeout_s
        place = self._places[function.name]
        try:
            async with asyncio.timeout_at(deadline):
                await place.acquire()
        except TimeoutError:
            raise CallTimeout("every slot of this function is taken by calls that do not end") from None
        return await self._ended(self._begin(function, call, place), deadline, call)

    async def check_health(self, agent: AgentRegistration, timeout_s: float) -> None:
        """Raises `Unsupported`: a function cannot be asked."""
        raise Unsupported("functions have no health check")

    async def close(self) -> None:
        """Nothing to release: threads that still run end with the process."""

    def _begin(self, function: Function, call: Call, place: asyncio.Semaphore) -> asyncio.Future[Answer]:
        """Start the call. Its slot is freed only when the function returns, also if its caller no longer waits."""
        loop = asyncio.get_running_loop()
        token = CURRENT.set(FunctionCall(call.task_id, call.idempotency_key, call.timeout_s, call.context_id))
        try:
            if function.is_async:
                task = loop.create_task(self._awaited(function, call.body))
                task.add_done_callback(lambda _: place.release())
                return task
            work = self._threads.submit(lambda: self._run(function, call.body))
            work.add_done_callback(lambda _: _tell(loop, place))
            return asyncio.wrap_future(work)
        finally:
            CURRENT.reset(token)

    async def _ended(self, running: asyncio.Future[Answer], deadline: float, call: Call) -> Answer:
        try:
            done, _ = await asyncio.wait((running,), timeout=max(0.0, deadline - asyncio.get_running_loop().time()))
        except asyncio.CancelledError:
            _give_up(running)
            raise
        if not done:
            _give_up(running)
            raise CallTimeout(f"no answer within {call.timeout_s:.3g} s")
        if running.cancelled():
            raise ExecutionFailed("the function cancelled itself")
        return running.result()

    def _run(self, function: Function, body: bytes) -> Answer:
        try:
            returned = function.call(loads(body))
            if isinstance(returned, Coroutine):
                returned.close()
            return read_result(returned, self._max_answer_bytes)
        except AgentError:
            raise
        except BaseException as error:  # SystemExit too: in a thread it would have no effect
            raise _failed(error) from error

    async def _awaited(self, function: Function, body: bytes) -> Answer:
        try:
            return read_result(await function.call(loads(body)), self._max_answer_bytes)
        except (AgentError, asyncio.CancelledError):
            raise
        except BaseException as error:
            raise _failed(error) from error


def unknown(name: str) -> str:
    """The error text for a function that is not registered."""
    return f"no function {name[:80]!r} is registered on this worker"


def _failed(error: BaseException) -> ExecutionFailed:
    text = str(error)
    return ExecutionFailed(
        f"the function raised {type(error).__name__}"
        + (f": {excerpt(text.encode('utf-8', 'replace'))}" if text else "")
    )


def _give_up(running: asyncio.Future[Answer]) -> None:
    running.add_done_callback(_forget)
    running.cancel()


def _forget(running: asyncio.Future[Answer]) -> None:
    """Drop the late outcome. It must be retrieved once, or asyncio logs it."""
    if not running.cancelled():
        running.exception()


def _tell(loop: asyncio.AbstractEventLoop, place: asyncio.Semaphore) -> None:
    try:
        loop.call_soon_threadsafe(place.release)
    except RuntimeError:
        log.debug("a function ended after its worker")
