"""Patterns through the port, executed by a control plane that behaves as scripted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from aiohttp import web

from agents_io.errors import (
    AgentError,
    AnswerTooLarge,
    BadResponse,
    CallTimeout,
    ClientError,
    ConnectionFailed,
    ExecutionFailed,
    Expired,
    ServerError,
    Unsupported,
)
from agents_io.protocols.patterns.control_plane import ControlPlane
from agents_io.protocols.patterns.transport import PatternExecution, PatternTransport, UnknownPattern
from agents_io.transport import Answer, Call
from schemas.messages import AgentRegistration, SecretRef

Reply = Callable[[web.Request], Any]


class Rig:
    """A control plane and a transport to it."""

    def __init__(self, url: str, auth: SecretRef | None = None) -> None:
        self.asked: list[tuple[str, Any, dict[str, str]]] = []
        self.url = url
        self.transport = PatternTransport([ControlPlane(url, auth, max_answer_bytes=10_000)])

    async def call(self, name: str = "sum", body: bytes = b'{"n": 1}', timeout_s: float = 10.0) -> Answer:
        """One call."""
        agent = AgentRegistration(id="p", endpoint=name, protocol="gateway")
        return await self.transport.call(agent, Call("t1", "k1", body, timeout_s))


@asynccontextmanager
async def plane(reply: Any, status: int = 200, auth: SecretRef | None = None) -> AsyncIterator[Rig]:
    """It answers every execution with `reply`: JSON, bytes, or a coroutine function."""
    rig: Rig

    async def execute(request: web.Request) -> web.StreamResponse:
        rig.asked.append((request.raw_path, orjson.loads(await request.read()), dict(request.headers)))
        if callable(reply):
            return await reply(request)  # type: ignore[no-any-return]
        body = reply if isinstance(reply, bytes) else orjson.dumps(reply)
        return web.Response(status=status, body=body, content_type="application/json")

    app = web.Application()
    app.router.add_post("/base/api/patterns/{name}/execute", execute)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    rig = Rig(f"http://127.0.0.1:{runner.addresses[0][1]}/base/", auth)
    try:
        yield rig
    finally:
        await rig.transport.close()
        await runner.cleanup()


DONE = {"execution": {"id": "e", "status": "completed", "result": {"x": 1}, "metrics": {"averageConfidence": 0.5}}}


async def test_what_is_asked_and_what_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The documented request, the name escaped, the token if there is one."""
    monkeypatch.setenv("PLANE_TOKEN", "s3cret")
    async with plane(DONE | {"duration": 12}, auth=SecretRef(env="PLANE_TOKEN")) as rig:
        assert await rig.call("my/pattern one") == Answer({"x": 1}, 0.5)
        [(path, body, headers)] = rig.asked
        assert path == "/base/api/patterns/my%2Fpattern%20one/execute"
        assert body["input"] == {"n": 1}
        assert body["options"] == {"timeout": 10_000, "executionId": "k1", "parentTaskId": "t1"}
        assert headers["Authorization"] == "Bearer s3cret"


async def test_without_a_confidence_it_is_one() -> None:
    """There is none to tell."""
    async with plane({"execution": {"status": "completed"}}) as rig:
        assert await rig.call() == Answer(None, 1.0)


async def _hang(request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def _reset(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def execution(**fields: Any) -> dict[str, Any]:
    """A reply with this execution."""
    return {"execution": {"status": "completed"} | fields}


@pytest.mark.parametrize(
    ("reply", "status", "error", "retryable"),
    [
        ({"error": "missing input"}, 400, ClientError, False),
        ({"error": "unknown"}, 404, UnknownPattern, False),
        ({"error": "boom"}, 500, ServerError, True),
        (execution(status="failed", error="no agents"), 200, ExecutionFailed, True),
        (execution(status="failed", error={"message": "x"}), 200, ExecutionFailed, True),
        (execution(status="running"), 200, BadResponse, True),
        (execution(metrics={"averageConfidence": 1.5}), 200, BadResponse, True),
        (execution(metrics={"averageConfidence": "high"}), 200, BadResponse, True),
        ({"execution": None}, 200, BadResponse, True),
        ([], 200, BadResponse, True),
        (b"<html>", 200, BadResponse, True),
        (b'{"execution": {"status": "completed", "result": ' + b"[" * 200 + b"]" * 200 + b"}}", 200, BadResponse, True),
        (execution(result="x" * 20_000), 200, AnswerTooLarge, False),
        (_reset, 200, ConnectionFailed, True),
    ],
)
async def test_what_goes_wrong_is_one_clear_error(
    reply: Any, status: int, error: type[AgentError], retryable: bool
) -> None:
    """By the contract's table."""
    async with plane(reply, status) as rig:
        with pytest.raises(error) as caught:
            await rig.call()
        assert (type(caught.value), caught.value.retryable) == (error, retryable)
        assert caught.value.code == error.code
        assert len(caught.value.message) < 250


async def test_the_timeout_holds() -> None:
    """Of the whole execution."""
    async with plane(_hang) as rig:
        with pytest.raises(CallTimeout, match=r"0\.1 s"):
            await rig.call(timeout_s=0.1)
        with pytest.raises(Expired):
            await rig.call(timeout_s=0.0)
        assert len(rig.asked) == 1


class Local:
    """Another adapter."""

    closed = False

    async def execute(
        self, pattern_name: str, input: Any, *, timeout: int, execution_id: str, parent_task_id: str
    ) -> PatternExecution:
        """Knows one pattern."""
        if pattern_name != "mine":
            raise UnknownPattern(f"no template {pattern_name!r}")
        return PatternExecution(
            execution_id, pattern_name, "completed", [input, timeout, parent_task_id], confidence=0.25
        )

    async def close(self) -> None:
        """Remember it."""
        self.closed = True


async def test_adapters_are_asked_in_turn() -> None:
    """The first that knows the pattern executes it; if none does, the last one's word counts."""
    async with plane({}, 404) as rig:
        local = Local()
        transport = PatternTransport([local, ControlPlane(rig.url)])
        mine, other = (AgentRegistration(id="p", endpoint=name, protocol="gateway") for name in ("mine", "other"))
        assert await transport.call(mine, Call("t1", "k1", b"7", 2.0)) == Answer([7, 2000, "t1"], 0.25)
        assert not rig.asked
        with pytest.raises(UnknownPattern, match="control plane has no pattern 'other'"):
            await transport.call(other, Call("t1", "k1", b"7", 2.0))
        with pytest.raises(Unsupported):
            await transport.check_health(mine, 1.0)
        with pytest.raises(Unsupported):
            await PatternTransport([]).call(mine, Call("t1", "k1", b"7", 2.0))
        await transport.close()
        assert local.closed


async def test_a_control_plane_that_echoes_its_token_is_not_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither on errors nor on replies that are none."""
    monkeypatch.setenv("PLANE_TOKEN", "s3cret-token")
    for reply, status in (({"error": "bad s3cret-token"}, 500), (b"{ s3cret-token", 200)):
        async with plane(reply, status, SecretRef(env="PLANE_TOKEN")) as rig:
            with pytest.raises(AgentError) as caught:
                await rig.call()
            assert "s3cret" not in caught.value.message
