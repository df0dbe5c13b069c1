"""TLS of the worker's own gRPC port, with real certificates (`tests/support/tls`): who gets in, and whom a worker trusts."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from structlog.testing import capture_logs

from agents_io import tls
from agents_io.errors import InternalError
from agents_io.fakes.steps import answer
from agents_io.grpc.services import method, service_handler
from agents_io.protocols.gateway.fake import GatewayFakeAgent
from agents_io.protocols.gateway.relay import Route
from agents_io.protocols.gateway.transport import HopLost
from agents_io.transport import Answer, Call
from schemas.pb import registry_pb2 as pb
from streams import grpc_tls
from streams.gateway.sweeper import GatewaySweeper
from streams.grpc_server import GrpcServer
from streams.grpc_tls import TlsUnusable, server_credentials
from streams.settings import Settings, SettingsError, load
from streams.settings_parts import GrpcTlsSettings
from tests.support.gateways import Book, Node, node
from tests.support.health import is_well

CERTS = Path(__file__).parent.parent / "support" / "tls"
NAME = "worker.parallax"


def given(**changes: Any) -> GrpcTlsSettings:
    """A worker's settings: its certificate, and whom it takes for a worker."""
    usual = {"cert_file": "worker.pem", "key_file": "worker.key", "ca_file": "authority.pem"}
    files = {name: str(CERTS / file) for name, file in (usual | changes).items() if name != "worker_name" and file}
    return GrpcTlsSettings(**files, worker_name=changes.get("worker_name", NAME))


MUTUAL = given(client_ca_file="authority.pem")


def ours(shown: str | None = None, authority: str = "authority.pem") -> grpc.ChannelCredentials:
    """An agent's: whom it trusts, and what it shows."""
    key, chain = ((CERTS / f"{shown}.{end}").read_bytes() if shown else None for end in ("key", "pem"))
    return grpc.ssl_channel_credentials((CERTS / authority).read_bytes(), key, chain)


def dialling(gateway: Node, credentials: grpc.ChannelCredentials | None, name: str = "a") -> GatewayFakeAgent:
    """An agent that dials in there."""
    options = (("grpc.ssl_target_name_override", NAME),) if credentials is not None else ()
    return GatewayFakeAgent(
        name, answer(), gateways=[gateway.address], credentials=credentials, channel_options=options
    )


async def call(at: Node, name: str = "a", timeout_s: float = 10.0) -> Answer:
    """One call."""
    return await at.transport.call(at.registrar.book.records[name], Call("t", "t", b"{}", timeout_s))


