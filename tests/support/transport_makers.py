"""Every transport with an agent that behaves as scripted, for the contract suite.

A maker opens the agent, and a transport that reaches it. A new transport joins by adding its maker to `MAKERS`, or, if it is over
HTTP, to `OVER_HTTP` in `protocols.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import httpx
import pytest

from agents_io.fakes.http import FakeAgent
from agents_io.fakes.steps import ScriptStep
from agents_io.protocols.gateway.fake import GatewayFakeAgent
from agents_io.protocols.grpc.fake import GrpcFakeAgent
from agents_io.protocols.grpc.transport import GrpcTransport
from agents_io.protocols.http.transport import HttpTransport
from tests.support.gateways import Book, node
from tests.support.http_tasks import http_task
from tests.support.protocols import CAP, OVER_HTTP, Opened, kafka
from tests.support.transport_rig import TransportRig, running


def http(*steps: ScriptStep) -> AbstractAsyncContextManager[TransportRig]:
    """HTTP over our own connections."""
    return running(FakeAgent(steps), HttpTransport(max_answer_bytes=CAP))


def http_over_httpx(*steps: ScriptStep) -> AbstractAsyncContextManager[TransportRig]:
    """HTTP over httpx's own pool: any httpx transport will do."""
    over = httpx.AsyncHTTPTransport(trust_env=False)
    return running(FakeAgent(steps), HttpTransport(over, max_answer_bytes=CAP))


def grpc(*steps: ScriptStep) -> AbstractAsyncContextManager[TransportRig]:
    """gRPC, one message each way."""
    return running(GrpcFakeAgent(steps), GrpcTransport(max_answer_bytes=CAP))


@asynccontextmanager
async def grpc_streaming(*steps: ScriptStep) -> AsyncIterator[TransportRig]:
    """gRPC, a stream of results: the last one counts."""
    async with grpc(*steps) as rig:
        rig.agent = rig.agent.model_copy(update={"metadata": {"stream": True}})
        yield rig


@asynccontextmanager
async def gateway(*steps: ScriptStep) -> AsyncIterator[TransportRig]:
    """An agent that dialled in to this worker."""
    book = Book()
    async with node(book) as here, GatewayFakeAgent("a", steps, gateways=[here.address]) as fake:
        yield TransportRig(fake, book.records["a"], here.transport)


@asynccontextmanager
async def gateway_elsewhere(*steps: ScriptStep) -> AsyncIterator[TransportRig]:
    """An agent that dialled in to another worker than its partition's."""
    book = Book()
    async with (
        node(book, "home") as home,
        node(book, "other") as other,
        GatewayFakeAgent("a", steps, gateways=[other.address]) as fake,
    ):
        yield TransportRig(fake, book.records["a"], home.transport)


Maker = Callable[..., AbstractAsyncContextManager[TransportRig]]

MAKERS: list[Maker] = [http, http_over_httpx, grpc, grpc_streaming, gateway, gateway_elsewhere]

CANNOT_SAY: dict[Maker, Callable[[ScriptStep], bool]] = dict.fromkeys(
    # A confidence is a double there: no text, no boolean, and none at all reads as 0.
    (grpc, grpc_streaming, gateway, gateway_elsewhere),
    lambda step: step.kind == "answer" and type(step.body["confidence"]) not in (int, float),
)
"""What a protocol has no words for."""


def rigged(opened: Callable[..., AbstractAsyncContextManager[Opened]]) -> Maker:
    """A maker of `tests/support/protocols.py` as one of ours."""

    @asynccontextmanager
    async def maker(*steps: ScriptStep) -> AsyncIterator[TransportRig]:
        async with opened(*steps) as parts:
            yield TransportRig(*parts)

    maker.__name__ = opened.__name__
    return maker


over_kafka = rigged(kafka)

over_http_task = rigged(http_task)

CANNOT_SAY[over_kafka] = lambda step: step.kind == "reset"

# A server is no agent: it may answer nothing, and what it calls confidence may be anything.
CANNOT_SAY[over_http_task] = lambda step: step.kind == "answer" or (step.kind, step.body) == ("raw", b"")

MAKERS += [*(rigged(opened) for opened in OVER_HTTP), over_http_task]

# Models write numbers as text.
CANNOT_SAY[next(maker for maker in MAKERS if maker.__name__ == "openai")] = lambda step: (
    step.kind == "answer" and isinstance(step.body["confidence"], str)
)

PARAMS = [*MAKERS, pytest.param(over_kafka, marks=pytest.mark.embedded)]


@pytest.fixture(params=PARAMS, ids=lambda maker: maker.__name__)
def make(request: pytest.FixtureRequest) -> Maker:
    """Each transport in turn."""
    maker: Maker = request.param
    return maker
