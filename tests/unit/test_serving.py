"""Agents made of functions, over HTTP: answers, bad payloads, deadlines, hang-ups, idempotency, being full, stopping."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import aiohttp
import pytest
from pydantic import BaseModel

from agents_io import Answer, Declined, agent, current_call
from agents_io.serving.definition import AgentFunction
from agents_io.serving.gateway import payload_of
from agents_io.serving.http import HttpAgent
from schemas.pb.gateway_pb2 import TaskRequest
from tests.support.wait import until


class Request(BaseModel):
    text: str
    limit: int = 10


@asynccontextmanager
async def caller(served: AgentFunction[..., Any]) -> AsyncIterator[Any]:
    """`await call(payload, **headers)` -> status, headers, JSON."""
    async with served.serving() as endpoint, aiohttp.ClientSession() as session:

        async def call(payload: Any, *, path: str = "/analyze", raw: bytes | None = None, **headers: str) -> Any:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            if path != "/analyze":
                request = session.get(endpoint + path)
            elif raw is not None:
                request = session.post(endpoint + path, data=raw, headers=named)
            else:
                request = session.post(endpoint + path, json=payload, headers=named)
            async with request as answer:
                return answer.status, answer.headers, await answer.json()

        yield call


@agent("typed", capabilities=["cut", "trim"])
def typed(request: Request) -> tuple[str, float]:
    """Cuts text."""
    return request.text[: request.limit], 0.8


async def test_the_function_itself_can_still_be_called() -> None:
    assert typed(Request(text="abc", limit=2)) == ("ab", 0.8)
    assert (typed.id, typed.capabilities, typed.__doc__) == ("typed", ("cut", "trim"), "Cuts text.")


async def test_a_typed_payload_is_validated_and_a_bad_one_names_the_field() -> None:
    async with caller(typed) as call:
        assert (await call({"text": "abcdef", "limit": 3}))[2] == {"value": "abc", "confidence": 0.8}
        status, _, body = await call({"limit": "x"})
        assert status == 400
        assert body["error"].startswith("payload: text: field required; limit: ")
        assert (await call(None, raw=b"{nonsense"))[0] == 400
        assert (await call({"text": "x"}, X_Request_Timeout_Ms="soon"))[0] == 400
        assert (await call(None, path="/health"))[0] == 200
        told = (await call(None, path="/capabilities"))[2]
        assert told == {"id": "typed", "capabilities": ["cut", "trim"], "concurrency": 10}


@pytest.mark.parametrize(
    ("returned", "body"),
    [
        ("plain", {"value": "plain", "confidence": 0.5}),
        (("pair", 0.75), {"value": "pair", "confidence": 0.75}),
        ({"value": 1, "confidence": 0.25}, {"value": 1, "confidence": 0.25}),
        (Request(text="x"), {"value": {"text": "x", "limit": 10}, "confidence": 0.5}),
        (
            Answer([Request(text="x")], 0.9, reasoning="so", extra={"usage": 3}),
            {"value": [{"text": "x", "limit": 10}], "confidence": 0.9, "reasoning": "so", "usage": 3},
        ),
    ],
)
async def test_what_a_function_may_return(returned: Any, body: Any) -> None:
    @agent("a", confidence=0.5)
    async def served(payload: Any) -> Any:
        return returned

    async with caller(served) as call:
        assert (await call({}))[2] == body


def nested(depth: int) -> Any:
    """Lists within lists; 0: one that holds itself."""
    found: list[Any] = []
    if depth == 0:
        found.append(found)
    for _ in range(depth):
        found = [found]
    return found


@pytest.mark.parametrize(
    "returned", [nested(300), nested(5000), nested(0), (nested(0), 1.0), Answer(1, extra={"a": nested(0)})]
)
async def test_what_is_nested_too_deep_is_said_to_be(returned: Any) -> None:
    """Not the interpreter's own words."""

    @agent("a")
    async def served(payload: Any) -> Any:
        return returned

    async with caller(served) as call:
        status, _, body = await call({})
    assert status == 500
    assert "the function returned" in body["error"]
    assert "nested" in body["error"]


@pytest.mark.parametrize("returned", [float("nan"), object(), ("x", 2.0), ("x", "sure"), Answer("x", -1)])
async def test_what_is_no_answer_is_the_agents_fault(returned: Any) -> None:
    @agent("a")
    def served(payload: Any) -> Any:
        return returned

    async with caller(served) as call:
        status, _, body = await call({})
        assert status == 500
        assert "function" in body["error"]


async def test_what_it_raises() -> None:
    @agent("a")
    def served(payload: str) -> str:
        if payload == "decline":
            raise Declined("not my field")
        raise RuntimeError("broken")

    async with caller(served) as call:
        assert await status_and_error(call("decline")) == (422, "not my field")
        assert await status_and_error(call("x")) == (500, "RuntimeError: broken")


NOT_ERRORS = [
    StopIteration("no more"),
    SystemExit(3),
    KeyboardInterrupt(),
    asyncio.CancelledError(),
    BaseException("x"),
]


