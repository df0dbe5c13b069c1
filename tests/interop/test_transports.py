"""Our transports against servers that nobody here wrote: answer, failure, timeout, cancel, wrong token, restart."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator

import orjson
import pytest

from agents_io.errors import AgentError
from agents_io.protocols.discovery import investigate
from agents_io.transport import Answer, Call, Transport
from schemas.messages import SecretRef
from streams.agents.transports import to_addresses
from streams.settings import Settings
from tests.interop.conftest import TOKEN
from tests.interop.kinds import Kind
from tests.interop.processes import Running
from tests.support.health import is_well

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]


@pytest.fixture
async def transport(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Transport]:
    """The worker's own, with the token at hand."""
    monkeypatch.setenv("INTEROP_TOKEN", TOKEN)
    every = to_addresses(Settings())
    try:
        yield every[kind.protocol]
    finally:
        for one in every.values():
            await one.close()


async def ask(
    transport: Transport,
    kind: Kind,
    server: Running,
    task: str,
    timeout_s: float = 20.0,
    env: str | None = "INTEROP_TOKEN",
) -> Answer | AgentError:
    """How one call ends."""
    key = f"{task}-{uuid.uuid4().hex}"
    body = orjson.dumps({"task": task})
    try:
        return await transport.call(kind.agent(server.port, env), Call(key, key, body, timeout_s))
    except AgentError as error:
        return error


def is_answer(end: Answer | AgentError) -> None:
    """The one answer that all servers give."""
    assert isinstance(end, Answer), end
    assert (end.value, end.confidence, end.metadata["why"]) == ("yes", 0.93, "so")


async def until_logged(server: Running, word: str, times: int, within_s: float = 15.0) -> None:
    """Wait until the server printed it so often."""
    deadline = time.monotonic() + within_s
    while server.log().count(word) < times:
        assert time.monotonic() < deadline, server.log()[-2000:]
        await asyncio.sleep(0.05)


async def test_answer_and_health(transport: Transport, kind: Kind, server: Running) -> None:
    """Value, confidence and what stands beside them."""
    is_answer(await ask(transport, kind, server, "ok"))
    if kind.is_found:
        assert await is_well(transport, kind.agent(server.port, "INTEROP_TOKEN"), 10.0)


async def test_found_by_its_address(transport: Transport, kind: Kind, server: Running) -> None:
    """As `parallax agents add ID URL` does."""
    if kind.scheme != "http":
        return  # nothing to find out: the scheme says it
    seen = await investigate(kind.endpoint(server.port), SecretRef(env="INTEROP_TOKEN"), 10.0)
    if not kind.is_found:
        assert seen.found is None
        assert seen.answered
        return
    assert seen.found is not None, seen.reasons
    assert seen.found.protocol == kind.protocol


async def test_failure(transport: Transport, kind: Kind, server: Running) -> None:
    """A failed task is the agent's failure, and is told at once."""
    end = await ask(transport, kind, server, "fail")
    assert isinstance(end, AgentError)
    assert (end.code, end.counts_against_agent) == kind.failure, end.message
    is_answer(await ask(transport, kind, server, "ok"))


async def test_timeout(transport: Transport, kind: Kind, server: Running) -> None:
    """The agent is told to stop; the next task is answered."""
    before = server.log().count("CANCELLED")
    end = await ask(transport, kind, server, f"slow {kind.slow_s}", 1.5)
    assert isinstance(end, AgentError)
    assert end.code == "timeout", end.message
    if kind.cancels:
        await until_logged(server, "CANCELLED", before + 1)
    is_answer(await ask(transport, kind, server, "ok"))


async def test_cancel(transport: Transport, kind: Kind, server: Running) -> None:
    """So it is when the call is cancelled."""
    before, begun = server.log().count("CANCELLED"), server.log().count("ACT slow")
    call = asyncio.create_task(ask(transport, kind, server, f"slow {kind.slow_s}", 60.0))
    await until_logged(server, "ACT slow", begun + 1)
    await asyncio.sleep(0.3)  # the answer that names the task is on its way
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    if kind.cancels:
        await until_logged(server, "CANCELLED", before + 1)
    is_answer(await ask(transport, kind, server, "ok"))


async def test_wrong_token(transport: Transport, kind: Kind, server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither tried again nor held against the agent; a public card or health page does not hide it."""
    monkeypatch.setenv("WRONG_TOKEN", "wrong")
    for env in ("WRONG_TOKEN", None):
        end = await ask(transport, kind, server, "ok", env=env)
        assert isinstance(end, AgentError)
        assert (end.code, end.retryable, end.counts_against_agent) == ("http_4xx", False, False), end.message
    if kind.scheme == "http":
        assert not await is_well(transport, kind.agent(server.port, "WRONG_TOKEN"), 10.0)


async def test_restart_between_two_tasks(transport: Transport, kind: Kind, server: Running) -> None:
    """Sessions, connections and cards are of yesterday: the next task is answered at its first attempt."""
    is_answer(await ask(transport, kind, server, "ok"))
    await asyncio.to_thread(server.restart)
    is_answer(await ask(transport, kind, server, "ok"))
