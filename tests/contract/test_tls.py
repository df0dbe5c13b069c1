"""TLS and API keys towards agents: who is trusted, who we are, and that no secret shows. Certificates: `tests/support/tls`."""

from __future__ import annotations

import os
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from pydantic import ValidationError

from agents_io import secret_refs, tls
from agents_io.errors import AgentError, ClientError, ConnectionFailed, Unsupported
from agents_io.http.pooled_transport import PooledTransport
from agents_io.protocols.http.transport import HttpTransport
from agents_io.tls import CONTEXTS, TlsContexts, TlsFiles, tls_of
from agents_io.transport import Call
from schemas.messages import AgentRegistration, SecretRef
from streams.dispatch.task_kinds import task_kinds
from streams.settings import Settings
from streams.settings_parts import HttpTaskSettings
from tests.support.memory import held

CERTS = Path(__file__).parent.parent / "support" / "tls"
CA = {"caFile": str(CERTS / "authority.pem")}
CLIENT = {"certFile": str(CERTS / "client.pem"), "keyFile": str(CERTS / "client.key")}


class Agent:
    """What it saw, and where it is."""

    def __init__(self) -> None:
        self.endpoint = ""
        self.peers: list[Any] = []
        self.headers: list[dict[str, str]] = []

    def registration(self, **fields: Any) -> AgentRegistration:
        """How it is registered."""
        return AgentRegistration.model_validate({"id": "a", "endpoint": self.endpoint} | fields)


@asynccontextmanager
async def agent(wants_client: bool = False) -> AsyncIterator[Agent]:
    """An agent behind TLS; `wants_client`: it talks to nobody without a certificate of its authority."""
    one = Agent()

    async def analyze(request: web.Request) -> web.Response:
        assert request.transport is not None
        one.peers.append(request.transport.get_extra_info("peercert"))
        one.headers.append(dict(request.headers))
        return web.json_response({"value": "ok", "confidence": 1})

    app = web.Application()
    app.router.add_post("/analyze", analyze)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTS / "server.pem", CERTS / "server.key")
    if wants_client:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(CERTS / "authority.pem")
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    one.endpoint = f"https://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield one
    finally:
        await runner.cleanup()


async def call(registration: AgentRegistration, transport: HttpTransport | None = None) -> Any:
    """One call."""
    transport = transport or HttpTransport()
    try:
        return (await transport.call(registration, Call("t", "k", b"{}", 10.0))).value
    finally:
        await transport.close()


async def test_a_private_authority_is_trusted_where_it_is_named() -> None:
    """For that agent; without it, or with another, no call arrives."""
    async with agent() as one:
        assert await call(one.registration(metadata={"tls": CA})) == "ok"
        for metadata in (None, {"tls": {"caFile": str(CERTS / "stranger.pem")}}):
            with pytest.raises(ConnectionFailed, match="certificate is refused: unable to get local issuer"):
                await call(one.registration(metadata=metadata))
        assert len(one.headers) == 1