@pytest.mark.parametrize("raised", NOT_ERRORS, ids=lambda raised: type(raised).__name__)
@pytest.mark.parametrize("plain", [True, False])
async def test_what_is_raised_beside_errors_fails_the_call_and_keeps_no_slot(
    raised: BaseException, plain: bool
) -> None:
    def threaded(payload: str) -> str:
        if payload == "raise":
            raise raised
        return payload

    async def awaited(payload: str) -> str:
        return threaded(payload)

    served = agent("raiser", concurrency=1)(threaded if plain else awaited)
    async with caller(served) as call, asyncio.timeout(10):
        for _ in range(2):
            status, error = await status_and_error(call("raise"))
            assert status == 500
            # A coroutine cannot raise a StopIteration.
            assert ("RuntimeError" if not plain and "Stop" in repr(raised) else type(raised).__name__) in error
        assert (await call("well"))[2]["value"] == "well"


async def test_an_answer_that_contains_itself_is_nested_too_deep() -> None:
    @agent("deep")
    def deep(payload: list[Any]) -> list[Any]:
        payload.append(payload)
        return payload

    async with caller(deep) as call:
        assert await status_and_error(call([])) == (
            500,
            "the function returned what is not JSON: it is nested too deep, or holds itself",
        )


async def status_and_error(call: Any) -> tuple[int, str]:
    status, _, body = await call
    return status, body["error"]


async def test_a_deadline_cancels_the_function() -> None:
    ended = asyncio.Event()
    left: list[float] = []

    @agent("a")
    async def served(payload: Any) -> None:
        left.append(current_call().timeout_s)
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with caller(served) as call:
        assert (await call({}, X_Request_Timeout_Ms="50"))[0] == 504
        await asyncio.wait_for(ended.wait(), 5)
        assert left == [0.05]


async def test_a_caller_that_hangs_up_cancels_the_function() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    @agent("a")
    async def served(payload: Any) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with caller(served) as call:
        waiting = asyncio.ensure_future(call({}))
        await asyncio.wait_for(begun.wait(), 5)
        waiting.cancel()
        await asyncio.wait_for(ended.wait(), 5)


async def test_one_run_per_key_also_after_the_answer() -> None:
    runs = 0
    go = asyncio.Event()

    @agent("a")
    async def served(payload: Any) -> int:
        nonlocal runs
        runs += 1
        await go.wait()
        return runs

    async with caller(served) as call:
        both = [asyncio.ensure_future(call({}, Idempotency_Key="k")) for _ in range(2)]
        await asyncio.sleep(0.05)
        go.set()
        assert [(await one)[2]["value"] for one in both] == [1, 1]
        assert (await call({}, Idempotency_Key="k"))[2]["value"] == 1
        assert (await call({}, Idempotency_Key="other"))[2]["value"] == 2
        assert (await call({}))[2]["value"] == 3


