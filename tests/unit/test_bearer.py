"""The token at the registry's door, over a real gRPC connection. At the gateway's: `test_gateway.py`."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import grpc
import grpc.aio
import pytest

from agents_io.grpc.services import method
from agents_io.secret_refs import Secret
from schemas.messages import AgentRegistration, SecretRef
from schemas.pb import registry_pb2 as pb
from streams.agents.registry import Registry
from streams.grpc_server import GrpcServer
from streams.rules.agents.leases import grant, with_lease
from streams.settings import Settings
from tests.unit.test_registry import NOW, Topic


async def test_nobody_without_the_token_learns_or_changes_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is asked, whether the agent exists or not; the right token is served, and a lost secret serves nobody."""
    monkeypatch.setenv("AGENTS_TOKEN", "s3cret")
    monkeypatch.setattr("agents_io.secret_refs.RECHECK_S", 0.0)
    monkeypatch.setattr("streams.agents.registry.MAX_WATCHERS", 1)  # one that was refused must leave its place
    topic = Topic()
    lease = grant("a", "1", 60_000, False, NOW)
    agent = AgentRegistration(id="a", endpoint="grpc://h:70", capabilities=["c"])
    await topic.write("a", with_lease(agent, lease))
    asked = {
        "Register": pb.RegisterRequest(agent=pb.AgentRegistration(id="b", endpoint="h:70")),
        "Unregister": pb.AgentRegistration(id="a"),
        "Renew": pb.RenewRequest(lease_id=lease.id),
        "ListAgents": pb.ListAgentsRequest(),
        "GetAgent": pb.GetAgentRequest(agent_id="a"),
        "Watch": pb.WatchRequest(include_initial=True),
    }
    assert list(asked) == pb.DESCRIPTOR.services_by_name["Registry"].methods_by_name.keys()
    guarded = Registry(
        table=topic.table, writer=topic.as_writer, wall_ms=lambda: NOW, token=Secret(SecretRef(env="AGENTS_TOKEN"))
    )
    server = GrpcServer(Settings(grpc_port=0))
    server.add(guarded.handler())
    await server.start()

    async def ask(name: str, *headers: tuple[str, str], **changes: Any) -> Any:
        call = method(channel, pb, "Registry", name)(changes.get("request", asked[name]), metadata=headers, timeout=10)
        return await (call.read() if name == "Watch" else call)

    async with AsyncExitStack() as stack:
        stack.push_async_callback(server.stop)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(server.address))
        for headers in ((), (("authorization", "Bearer wrong"),), (("authorization", "s3cret"),)):
            said = []
            for name in asked:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await ask(name, *headers)
                said.append((caught.value.code(), caught.value.details()))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ask("GetAgent", *headers, request=pb.GetAgentRequest(agent_id="nobody"))
            said.append((caught.value.code(), caught.value.details()))
            assert set(said) == {(grpc.StatusCode.UNAUTHENTICATED, "authorization: the token is missing or wrong")}
        assert len(topic.written) == 1
        right = ("authorization", "Bearer s3cret")
        assert (await ask("Watch", right)).agent.id == "a"
        for name in ("ListAgents", "GetAgent", "Renew", "Register", "Unregister"):
            await ask(name, right)
        assert [agent_id for agent_id, _ in topic.written[1:]] in (["b", "a"], ["a", "b", "a"]), (
            "a renewal is written now and then"
        )
        monkeypatch.delenv("AGENTS_TOKEN")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask("ListAgents", right)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
