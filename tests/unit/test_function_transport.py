"""Calls to functions: the table of errors, the deadline, and what a hung one may take with it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from agents_io.errors import (
    AgentError,
    AnswerTooLarge,
    BadResponse,
    CallTimeout,
    ExecutionFailed,
    Expired,
    Refused,
    UnknownFunction,
    Unsupported,
)
from agents_io.protocols.functions.catalogue import Functions, function, load_functions
from agents_io.protocols.functions.transport import FunctionTransport
from agents_io.transport import Answer, Call
from schemas.messages import AgentRegistration
from tests.support.wait import until

SOME = "tests.support.some_functions"


class Rig:
    """A transport with these functions."""

    def __init__(self, functions: Functions | None = None, **options: Any) -> None:
        self.transport = FunctionTransport(functions or load_functions([SOME]), **options)

    async def call(self, name: str, body: bytes = b"{}", timeout_s: float = 10.0, key: str = "k") -> Answer:
        """One call."""
        agent = AgentRegistration(id="f", endpoint=name, protocol="gateway")
        return await self.transport.call(agent, Call("t1", key, body, timeout_s))


def rig(**named: Callable[[Any], Any]) -> Rig:
    """A transport over these."""
    return Rig(Functions.of([function(name.replace("_", "-"))(call) for name, call in named.items()]))


async def test_plain_and_async_functions_answer() -> None:
    """With their own confidence, else 1; both know the call they are in."""
    one = Rig()
    assert await one.call("double", b'{"n": 21}') == Answer(42, 1.0)
    assert await one.call("sure", b'{"text": "a"}') == Answer("A", 0.75)
    assert (await one.call("who", key="mine")).value == ["t1", "mine"]


async def test_a_plain_function_does_not_hold_the_loop() -> None:
    """It runs in a thread."""
    here = threading.get_ident()
    one = rig(where=lambda _: threading.get_ident() != here)
    assert (await one.call("where")).value is True


def raising(error: BaseException) -> Callable[[Any], Any]:
    """A function that raises it."""

    def raises(payload: Any) -> Any:
        raise error

    return raises


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (raising(ValueError("why")), ExecutionFailed),
        (raising(OSError()), ExecutionFailed),
        (raising(SystemExit(1)), ExecutionFailed),
        (raising(asyncio.CancelledError()), ExecutionFailed),
        (raising(TimeoutError("mine")), ExecutionFailed),
        (raising(Refused("no")), Refused),
        (raising(ExecutionFailed("later", retry_after_s=3.0)), ExecutionFailed),
        (lambda _: object(), BadResponse),
        (lambda _: float("nan"), BadResponse),
        (lambda _: ("x", 7), BadResponse),
        (lambda _: "x" * 2000, AnswerTooLarge),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
@pytest.mark.parametrize("is_async", [False, True], ids=["plain", "async"])
async def test_one_failure_is_one_clear_error(
    call: Callable[[Any], Any], error: type[AgentError], is_async: bool
) -> None:
    """Whichever way the function is written; the next call is not touched by it."""

    async def awaited(payload: Any) -> Any:
        return call(payload)

    fine = function("fine")(lambda _: "ok")
    one = Rig(
        Functions.of([function("f")(awaited if is_async else lambda payload: call(payload)), fine]),
        max_answer_bytes=1000,
    )
    with pytest.raises(error) as caught:
        await one.call("f")
    assert type(caught.value) is error
    assert caught.value.message.isprintable()
    assert (await one.call("fine")).value == "ok"


async def test_what_a_function_asks_for_is_kept() -> None:
    """A wait before the next try."""
    one = rig(f=raising(ExecutionFailed("later", retry_after_s=3.0)))
    with pytest.raises(ExecutionFailed) as caught:
        await one.call("f")
    assert caught.value.retry_after_s == 3.0


async def test_no_call_is_made_of_what_cannot_be() -> None:
    """A name nobody registered, no time left; nor can a function be asked how it is."""
    one = Rig()
    with pytest.raises(UnknownFunction, match=r"'os\.system'"):
        await one.call("os.system")
    with pytest.raises(Expired):
        await one.call("double", timeout_s=0.0)
    with pytest.raises(Unsupported):
        await one.transport.check_health(AgentRegistration(id="f", endpoint="double", protocol="gateway"), 1.0)


async def test_an_async_function_is_cancelled_at_its_deadline() -> None:
    """And when its task is cancelled."""
    ended: list[str] = []
    begun = 0

    async def slow(payload: Any) -> Any:
        nonlocal begun
        begun += 1
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cut off")

    one = rig(slow=slow)
    with pytest.raises(CallTimeout, match=r"no answer within 0\.1 s"):
        await one.call("slow", timeout_s=0.1)
    running = asyncio.create_task(one.call("slow"))
    await until(lambda: begun == 2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await asyncio.sleep(0)
    assert ended == ["cut off"] * 2


async def test_a_hung_function_keeps_its_places_and_no_others() -> None:
    """It cannot be killed: the deadline holds, its place stays taken until it ends, another function goes on."""
    gate = threading.Event()
    started: list[int] = []

    def hung(payload: Any) -> Any:
        started.append(1)
        gate.wait(30)
        return "late"

    functions = Functions.of([function("hung")(hung), function("fine")(lambda _: "ok")])
    one = Rig(functions, threads=4, places=2)
    for _ in range(2):
        with pytest.raises(CallTimeout, match="no answer"):
            await one.call("hung", timeout_s=0.05)
    with pytest.raises(CallTimeout, match="every slot"):
        await one.call("hung", timeout_s=0.05)
    assert len(started) == 2
    assert (await one.call("fine")).value == "ok"
    gate.set()
    assert (await one.call("hung")).value == "late"


async def test_no_more_than_its_places_run_at_once() -> None:
    """Whatever the queue lets through."""
    running, most = 0, 0
    lock = threading.Lock()

    def busy(payload: Any) -> Any:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1

    one = Rig(Functions.of([function("busy")(busy)]), threads=8, places=3)
    await asyncio.gather(*(one.call("busy") for _ in range(12)))
    assert most == 3