async def test_a_run_that_ignores_its_end_is_remembered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each would take a part of the memory for good."""
    monkeypatch.setattr("agents_io.serving.runs.REMEMBER_BYTES", 1000)
    runs = 0

    @agent("a")
    async def served(payload: Any) -> str:
        nonlocal runs
        runs += 1
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(payload["s"])
        if payload["s"]:
            await asyncio.sleep(0.1)
        return "x" * 100

    async with caller(served) as call:
        for n in range(10):
            assert (await call({"s": 5}, Idempotency_Key=f"k{n}", X_Request_Timeout_Ms="20"))[0] == 504
            assert (await call({"s": 0}, Idempotency_Key=f"k{n}"))[0] == 200
        await asyncio.sleep(0.2)
        before = runs
        for n in range(4, 10):
            assert (await call({"s": 0}, Idempotency_Key=f"k{n}"))[0] == 200
        assert runs == before


async def test_a_plain_function_that_timed_out_is_joined_and_not_begun_again() -> None:
    runs: list[int] = []
    go = threading.Event()

    @agent("a", concurrency=1)
    def served(payload: Any) -> str:
        runs.append(1)
        go.wait(20)
        return "late"

    async with caller(served) as call:
        assert (await call({}, Idempotency_Key="k", X_Request_Timeout_Ms="50"))[0] == 504
        again = asyncio.ensure_future(call({}, Idempotency_Key="k"))
        assert (await call({}, Idempotency_Key="other"))[0] == 429
        go.set()
        assert (await again)[2]["value"] == "late"
        assert len(runs) == 1


async def test_a_failed_run_is_not_remembered() -> None:
    tries = 0

    @agent("a")
    async def served(payload: Any) -> str:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise RuntimeError("once")
        return "ok"

    async with caller(served) as call:
        assert (await call({}, Idempotency_Key="k"))[0] == 500
        assert (await call({}, Idempotency_Key="k"))[2]["value"] == "ok"


async def test_a_full_agent_answers_429_with_retry_after() -> None:
    begun = 0
    go = asyncio.Event()

    @agent("a", concurrency=2)
    async def served(payload: Any) -> str:
        nonlocal begun
        begun += 1
        await go.wait()
        return "ok"

    async with caller(served) as call:
        running = [asyncio.ensure_future(call({})) for _ in range(2)]
        await until(lambda: begun == 2)
        status, headers, _ = await call({})
        assert (status, headers["Retry-After"]) == (429, "1")
        go.set()
        assert [(await one)[0] for one in running] == [200, 200]
        assert (await call({}))[0] == 200


async def test_stopping_lets_calls_finish_and_refuses_new_ones() -> None:
    go, begun = asyncio.Event(), asyncio.Event()

    @agent("a")
    async def served(payload: Any) -> str:
        begun.set()
        await go.wait()
        return "done"

    server = HttpAgent(agent=served, host="127.0.0.1", port=0)
    await server.__aenter__()
    async with aiohttp.ClientSession() as session:

        async def unwell() -> bool:
            async with session.get(server.endpoint + "/health") as health:
                return health.status == 503

        running = asyncio.ensure_future(session.post(server.endpoint + "/analyze", json={}))
        await begun.wait()
        stopping = asyncio.ensure_future(server.__aexit__(None, None, None))
        await until(unwell)
        async with session.post(server.endpoint + "/analyze", json={}) as refused:
            assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
        go.set()
        async with await running as answer:
            assert (await answer.json())["value"] == "done"
        await stopping


async def test_a_plans_context_reaches_those_that_ask_for_it() -> None:
    @agent("with")
    async def asks(payload: Any, context: dict[str, Any] | None = None) -> Any:
        return [payload, context]

    @agent("strict")
    async def strict(payload: str) -> str:
        return payload

    context = {"previous": 1}
    assert await asks.call({"n": 1, "context": context}) == [{"n": 1}, context]
    assert await asks.call({"payload": "text", "context": context}) == ["text", context]
    assert await strict.call({"payload": "text", "context": context}) == "text"


class Summarizer:
    """An agent with state of its own."""

    async def __call__(self, payload: Request) -> str:
        return payload.text.upper()

    def summarize(self, payload: Request) -> str:
        return payload.text.upper()


def _prefixed(prefix: str, payload: Request) -> str:
    return prefix + payload.text.upper()


@pytest.mark.parametrize(
    "function", [Summarizer(), Summarizer().summarize, partial(_prefixed, ""), partial(Summarizer())]
)
async def test_the_payload_of_objects_methods_and_partials_is_validated(function: Callable[..., Any]) -> None:
    """A payload that does not fit is the caller's fault (400), not a failure of the agent (500), which is retried."""
    async with caller(agent("a")(function)) as call:
        assert (await call({"text": "rain"}))[2]["value"] == "RAIN"
        status, _, body = await call({"txt": "rain"})
        assert status == 400
        assert body["error"].startswith("payload: text: ")


async def test_an_answer_that_cannot_be_sent_is_logged_without_our_traceback(caplog: pytest.LogCaptureFixture) -> None:
    @agent("a")
    async def wrong(payload: Any) -> Any:
        return {1, 2}

    @agent("b")
    def raises(payload: Any) -> Any:
        raise KeyError("text")

    for one, traced in ((wrong, False), (raises, True)):
        caplog.clear()
        async with caller(one) as call:
            assert (await call({}))[0] == 500
        [logged] = [record for record in caplog.records if "agent function failed" in record.getMessage()]
        assert bool(logged.exc_info) == traced


def test_functions_that_cannot_be_agents() -> None:
    for function in (lambda: 1, lambda *, payload: 1, lambda payload, other: 1):
        with pytest.raises(TypeError):
            agent("a")(function)  # type: ignore[arg-type]

    def yields(payload: Any) -> Iterator[Any]:
        yield payload

    async def yields_later(payload: Any) -> AsyncIterator[Any]:
        yield payload

    class Yields:
        def __call__(self, payload: Any) -> Iterator[Any]:
            yield payload

    for generator in (yields, yields_later, Yields(), partial(yields)):
        with pytest.raises(TypeError, match="an agent's function returns its answer"):
            agent("a")(generator)
    with pytest.raises(TypeError, match="not a class"):
        agent("a")(Summarizer)
    with pytest.raises(TypeError, match="this method has no object"):
        agent("a")(Summarizer.summarize)
    with pytest.raises(TypeError, match="an agent needs a name"):
        agent(yields)  # type: ignore[arg-type]
    for options in ({"concurrency": 0}, {"concurrency": "5"}, {"confidence": 2}, {"confidence": "high"}):
        with pytest.raises(ValueError, match="must be"):
            agent("a", **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="named"):
        agent("")


def test_the_payload_that_came_through_the_gateway() -> None:
    request = TaskRequest(task_description="sum")
    request.data.update({"task": "sum", "n": 2})
    assert payload_of(request) == {"task": "sum", "n": 2}
    request = TaskRequest(task_description="analyze")
    request.data.update({"value": [1, 2]})
    request.context["previous"] = '{"x": 1}'
    request.context["idempotencyKey"] = "k"
    assert payload_of(request) == {"payload": [1, 2], "context": {"previous": {"x": 1}}}