async def refused(address: str, credentials: grpc.ChannelCredentials | None) -> None:
    """Nobody gets as far as any service."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.ssl_target_name_override", NAME)]
    if credentials is None:
        channel = grpc.aio.insecure_channel(address, options=options[:1])
    else:
        channel = grpc.aio.secure_channel(address, credentials, options=options)
    async with channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await method(channel, pb, "Registry", "ListAgents")(pb.ListAgentsRequest(), timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_an_agent_dials_in_over_tls_and_plain_text_gets_nowhere() -> None:
    """The agent needs no certificate of its own; it does not trust a worker of a strange authority either."""
    async with node(Book(), tls=given()) as here:
        async with dialling(here, ours()) as agent:
            assert (await call(here)).value == "ok"
        assert agent.accepted == 1
        await refused(here.address, None)
        await refused(here.address, ours(authority="stranger.pem"))


async def test_without_a_certificate_nobody_is_let_in_when_one_is_asked_for() -> None:
    """Nor with one that is for servers only."""
    async with node(Book(), tls=MUTUAL) as here:
        async with dialling(here, ours("client")):
            assert (await call(here)).value == "ok"
        for credentials in (ours(), ours("server"), None):
            await refused(here.address, credentials)
        assert here.gateway.refused == 0, "no service was reached"


async def test_workers_call_each_other_over_tls() -> None:
    """By their own certificates, whose name is given once for all of them."""
    book = Book()
    async with (
        node(book, "n1", tls=MUTUAL) as home,
        node(book, "n2", tls=MUTUAL) as holder,
        dialling(holder, ours("client")) as agent,
    ):
        assert (await call(home)).value == "ok"
        assert await is_well(home.transport, book.records["a"], 5.0)
        assert len(agent.calls) == 1


@pytest.mark.parametrize(
    ("caller", "why"),
    [
        (given(client_ca_file="authority.pem", ca_file="stranger.pem"), "CERTIFICATE_VERIFY_FAILED"),
        (given(client_ca_file="authority.pem", worker_name="somebody.else"), "Hostname Verification"),
        (given(client_ca_file="authority.pem", worker_name=None), "Hostname Verification"),
    ],
    ids=["authority", "name", "address"],
)
async def test_a_worker_that_is_not_trusted_is_no_agents_fault(caller: GrpcTlsSettings, why: str) -> None:
    """Nothing is sent; the settings are named; the agent is not taken for lost."""
    book = Book()
    written: list[Any] = []

    async def write(*record: Any) -> Any:
        written.append(record)

    async with (
        node(book, "n1", tls=caller) as home,
        node(book, "n2", tls=MUTUAL) as holder,
        dialling(holder, ours("client")) as agent,
    ):
        with pytest.raises(InternalError, match=rf"{why}.*grpc_tls\.ca_file") as caught:
            await call(home)
        assert caught.value.retryable
        assert not caught.value.counts_against_agent
        everybody = book.records.values
        sweeper = GatewaySweeper(agents=everybody, mine=lambda _: True, relay=home.relay, write=write, grace_s=0.01)
        for _ in range(4):
            await sweeper.sweep()
        assert written == []
        assert len(agent.calls) == 0


async def test_a_worker_in_plain_text_is_not_talked_to_over_tls_nor_the_other_way() -> None:
    """A setting that only one of them has."""
    book = Book()
    async with (
        node(book, "n1", tls=given()) as safe,
        node(book, "n2") as plain,
        dialling(plain, None, "p"),
        dialling(safe, ours(), "s"),
    ):
        with pytest.raises(InternalError, match="speaks no TLS: TLS: WRONG_VERSION_NUMBER"):
            await call(safe, "p")
        with pytest.raises(HopLost):
            await call(plain, "s")


async def test_a_certificate_that_is_renewed_holds_from_the_next_connection_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that are half written, or wrong, leave the last good ones in force; so at the caller's end."""
    monkeypatch.setattr(grpc_tls, "RECHECK_S", 0.0)
    monkeypatch.setattr(tls, "RECHECK_S", 0.0)
    stamp = iter(range(1, 100))

    def put(name: str, source: str) -> None:
        shutil.copy(CERTS / source, tmp_path / name)
        os.utime(tmp_path / name, (1, next(stamp)))

    for name, source in (("w.pem", "worker.pem"), ("w.key", "worker.key"), ("ca.pem", "authority.pem")):
        put(name, source)
    files = {"cert_file": "w.pem", "key_file": "w.key", "ca_file": "ca.pem"}
    settings = GrpcTlsSettings(**{name: str(tmp_path / file) for name, file in files.items()}, worker_name=NAME)
    server = GrpcServer(Settings(grpc_port=0, grpc_tls=settings))
    server.add(service_handler(pb, "Registry", {"ListAgents": _nobody}))
    await server.start()
    try:
        assert await _shown(server.address, NAME) == NAME
        put("w.pem", "server.pem")
        assert await _shown(server.address, NAME) == NAME, "its key is not there yet"
        put("w.key", "server.key")
        assert await _shown(server.address, "localhost") == "localhost"
        (tmp_path / "w.key").unlink()
        assert await _shown(server.address, "localhost") == "localhost"
        put("w.key", "worker.key")
        put("w.pem", "worker.pem")
        assert await _shown(server.address, NAME) == NAME
    finally:
        await server.stop()
    book = Book()
    async with (
        node(book, "n1", tls=settings) as home,
        node(book, "n2", tls=given()) as holder,
        dialling(holder, ours()),
    ):
        relay, route = home.relay, Route(holder.address, "n2", holder.gateway.key_of("a") or "")
        assert await relay.presence(route, "a", 5.0)
        put("ca.pem", "worker.key")
        assert await relay.presence(route, "a", 5.0)
        put("ca.pem", "stranger.pem")
        with pytest.raises(InternalError, match="is not trusted"):
            await relay.presence(route, "a", 5.0)


