"""Agents of each protocol that behave as scripted, how they are registered, and a transport that reaches them.

For the contract suite: in, steps; out, the fake, the registration, the transport, warm (card read, session open).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from agents_io.fakes.http import FakeAgent
from agents_io.fakes.steps import ScriptStep
from agents_io.protocols.a2a.fake import FakeA2a
from agents_io.protocols.a2a.transport import A2aTransport
from agents_io.protocols.kafka.fake import FakeKafkaAgent
from agents_io.protocols.kafka.transport import KafkaTransport
from agents_io.protocols.mcp.fake import FakeMcp
from agents_io.protocols.mcp.transport import McpTransport
from agents_io.protocols.openai.fake import FakeChat
from agents_io.protocols.openai.transport import OpenAiTransport
from agents_io.transport import Transport
from schemas.messages import AgentRegistration, Protocol
from streams.agents.kafka_exchange import KafkaExchange
from streams.broker.embedded import EmbeddedBroker
from streams.broker.topics_admin import ensure
from streams.settings import Settings
from tests.support.health import is_well

CAP = 200_000
Opened = tuple[FakeAgent, AgentRegistration, Transport]


@asynccontextmanager
async def _opened(
    fake: FakeAgent, transport: Transport, protocol: Protocol, metadata: dict[str, Any] | None = None
) -> AsyncIterator[Opened]:
    async with fake:
        agent = AgentRegistration(id="a", endpoint=fake.endpoint, protocol=protocol, metadata=metadata)
        try:
            assert await is_well(transport, agent, 10.0)
            yield fake, agent, transport
        finally:
            await transport.close()


def openai(*steps: ScriptStep) -> AbstractAsyncContextManager[Opened]:
    """A model behind chat completions."""
    return _opened(FakeChat(steps), OpenAiTransport(max_answer_bytes=CAP), "openai", {"model": "m"})


def a2a(*steps: ScriptStep) -> AbstractAsyncContextManager[Opened]:
    """A2A 1.0; each task is asked for once more before it is done."""
    fake = FakeA2a(steps)
    fake.states = ("working",)
    return _opened(fake, A2aTransport(max_answer_bytes=CAP), "a2a")


def a2a_03(*steps: ScriptStep) -> AbstractAsyncContextManager[Opened]:
    """A2A 0.3; tasks are done at once."""
    fake = FakeA2a(steps)
    fake.version = "0.3"
    return _opened(fake, A2aTransport(max_answer_bytes=CAP), "a2a")


def a2a_rest(*steps: ScriptStep) -> AbstractAsyncContextManager[Opened]:
    """A2A 1.0 over HTTP+JSON; each task is asked for once more before it is done."""
    fake = FakeA2a(steps)
    fake.binding = "HTTP+JSON"
    fake.states = ("working",)
    return _opened(fake, A2aTransport(max_answer_bytes=CAP), "a2a")


def a2a_rest_03(*steps: ScriptStep) -> AbstractAsyncContextManager[Opened]:
    """A2A 0.3 over HTTP+JSON; tasks are done at once."""
    fake = FakeA2a(steps)
    fake.version, fake.binding = "0.3", "HTTP+JSON"
    return _opened(fake, A2aTransport(max_answer_bytes=CAP), "a2a")


def mcp(*steps: ScriptStep) -> AbstractAsyncContextManager[Opened]:
    """An MCP tool with a session, answers as JSON."""
    return _opened(FakeMcp(steps), McpTransport(max_answer_bytes=CAP), "mcp", {"tool": "analyze"})


def mcp_stream(*steps: ScriptStep) -> AbstractAsyncContextManager[Opened]:
    """An MCP tool without sessions, answers as an event stream."""
    fake = FakeMcp(steps)
    fake.modern = fake.stream = True
    return _opened(fake, McpTransport(max_answer_bytes=CAP), "mcp", {"tool": "analyze"})


OVER_HTTP: list[Callable[..., AbstractAsyncContextManager[Opened]]] = [
    openai,
    a2a,
    a2a_03,
    a2a_rest,
    a2a_rest_03,
    mcp,
    mcp_stream,
]


@asynccontextmanager
async def kafka(*steps: ScriptStep) -> AsyncIterator[Opened]:
    """An agent that reads a topic of an embedded broker, and is told of cancelled requests."""
    async with EmbeddedBroker() as broker:
        settings = Settings(bootstrap_servers=broker.bootstrap_servers)
        await ensure(settings, "requests", 2, {})
        async with FakeKafkaAgent(broker.bootstrap_servers, "requests", steps) as fake:
            agent = AgentRegistration(id="a", endpoint=fake.endpoint, metadata={"cancelRecords": True})
            transport = KafkaTransport(KafkaExchange(settings), max_answer_bytes=CAP)
            try:
                await transport.open()  # else the first call's time pays for it
                assert await is_well(transport, agent, 10.0)
                yield fake, agent, transport
            finally:
                await transport.close()