async def test_the_name_is_verified() -> None:
    """The right authority is not enough."""
    async with agent() as one:
        elsewhere = one.endpoint.replace("127.0.0.1", "127.0.0.2")
        port = int(one.endpoint.rpartition(":")[2])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTS / "server.pem", CERTS / "server.key")
        runner = web.AppRunner(web.Application(), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.2", port, ssl_context=context).start()
        try:
            with pytest.raises(ConnectionFailed, match="certificate is refused: IP address mismatch"):
                await call(AgentRegistration(id="a", endpoint=elsewhere, metadata={"tls": CA}))
        finally:
            await runner.cleanup()


async def test_a_client_certificate_is_shown() -> None:
    """And without it there is no answer."""
    async with agent(wants_client=True) as one:
        assert await call(one.registration(metadata={"tls": CA | CLIENT})) == "ok"
        assert one.peers[0]["subject"][0][0] == ("commonName", "worker")
        with pytest.raises(ConnectionFailed):
            await call(one.registration(metadata={"tls": CA}))
        assert len(one.headers) == 1


async def test_the_settings_hold_for_every_agent_that_names_no_files() -> None:
    """A registration's own win as a whole."""
    files = TlsFiles(CA["caFile"], CLIENT["certFile"], CLIENT["keyFile"])

    def transport() -> HttpTransport:
        return HttpTransport(PooledTransport(max_connections=10, tls=lambda: CONTEXTS.get(files)))

    async with agent(wants_client=True) as one:
        assert await call(one.registration(), transport()) == "ok"
        with pytest.raises(ConnectionFailed):
            await call(one.registration(metadata={"tls": CA}), transport())


async def test_http_tasks_trust_the_settings_authority_and_show_no_certificate() -> None:
    """Tasks name the hosts they call: who we are is no business of theirs."""
    settings = Settings.model_validate(
        {
            "tls": {"ca_file": CA["caFile"], "cert_file": CLIENT["certFile"], "key_file": CLIENT["keyFile"]},
            "http_tasks": {"allow": "127.0.0.1:1"},
        }
    )
    for wants_client in (False, True):
        async with agent(wants_client) as one:
            allow = {"allow": one.endpoint.removeprefix("https://")}
            kinds = task_kinds(settings.model_copy(update={"http_tasks": HttpTaskSettings.model_validate(allow)}))
            order = orjson.dumps({"url": one.endpoint + "/analyze", "payload": None})
            transport = kinds.transports["task:http"]
            try:
                if wants_client:
                    with pytest.raises(ConnectionFailed):
                        await transport.call(one.registration(), Call("t", "k", order, 10.0))
                else:
                    assert (await transport.call(one.registration(), Call("t", "k", order, 10.0))).confidence == 1.0
                    assert one.peers == [None]
            finally:
                for every in kinds.transports.values():
                    await every.close()


async def test_the_control_plane_is_shown_our_certificate() -> None:
    """The operator named it."""
    async with agent(wants_client=True) as one:
        settings = Settings.model_validate(
            {
                "tls": {"ca_file": CA["caFile"], "cert_file": CLIENT["certFile"], "key_file": CLIENT["keyFile"]},
                "control_plane": {"url": one.endpoint},
            }
        )
        transport = task_kinds(settings).transports["task:pattern"]
        try:
            with pytest.raises(ClientError, match="has no pattern"):
                await transport.call(one.registration(), Call("t", "k", b"{}", 10.0))
        finally:
            await transport.close()


def test_a_file_that_changes_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rotated certificate needs no restart; one that did not change gives the same context, hence the same connections."""
    monkeypatch.setattr(tls, "RECHECK_S", 0.0)
    path = tmp_path / "ca.pem"
    shutil.copy(CERTS / "authority.pem", path)
    contexts, files = TlsContexts(), TlsFiles(str(path))
    first = contexts.get(files)
    assert first is not None
    assert contexts.get(files) is first
    shutil.copy(CERTS / "stranger.pem", path)
    os.utime(path, (1, 1))
    second = contexts.get(files)
    assert second is not None
    assert second is not first
    assert "Somebody else" in str(second.get_ca_certs())
    path.unlink()
    with pytest.raises(Unsupported, match=r"ca\.pem cannot be read"):
        contexts.get(files)


def test_how_many_contexts_are_kept_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Registrations come from a topic."""
    monkeypatch.setattr(tls, "MAX_CONTEXTS", 2)
    contexts = TlsContexts()
    for number in range(4):
        path = tmp_path / f"{number}.pem"
        shutil.copy(CERTS / "authority.pem", path)
        contexts.get(TlsFiles(str(path)))
    assert len(held(contexts, ssl.SSLContext)) == 2


@pytest.mark.parametrize(
    "given",
    ["x", [], {"ca": "x"}, {"caFile": 3}, {"caFile": ""}, {"keyFile": "x"}, {"caFile": "x", "verify": False}],
    ids=str,
)
def test_what_names_no_files_is_the_registrations_fault(given: Any) -> None:
    """Verification cannot be switched off either."""
    with pytest.raises(Unsupported, match=r"metadata\.tls"):
        tls_of({"tls": given})


@pytest.mark.parametrize(
    "files",
    [
        TlsFiles("/nowhere.pem"),
        TlsFiles(str(CERTS / "client.key")),
        TlsFiles(None, str(CERTS / "authority.pem")),
        TlsFiles(None, str(CERTS / "client.pem"), str(CERTS / "server.key")),
    ],
)
def test_files_that_cannot_be_used_are_named(files: TlsFiles) -> None:
    """With the reason, and nothing of their contents."""
    with pytest.raises(Unsupported, match=r"tls: .*\.(pem|key)") as caught:
        TlsContexts().get(files)
    assert "PRIVATE" not in caught.value.message


async def test_an_api_key_goes_into_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is, and no Authorization beside it."""
    monkeypatch.setenv("AGENT_KEY", "k3y")
    async with agent() as one:
        auth = {"env": "AGENT_KEY", "scheme": "header", "header": "X-Api-Key"}
        await call(one.registration(metadata={"tls": CA}, auth=auth))
        await call(one.registration(metadata={"tls": CA}, auth={"env": "AGENT_KEY", "scheme": "bearer"}))
        assert one.headers[0]["X-Api-Key"] == "k3y"
        assert "Authorization" not in one.headers[0]
        assert one.headers[1]["Authorization"] == "Bearer k3y"
        assert "X-Api-Key" not in one.headers[1]


@pytest.mark.parametrize(
    "auth",
    [
        {"env": "A", "header": "X-Api-Key"},
        {"env": "A", "scheme": "header"},
        {"env": "A", "scheme": "bearer", "header": "X-Api-Key"},
        {"env": "A", "scheme": "basic"},
        {"env": "A", "scheme": "header", "header": "X\r\nY"},
        {"env": "A", "scheme": "header", "header": "Host"},
        {"env": "A", "scheme": "header", "header": "Content-Length"},
        {"env": "A", "file": "b"},
    ],
)
def test_a_reference_that_is_none_is_refused(auth: dict[str, Any]) -> None:
    """At registration."""
    with pytest.raises(ValidationError):
        SecretRef.model_validate(auth)


async def test_what_a_registration_was_is_still_one() -> None:
    """Bearer, as before; nothing new is written for it."""
    assert SecretRef.model_validate({"env": "A"}).wire() == {"env": "A"}


async def test_a_key_in_a_file_is_read_again_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In no error, whatever is wrong with it."""
    monkeypatch.setattr(secret_refs, "RECHECK_S", 0.0)
    path = tmp_path / "key"
    auth = {"file": str(path), "scheme": "header", "header": "X-Api-Key"}
    async with agent() as one:
        registration = one.registration(metadata={"tls": CA}, auth=auth)
        for content in ("first", "second"):
            path.write_text(content)
            await call(registration)
        assert [headers["X-Api-Key"] for headers in one.headers] == ["first", "second"]
        path.write_text("s3cret\nwith a line")
        with pytest.raises(AgentError) as caught:
            await call(registration)
        assert "s3cret" not in caught.value.message
