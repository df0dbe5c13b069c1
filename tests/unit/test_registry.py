"""The registry service over a real gRPC connection, the agents' topic in memory; and the keeper of leases beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import grpc
import grpc.aio
import pytest
from aiokafka.structs import ConsumerRecord

from agents_io.errors import ConnectionFailed, ServerError, Unsupported
from agents_io.grpc.services import method
from agents_io.transport import Transport
from schemas.codec import dumps
from schemas.messages import AgentRegistration
from schemas.pb import registry_pb2 as pb
from schemas.wire_format import KEY_HEADER
from streams.agents.lease_expirer import LeaseExpirer
from streams.agents.registration_writer import NotWritten, RegistrationWriter
from streams.agents.registry import Registry
from streams.grpc_server import GrpcServer, PortTaken
from streams.rules.agents.leases import GRACE_MS, REMEMBER_MS, lease_of
from streams.settings import Settings
from tests.support.followed import followed_agents
from tests.support.partition_fakes import intake
from tests.support.wait import until

NOW = 1_700_000_000_000


class Topic:
    """The topic and the table that follows it, at once; `down`: the brokers take nothing."""

    def __init__(self) -> None:
        self.table, self.apply = followed_agents()
        self.written: list[tuple[str, AgentRegistration | None]] = []
        self.told: list[tuple[str, bool]] = []
        self.down = False
        self.now = NOW
        self.table.on_change(lambda agent_id, agent, _: self.told.append((agent_id, agent is not None)))

    async def write(self, agent_id: str, agent: AgentRegistration | None) -> None:
        """As the writer does."""
        if self.down:
            raise NotWritten("the brokers are away")
        self.written.append((agent_id, agent))
        value = None if agent is None else dumps(agent.wire())
        record = ConsumerRecord("t.agents", 0, len(self.written), NOW, 0, agent_id.encode(), value, None, 0, 0, ())
        self.apply(record)

    @property
    def as_writer(self) -> RegistrationWriter:
        """In the writer's place."""
        return cast(RegistrationWriter, self)


class Served:
    """A registry being served, and a client."""

    def __init__(self, topic: Topic, registry: Registry, channel: grpc.aio.Channel, address: str) -> None:
        self.topic = topic
        self.registry = registry
        self.address = address
        self._channel = channel

    async def ask(self, name: str, request: Any) -> Any:
        """One call of a method."""
        return await method(self._channel, pb, "Registry", name)(request, timeout=10)

    async def register(self, agent_id: str = "a", ttl_s: int = 5, auto_renew: bool = False, **fields: Any) -> str:
        """Register; the lease's id."""
        agent = pb.AgentRegistration(**({"id": agent_id, "endpoint": "h:70", "capabilities": ["c"]} | fields))
        agent.ttl.seconds = ttl_s
        answer = await self.ask("Register", pb.RegisterRequest(agent=agent, auto_renew=auto_renew))
        assert answer.success
        return str(answer.lease_id)

    def watch(self, **fields: Any) -> Any:
        """A stream of what changes."""
        return method(self._channel, pb, "Registry", "Watch")(pb.WatchRequest(**fields), timeout=30)

    async def admits_a_watcher(self) -> bool:
        """Whether there is room for another one, which leaves at once."""
        stream = self.watch(include_initial=True)
        try:
            await stream.read()
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
            return False
        finally:
            stream.cancel()
        return True

    async def refusal(self, name: str, request: Any) -> grpc.StatusCode:
        """The status a call ends with."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.ask(name, request)
        return caught.value.code()


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    """Served on a free port."""
    topic = Topic()
    registry = Registry(table=topic.table, writer=topic.as_writer, wall_ms=lambda: topic.now)
    server = GrpcServer(Settings(grpc_port=0))
    server.add(registry.handler())
    await server.start()
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield Served(topic, registry, channel, server.address)
    await server.stop()


async def test_register_list_get_unregister(served: Served) -> None:
    """What an agent does in its life."""
    await served.register("a", name="Adder")
    await served.register("b", capabilities=["d"])
    listed = await served.ask("ListAgents", pb.ListAgentsRequest(capabilities=["c"]))
    assert [(agent.id, agent.endpoint) for agent in listed.agents] == [("a", "h:70")]
    assert listed.total_count == 1
    assert (await served.ask("GetAgent", pb.GetAgentRequest(agent_id="a"))).name == "Adder"
    assert (await served.ask("Unregister", pb.AgentRegistration(id="a"))).success
    assert served.topic.written[-1] == ("a", None)
    assert (await served.ask("Unregister", pb.AgentRegistration(id="a"))).success
    assert len(served.topic.written) == 3


async def test_what_is_refused_and_how(served: Served) -> None:
    """The statuses existing agents look at."""
    nobody = pb.RenewRequest(lease_id="x.nobody")
    assert await served.refusal("Register", pb.RegisterRequest()) == grpc.StatusCode.INVALID_ARGUMENT
    assert await served.refusal("Unregister", pb.AgentRegistration()) == grpc.StatusCode.INVALID_ARGUMENT
    assert await served.refusal("Renew", nobody) == grpc.StatusCode.NOT_FOUND
    assert await served.refusal("Renew", pb.RenewRequest()) == grpc.StatusCode.NOT_FOUND
    assert await served.refusal("GetAgent", pb.GetAgentRequest(agent_id="x")) == grpc.StatusCode.NOT_FOUND
    assert await served.refusal("ListAgents", pb.ListAgentsRequest(limit=-1)) == grpc.StatusCode.INVALID_ARGUMENT
    served.topic.down = True
    agent = pb.AgentRegistration(id="a", endpoint="h:1")
    assert await served.refusal("Register", pb.RegisterRequest(agent=agent)) == grpc.StatusCode.UNAVAILABLE


async def test_a_renewal_moves_the_end_and_is_told_to_nobody(served: Served) -> None:
    """The agent did not change; a lease that was replaced is no longer renewed."""
    first = await served.register(ttl_s=60)
    served.topic.now += 30_000
    assert (await served.ask("Renew", pb.RenewRequest(lease_id=first))).lease_id == first
    agent = served.topic.table.get("a")
    assert agent is not None
    lease = lease_of(agent)
    assert lease is not None
    assert lease.expires_ms == NOW + 90_000
    assert served.topic.told == [("a", True)]
    second = await served.register(ttl_s=60)
    assert second != first
    assert await served.refusal("Renew", pb.RenewRequest(lease_id=first)) == grpc.StatusCode.NOT_FOUND


async def test_a_flood_of_renewals_writes_little(served: Served) -> None:
    """Each is answered."""
    lease_id = await served.register(ttl_s=60)
    for _ in range(20):
        served.topic.now += 100
        assert (await served.ask("Renew", pb.RenewRequest(lease_id=lease_id))).success
    assert len(served.topic.written) <= 3


async def _next(stream: Any) -> tuple[str, str]:
    event = await asyncio.wait_for(stream.read(), 10)
    return pb.WatchEvent.Type.Name(event.type), event.agent.id


async def test_a_watcher_sees_what_is_there_and_what_changes(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Added, modified, deleted; renewals and agents of other capabilities are not told."""
    lease_id = await served.register("a", ttl_s=60)
    stream = served.watch(capabilities=["c"], include_initial=True)
    assert await _next(stream) == ("ADDED", "a")
    served.topic.now += 20_000
    await served.ask("Renew", pb.RenewRequest(lease_id=lease_id))
    await served.register("other", capabilities=["d"])
    await served.register("a", endpoint="h:71")
    assert await _next(stream) == ("MODIFIED", "a")
    await served.ask("Unregister", pb.AgentRegistration(id="a"))
    assert await _next(stream) == ("DELETED", "a")
    monkeypatch.setattr("streams.agents.registry.MAX_WATCHERS", 1)
    assert not await served.admits_a_watcher()
    stream.cancel()
    await until(served.admits_a_watcher, 10)


