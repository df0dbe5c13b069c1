"""Agents' endpoints held to the rules of http tasks where that is wanted: by every protocol that connects to an address."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest

from agents_io.errors import ConnectionFailed, ForbiddenTarget, Unsupported
from agents_io.fakes.http import FakeAgent
from agents_io.fakes.steps import answer
from agents_io.protocols.grpc.fake import GrpcFakeAgent
from agents_io.protocols.grpc.transport import GrpcTransport
from agents_io.rules.targets import AgentWall
from agents_io.tls import TlsFiles
from agents_io.transport import Answer, Call
from schemas.messages import AgentRegistration
from streams.agents.transports import together
from streams.settings import Settings, SettingsError, load
from tests.support.health import is_well

CERTS = Path(__file__).parent.parent / "support" / "tls"
CALL = Call("t", "k", b"{}", 10.0)
NEEDS: dict[str, dict[str, Any]] = {"openai": {"model": "m"}, "mcp": {"tool": "t"}}


def agent(endpoint: str, protocol: str) -> AgentRegistration:
    """A registration."""
    return AgentRegistration.model_validate(
        {"id": "a", "endpoint": endpoint, "protocol": protocol, "metadata": NEEDS.get(protocol, {})}
    )


def settings(**agents: str) -> Settings:
    """With these lists."""
    return Settings.model_validate({"agents": agents})


@pytest.mark.parametrize("protocol", ["http", "openai", "a2a", "mcp", "grpc"])
@pytest.mark.parametrize("lists", [{"networks": "10.0.0.0/8"}, {"allow": "*"}, {"allow": "agents.example"}])
async def test_no_protocol_leads_to_an_address_that_is_not_allowed(protocol: str, lists: dict[str, str]) -> None:
    """Neither as it stands in the endpoint nor by a name; health checks do not either."""
    async with FakeAgent(answer()) as fake, GrpcFakeAgent([answer()]) as grpc_fake:
        port = (grpc_fake if protocol == "grpc" else fake).endpoint.rpartition(":")[2]
        transports = together(settings(**lists))
        try:
            for host in ("127.0.0.1", "localhost"):
                one = agent(f"{'grpc' if protocol == 'grpc' else 'http'}://{host}:{port}", protocol)
                with pytest.raises(ForbiddenTarget, match=r"endpoint: .*setting agents\.(networks|allow)"):
                    await transports.call(one, CALL)
                try:
                    assert not await is_well(transports, one, 5.0)
                except (Unsupported, ForbiddenTarget):
                    continue
        finally:
            await transports.close()
        assert not fake.calls
        assert not grpc_fake.calls


@pytest.mark.parametrize(
    ("lists", "host", "reached"),
    [
        ({}, "127.0.0.1", True),
        ({"networks": "127.0.0.0/8,::1/128"}, "localhost", True),
        ({"allow": "127.0.0.1:PORT"}, "127.0.0.1", True),
        ({"allow": "localhost:PORT"}, "localhost", False),  # a name is no leave for the addresses it leads to
        ({"allow": "localhost:PORT", "networks": "127.0.0.0/8,::1/128"}, "localhost", True),
        ({"allow": "localhost:1", "networks": "127.0.0.0/8,::1/128"}, "localhost", False),
        ({"allow": "localhost", "networks": "127.0.0.0/8,::1/128"}, "localhost", False),  # http's own port
        ({"allow": "*,localhost:1", "networks": "127.0.0.0/8,::1/128"}, "localhost", True),
    ],
)
@pytest.mark.parametrize("protocol", ["http", "grpc"])
async def test_what_is_allowed_is_called(lists: dict[str, str], host: str, reached: bool, protocol: str) -> None:
    """By hosts as for http tasks, by networks, and everything where no list is given."""
    async with FakeAgent(answer("ok", 0.9)) as fake, GrpcFakeAgent([answer("ok", 0.9)]) as grpc_fake:
        port = (grpc_fake if protocol == "grpc" else fake).endpoint.rpartition(":")[2]
        transports = together(settings(**{name: text.replace("PORT", port) for name, text in lists.items()}))
        try:
            one = agent(f"{protocol}://{host}:{port}", protocol)
            if reached:
                assert (await transports.call(one, CALL)).confidence == 0.9
            else:
                with pytest.raises(ForbiddenTarget, match="endpoint: "):
                    await transports.call(one, CALL)
        finally:
            await transports.close()


async def test_a_name_leads_where_it_was_looked_up_and_nowhere_else() -> None:
    """The system's resolver knows none of that name: gRPC was given the address that passed."""

    async def lookup(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    async with GrpcFakeAgent([answer("ok", 0.9)]) as fake:
        port = fake.endpoint.rpartition(":")[2]
        transport = GrpcTransport(wall=AgentWall([], ["127.0.0.0/8"]), lookup=lookup)
        assert (await transport.call(agent(f"grpc://agent.test:{port}", "grpc"), CALL)).value == "ok"
        await transport.close()


async def test_a_channel_leads_to_the_address_that_passed_and_keeps_the_name() -> None:
    """gRPC itself never resolves the name; TLS checks the certificate against it; an open channel asks no resolver."""
    asked: list[str] = []

    async def lookup(host: str, port: int) -> list[str]:
        asked.append(host)
        return answers.pop(0) if len(answers) > 1 else answers[0]

    pair = [((CERTS / "server.key").read_bytes(), (CERTS / "server.pem").read_bytes())]
    wall = AgentWall([], ["127.0.0.0/8"])
    files = TlsFiles(str(CERTS / "authority.pem"))
    async with GrpcFakeAgent([answer("ok", 0.9)], credentials=grpc.ssl_server_credentials(pair)) as fake:
        port = fake.endpoint.rpartition(":")[2]
        transport = GrpcTransport(tls=files, wall=wall, lookup=lookup)
        try:
            answers = [["127.0.0.1"], ["169.254.169.254"]]
            named = agent(f"grpcs://localhost:{port}", "grpc")
            for _ in range(3):
                assert isinstance(await transport.call(named, CALL), Answer)
            assert asked == ["localhost"]
            answers = [["127.0.0.1"]]
            with pytest.raises(ConnectionFailed):  # the certificate is for another name
                await transport.call(agent(f"grpcs://elsewhere.test:{port}", "grpc"), CALL)
        finally:
            await transport.close()


@pytest.mark.parametrize("found", [["127.0.0.1", "169.254.169.254"], ["::ffff:169.254.169.254"], ["no address"]])
async def test_one_address_that_is_not_allowed_refuses_the_name(found: list[str]) -> None:
    """Whichever of them a connection would have taken."""

    async def lookup(host: str, port: int) -> list[str]:
        return found

    transport = GrpcTransport(wall=AgentWall([], ["127.0.0.0/8"]), lookup=lookup)
    with pytest.raises(ForbiddenTarget, match="endpoint: "):
        await transport.call(agent("grpc://name.test:1", "grpc"), CALL)
    await transport.close()


async def test_a_name_that_cannot_be_resolved_is_a_failed_connection() -> None:
    """Which is tried again, as without the wall."""

    async def lookup(host: str, port: int) -> list[str]:
        raise OSError("no such name")

    transport = GrpcTransport(wall=AgentWall([], ["127.0.0.0/8"]), lookup=lookup)
    with pytest.raises(ConnectionFailed, match=r"name\.test"):
        await transport.call(agent("grpc://name.test:1", "grpc"), CALL)
    await transport.close()


@pytest.mark.parametrize(("name", "text"), [("ALLOW", "http://a/b"), ("NETWORKS", "10.0.0.1/8"), ("ALLOW", "*.*")])
def test_lists_that_cannot_be_read_are_refused(name: str, text: str) -> None:
    """At the start, with what was written."""
    with pytest.raises(SettingsError, match="is no"):
        load({}, {f"PARALLAX_AGENTS__{name}": text})
