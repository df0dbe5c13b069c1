"""Calls over plain HTTP: what is sent, secrets, agents that cannot be reached or speak something else, health."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from agents_io.errors import AgentError, BadResponse, ConnectionFailed, InternalError, Unsupported
from agents_io.fakes.http import FakeAgent
from agents_io.fakes.steps import answer, compute, raw, status
from agents_io.http.pooled_transport import PooledTransport
from agents_io.protocols.http.transport import HttpTransport
from agents_io.transport import Call, header_text
from schemas.messages import AgentRegistration, SecretRef
from tests.support.health import is_well
from tests.support.transport_makers import http
from tests.support.transport_makers import make as make


async def test_headers_on_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Key, budget, content type, trace and token; no cookie comes back."""
    monkeypatch.setenv("AGENT_TOKEN", "s3cret")
    cookie = raw(b'{"value":1,"confidence":1}', headers=(("Set-Cookie", "id=1"),))
    async with http(cookie) as rig:
        agent = rig.agent.model_copy(update={"auth": SecretRef(env="AGENT_TOKEN")})
        for _ in range(2):
            await rig.transport.call(agent, Call("t", "k", b"{}", 2.5, (("traceparent", "00-1-2-01"),)))
        seen = {name.lower(): value for name, value in rig.fake.calls[1].headers.items()}
        assert seen.pop("host") == rig.fake.endpoint.removeprefix("http://")
        assert seen == {
            "idempotency-key": "k",
            "x-request-timeout-ms": "2500",
            "content-type": "application/json",
            "content-length": "2",
            "accept": "application/json",
            "accept-encoding": "identity",
            "user-agent": "parallax-streams",
            "traceparent": "00-1-2-01",
            "authorization": "Bearer s3cret",
        }


async def test_nobody_listens() -> None:
    """A refused connection and a name that does not exist are the agent's failures."""
    async with http(answer()) as rig:
        pass
    transport = HttpTransport()
    for endpoint in (rig.fake.endpoint, "http://agent.invalid:1"):
        with pytest.raises(ConnectionFailed):
            await transport.call(AgentRegistration(id="a", endpoint=endpoint), Call("t", "t", b"{}", 5.0))
    await transport.close()


async def test_what_does_not_speak_http_is_a_bad_response() -> None:
    """Something else listens at that port."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    transport = HttpTransport()
    with pytest.raises(BadResponse, match="not HTTP"):
        await transport.call(AgentRegistration(id="a", endpoint=f"http://127.0.0.1:{port}"), Call("t", "t", b"{}", 5.0))
    await transport.close()
    server.close()


async def test_our_own_lack_of_descriptors_is_not_the_agents_fault() -> None:
    """EMFILE must not open its circuit."""

    class Exhausted(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            raise httpx.ConnectError("no") from OSError(24, "Too many open files")

    transport = HttpTransport(Exhausted())
    with pytest.raises(InternalError) as caught:
        await transport.call(AgentRegistration(id="a", endpoint="http://h"), Call("t", "t", b"{}", 5.0))
    assert not caught.value.counts_against_agent


async def test_a_changed_registration_takes_effect_at_the_next_call() -> None:
    """Same id, other endpoint."""
    async with http(answer("old")) as rig, http(answer("new")) as other:
        assert (await rig.call()).value == "old"
        assert (await rig.call(endpoint=other.fake.endpoint + "/")).value == "new"


async def test_secret_from_a_file_is_read_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rotation needs no restart."""
    monkeypatch.setattr("agents_io.secret_refs.RECHECK_S", 0.0)
    secret = tmp_path / "token"
    secret.write_text("one\n")
    async with http(answer()) as rig:
        agent = rig.agent.model_copy(update={"auth": SecretRef(file=str(secret))})
        for token in ("one", "number-two"):
            secret.write_text(token + "\n")
            await rig.transport.call(agent, Call("t", "t", b"{}", 5.0))
        assert [call.headers["Authorization"] for call in rig.fake.calls] == ["Bearer one", "Bearer number-two"]
        secret.write_text("bad\r\nX-Injected: 1")
        with pytest.raises(Unsupported, match="no token that a header can carry"):
            await rig.transport.call(agent, Call("t", "t", b"{}", 5.0))


@pytest.mark.parametrize("auth", [SecretRef(env="NO_SUCH_TOKEN"), SecretRef(file="no/such/file")])
async def test_missing_secret_makes_no_call(auth: SecretRef) -> None:
    """The name of the reference is told, and the agent is not blamed."""
    async with http(answer()) as rig:
        with pytest.raises(Unsupported, match=r"NO_SUCH_TOKEN|no/such/file"):
            await rig.call(auth=auth)
        assert len(rig.fake.calls) == 0


@pytest.mark.parametrize(
    ("code", "content"), [(500, b"boom canary-123"), (200, b"canary-123"), (200, b'{"x":"canary-123"}')]
)
async def test_secret_an_agent_echoes_is_in_no_error(
    monkeypatch: pytest.MonkeyPatch, code: int, content: bytes
) -> None:
    """Agents that dump their request headers exist."""
    monkeypatch.setenv("AGENT_TOKEN", "canary-123")
    async with http(status(code, body=content)) as rig:
        with pytest.raises(AgentError) as caught:
            await rig.call(auth=SecretRef(env="AGENT_TOKEN"))
        assert "canary" not in caught.value.message


@pytest.mark.parametrize("key", ["t 1", "tâche", "a\r\nX-Injected: 1", "日本", "utf-8''x"])
async def test_any_task_id_fits_the_header_and_unlike_ids_stay_unlike(key: str) -> None:
    """A task id is any text of 1 to 256 characters."""
    async with http(answer()) as rig:
        await rig.call(key)
        assert rig.fake.keys == {header_text(key): 1}
        assert "X-Injected" not in rig.fake.calls[0].headers
        assert header_text(key) != header_text(header_text(key))


async def test_health() -> None:
    """200 is healthy; 503, nobody there and too slow are not. Without such a page nothing can be said."""
    async with http(answer()) as rig:
        assert isinstance(rig.transport, HttpTransport)
        assert await is_well(rig.transport, rig.agent)
        rig.fake.healthy = False
        assert not await is_well(rig.transport, rig.agent)
        elsewhere = rig.agent.model_copy(update={"endpoint": f"{rig.agent.endpoint}/nowhere"})
        with pytest.raises(Unsupported):
            await rig.transport.check_health(elsewhere)
    transport = HttpTransport()
    assert not await is_well(transport, rig.agent, timeout_s=1.0)
    await transport.close()


async def test_body_of_more_than_a_mebibyte_is_sent_without_a_warning() -> None:
    """In more than one write."""
    async with http(compute(lambda payload: {"value": len(payload), "confidence": 1})) as rig:
        assert (await rig.call(body=b'"' + b"x" * 1_500_000 + b'"')).value == 1_500_000


async def test_connections_are_kept_and_none_leaks() -> None:
    """Calls one after the other share one connection."""
    pooled = PooledTransport()
    async with FakeAgent() as fake:
        transport = HttpTransport(pooled)
        agent = AgentRegistration(id="a", endpoint=fake.endpoint)
        for number in range(20):
            await transport.call(agent, Call(f"t{number}", f"t{number}", b"{}", 5.0))
        assert (pooled.pool.idle, pooled.pool.in_use) == (1, 0)
        await transport.close()