async def test_a_watcher_that_does_not_read_is_told_to_begin_again(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing grows without bound."""
    monkeypatch.setattr("streams.agents.registry.MAX_WAITING", 2)
    monkeypatch.setattr("streams.agents.registry.MAX_WATCHERS", 1)
    await served.topic.write("first", AgentRegistration(id="first", endpoint="http://h"))
    stream = served.watch(include_initial=True)
    assert await _next(stream) == ("ADDED", "first")
    for n in range(5):  # at one blow: the stream has no turn in between
        await served.topic.write(f"a{n}", AgentRegistration(id=f"a{n}", endpoint="http://h"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(stream.read(), 10)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await served.admits_a_watcher()


async def test_watchers_are_bounded(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """One too many is refused."""
    monkeypatch.setattr("streams.agents.registry.MAX_WATCHERS", 0)
    with pytest.raises(grpc.aio.AioRpcError, match="watchers already"):
        await asyncio.wait_for(served.watch().read(), 10)


async def test_a_port_that_is_taken_is_told_with_the_remedy(served: Served) -> None:
    """Also when it is another gRPC server that has it."""
    server = GrpcServer(Settings(grpc_port=int(served.address.rpartition(":")[2])))
    with pytest.raises(PortTaken, match="--grpc-port"):
        server.bind()
    await server.stop()


async def test_an_address_is_taken_before_it_serves_and_callers_wait() -> None:
    """A worker takes its port before it joins its group; once stopped, it is free for the next."""
    topic = Topic()
    server = GrpcServer(Settings(grpc_port=0))
    server.bind()
    server.add(Registry(table=topic.table, writer=topic.as_writer, wall_ms=lambda: topic.now).handler())
    async with grpc.aio.insecure_channel(server.address) as channel:
        asking = asyncio.create_task(_list(channel))
        await asyncio.sleep(0.2)
        assert not asking.done()
        await server.start()
        assert (await asking).total_count == 0
    await server.stop()
    again = GrpcServer(Settings(grpc_port=int(server.address.rpartition(":")[2])))
    again.bind()
    await again.stop()


async def _list(channel: grpc.aio.Channel) -> Any:
    return await method(channel, pb, "Registry", "ListAgents")(pb.ListAgentsRequest(), timeout=30)


# --- the keeper --------------------------------------------------------------------------------------------------------


class Asked:
    """A transport that only tells health: True, False, or an error."""

    def __init__(self, outcome: bool | Exception = True) -> None:
        self.outcome = outcome
        self.asked: list[str] = []

    async def check_health(self, agent: AgentRegistration, timeout_s: float) -> None:
        """As told."""
        self.asked.append(agent.id)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        if not self.outcome:
            raise ServerError("ill")


async def settled(served: Served, asked: Asked, owns: Callable[[str], bool] = lambda _: True) -> Served:
    """One look of a keeper that started with the tests' clock, all that it began finished."""
    now, served.topic.now = served.topic.now, NOW
    keeper = LeaseExpirer(
        table=served.topic.table,
        writer=served.topic.as_writer,
        transport=cast(Transport, asked),
        owns=owns,
        wall_ms=lambda: served.topic.now,
    )
    served.topic.now = now
    others = asyncio.all_tasks()
    keeper.start_due()
    if begun := asyncio.all_tasks() - others:
        await asyncio.wait(begun)
    return served


async def test_a_lease_that_is_not_renewed_ends_and_a_late_renewal_brings_the_agent_back(served: Served) -> None:
    """For everybody else it is unregistered meanwhile; an agent cut off for a while is not lost."""
    lease_id = await served.register(ttl_s=5)
    served.topic.now += 5000 + GRACE_MS
    await settled(served, Asked())
    assert served.topic.table.get("a") is not None
    served.topic.now += 1
    await settled(served, Asked(), owns=lambda _: False)
    assert served.topic.table.get("a") is not None
    await settled(served, Asked())
    assert served.topic.table.get("a") is None
    assert served.topic.told == [("a", True), ("a", False)]
    assert (await served.ask("ListAgents", pb.ListAgentsRequest())).total_count == 0
    served.topic.now += 3_600_000
    assert (await served.ask("Renew", pb.RenewRequest(lease_id=lease_id))).success
    assert served.topic.table.get("a") is not None
    assert served.topic.told[-1] == ("a", True)


@pytest.mark.parametrize(
    ("outcome", "stays"),
    [(True, True), (False, False), (Unsupported("it has no health check"), True), (ConnectionFailed("gone"), False)],
)
async def test_an_agent_that_asked_to_be_renewed_is_asked_first(
    served: Served, outcome: bool | Exception, stays: bool
) -> None:
    """One that answers stays; whoever did not ask for it is not asked."""
    await served.register("a", auto_renew=True)
    await served.register("plain")
    served.topic.now += 60_000
    asked = Asked(outcome)
    await settled(served, asked)
    assert asked.asked == ["a"]
    assert (served.topic.table.get("a") is not None) is stays
    assert served.topic.table.get("plain") is None


async def test_an_ended_agent_is_forgotten_in_the_end(served: Served) -> None:
    """A tombstone, for the compacted topic not to grow."""
    await served.register()
    served.topic.now += 60_000
    await settled(served, Asked())
    served.topic.now += REMEMBER_MS + 1
    await settled(served, Asked())
    assert served.topic.written[-1] == ("a", None)
    assert served.topic.table.ended("a") is None


async def test_brokers_that_are_away_end_no_lease(served: Served) -> None:
    """It is tried again at the next look."""
    await served.register()
    served.topic.now += 60_000
    served.topic.down = True
    await settled(served, Asked())
    assert served.topic.table.get("a") is not None
    served.topic.down = False
    await settled(served, Asked())
    assert served.topic.table.get("a") is None


async def test_an_agent_without_a_lease_stays(served: Served) -> None:
    """Registered by somebody else."""
    await served.topic.write("web", AgentRegistration(id="web", endpoint="http://h"))
    served.topic.now += 10**9
    await settled(served, Asked(False))
    assert served.topic.table.get("web") is not None


def test_a_key_with_a_schemas_id_is_the_agents_id() -> None:
    """By Confluent's serializers; so is that of its removal, and a plain one removes it too."""
    topic = Topic()

    def write(key: bytes, value: bytes | None, headers: Any = ()) -> None:
        topic.apply(intake(0, value, source="agents", key=key, headers=headers))

    value = b"\0\0\0\0\7" + dumps({"id": "a1", "endpoint": "http://127.0.0.1:1"})
    for removal in (b'\0\0\0\0\x08"a1"', b"a1"):
        write(b'\0\0\0\0\x08"a1"', value)
        assert topic.table.get("a1") is not None
        write(removal, None)
        assert topic.table.get("a1") is None
    write(b"\4a1", value, ((KEY_HEADER, b"\1" + bytes(16)),))
    assert topic.table.get("a1") is not None
    write(b'\0\0\0\0\x08"a2"', value)
    assert topic.table.get("a2") is None