async def _nobody(request: Any, context: Any) -> pb.ListAgentsResponse:
    return pb.ListAgentsResponse()


async def _shown(address: str, name: str) -> str:
    """`name`, when the server's certificate is for it."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.ssl_target_name_override", name)]
    async with grpc.aio.secure_channel(address, ours(), options=options) as channel:
        await method(channel, pb, "Registry", "ListAgents")(pb.ListAgentsRequest(), timeout=10)
    return name


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"cert_file": "none.pem"}, r"grpc_tls\.cert_file: the file .*none\.pem cannot be read \(No such file"),
        ({"key_file": "none.key"}, r"grpc_tls\.key_file: the file .*none\.key cannot be read"),
        ({"client_ca_file": "none.pem"}, r"grpc_tls\.client_ca_file: the file .*none\.pem cannot be read"),
        ({"ca_file": "none.pem"}, r"grpc_tls\.ca_file: the file .*none\.pem cannot be read"),
        ({"key_file": "server.key"}, r"grpc_tls\.key_file: .*worker\.pem and .*server\.key hold no certificate"),
        (
            {"cert_file": "authority.pem", "key_file": None},
            r"grpc_tls\.cert_file: .*authority\.pem hold no certificate",
        ),
        ({"client_ca_file": "worker.key"}, r"grpc_tls\.client_ca_file: .*worker\.key holds no CA certificate"),
        ({"ca_file": "worker.key"}, r"grpc_tls\.ca_file: .*worker\.key holds no CA certificate"),
    ],
)
def test_what_cannot_be_used_is_named_by_its_setting(changes: dict[str, Any], why: str) -> None:
    """Before the worker serves anybody; nothing of a key is shown."""
    with pytest.raises(TlsUnusable, match=why) as caught:
        server_credentials(given(**changes))
    assert "PRIVATE" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (MUTUAL, None),
        (given(), None),
        (given(worker_name=None), None),
        (GrpcTlsSettings(), None),
        (
            given(ca_file=None),
            r"grpc_tls\.ca_file: the certificate of .*worker\.pem is refused: unable to get local issuer",
        ),
        (given(worker_name="somebody.else"), r"grpc_tls\.ca_file: .* is refused: Hostname mismatch"),
        (given(client_ca_file="stranger.pem"), r"grpc_tls\.client_ca_file: .* is refused: (self-signed|unable to get)"),
        (
            given(cert_file="server.pem", key_file="server.key", client_ca_file="authority.pem", worker_name=None),
            r"grpc_tls\.client_ca_file: .*server\.pem is refused: unsuitable certificate purpose",
        ),
    ],
)
def test_workers_that_could_not_call_each_other_are_told_so_at_their_start(
    settings: GrpcTlsSettings, why: str | None
) -> None:
    """A warning: agents can be served all the same."""
    with capture_logs() as said:
        server_credentials(settings)
    assert [line["log_level"] for line in said] == ["warning"] * (why is not None)
    if why is not None:
        assert re.search(why, said[0]["reason"])


def test_a_certificate_and_its_key_may_lie_in_one_file(tmp_path: Path) -> None:
    """As for agents."""
    both = tmp_path / "both.pem"
    both.write_bytes((CERTS / "worker.key").read_bytes() + (CERTS / "worker.pem").read_bytes())
    assert server_credentials(GrpcTlsSettings(cert_file=str(both))) is not None
    assert server_credentials(GrpcTlsSettings()) is None


@pytest.mark.parametrize("name", ["key_file", "client_ca_file", "ca_file", "worker_name"])
def test_a_setting_that_means_nothing_without_a_certificate_is_refused(name: str) -> None:
    """Or somebody believes to be safe, and is not."""
    with pytest.raises(SettingsError, match=rf"grpc_tls: cert_file is missing.*{name} means nothing"):
        load(environ={f"PARALLAX_GRPC_TLS__{name.upper()}": "x"}, directory=Path("/nonexistent"))
