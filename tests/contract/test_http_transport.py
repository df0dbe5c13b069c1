"""One contract for every transport: what a call must give, whatever the agent does.

A maker opens an agent that behaves as scripted, and a transport that reaches it. A new transport joins by adding its
maker to `MAKERS`; the tests marked as HTTP's own say things that only HTTP has.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import time
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from agents_io.errors import (
    AgentError,
    AnswerTooLarge,
    BadResponse,
    CallTimeout,
    ClientError,
    ConnectionFailed,
    Expired,
    InternalError,
    RateLimited,
    ServerError,
    Unsupported,
)
from agents_io.fakes.http import FakeAgent
from agents_io.fakes.steps import (
    Step,
    answer,
    compute,
    deep,
    drip,
    empty,
    garbage,
    hang,
    html,
    huge,
    nan,
    raw,
    reset,
    status,
)
from agents_io.http.pooled_transport import PooledTransport
from agents_io.protocols.gateway.fake import GatewayFakeAgent
from agents_io.protocols.grpc.fake import GrpcFakeAgent
from agents_io.protocols.grpc.transport import GrpcTransport
from agents_io.protocols.http.transport import HttpTransport
from agents_io.transport import Call, header_text
from schemas.messages import AgentRegistration, SecretRef
from tests.support.gateways import Book, node
from tests.support.health import is_well
from tests.support.http_tasks import http_task
from tests.support.protocols import OVER_HTTP, Opened, kafka
from tests.support.transport_rig import TransportRig, running
from tests.support.wait import until

CAP = 200_000


def http(*steps: Step) -> AbstractAsyncContextManager[TransportRig]:
    """HTTP over our own connections."""
    return running(FakeAgent(steps), HttpTransport(max_answer_bytes=CAP))


def http_over_httpx(*steps: Step) -> AbstractAsyncContextManager[TransportRig]:
    """HTTP over httpx's own pool: any httpx transport will do."""
    over = httpx.AsyncHTTPTransport(trust_env=False)
    return running(FakeAgent(steps), HttpTransport(over, max_answer_bytes=CAP))


def grpc(*steps: Step) -> AbstractAsyncContextManager[TransportRig]:
    """gRPC, one message each way."""
    return running(GrpcFakeAgent(steps), GrpcTransport(max_answer_bytes=CAP))


@asynccontextmanager
async def grpc_streaming(*steps: Step) -> AsyncIterator[TransportRig]:
    """gRPC, a stream of results: the last one counts."""
    async with grpc(*steps) as rig:
        rig.agent = rig.agent.model_copy(update={"metadata": {"stream": True}})
        yield rig


@asynccontextmanager
async def gateway(*steps: Step) -> AsyncIterator[TransportRig]:
    """An agent that dialled in to this worker."""
    book = Book()
    async with node(book) as here, GatewayFakeAgent("a", steps, gateways=[here.address]) as fake:
        yield TransportRig(fake, book.records["a"], here.transport)


@asynccontextmanager
async def gateway_elsewhere(*steps: Step) -> AsyncIterator[TransportRig]:
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
CANNOT_SAY: dict[Maker, Callable[[Step], bool]] = dict.fromkeys(
    # A confidence is a double there: no text, no boolean, and none at all reads as 0.
    (grpc, grpc_streaming, gateway, gateway_elsewhere),
    lambda step: step.kind == "answer" and type(step.body["confidence"]) not in (int, float),
)
"""What a protocol has no words for."""


def rigged(opened: Callable[..., AbstractAsyncContextManager[Opened]]) -> Maker:
    """A maker of `tests/support/protocols.py` as one of ours."""

    @asynccontextmanager
    async def maker(*steps: Step) -> AsyncIterator[TransportRig]:
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


# --- every transport ---------------------------------------------------------------------------------------------------


async def test_answers_with_value_and_confidence(make: Maker) -> None:
    """The payload arrives and the answer comes back."""
    async with make(compute(lambda payload: {"value": payload["n"] + 1, "confidence": 0.25})) as rig:
        found = await rig.call(body=b'{"n": 41}')
        assert (found.value, found.confidence) == (42, 0.25)


async def test_agents_are_called_directly_whatever_proxy_the_environment_names(
    make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker on a machine with `HTTP_PROXY` sends neither tasks nor tokens there."""
    async with make(answer()) as rig:  # an agent that dials in has connected by then: that is its own matter
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "GRPC_PROXY"):
            for spelled in (name, name.lower()):
                monkeypatch.setenv(spelled, "http://127.0.0.1:9")  # nobody listens there
        assert (await rig.call()).value == "ok"


async def test_carries_the_idempotency_key(make: Maker) -> None:
    """The same for each attempt of a task."""
    async with make(status(500, times=1), answer()) as rig:
        with pytest.raises(ServerError):
            await rig.call("task-7")
        await rig.call("task-7")
        assert rig.fake.keys == {"task-7": 2}


BAD: list[tuple[Step, type[AgentError]]] = [
    (status(500), ServerError),
    (status(400), ClientError),
    (status(429), RateLimited),
    (status(401), ClientError),
    (reset(), ConnectionFailed),
    (reset(after_bytes=100), ConnectionFailed),
    (nan(), BadResponse),
    (empty(), BadResponse),
    (garbage(), BadResponse),
    (deep(), BadResponse),
    (answer(confidence=1.01), BadResponse),
    (answer(confidence=-0.01), BadResponse),
    (answer(confidence=True), BadResponse),
    (answer(confidence="0.5"), BadResponse),
    (answer(confidence=None), BadResponse),
    (raw(b'{"value":1,"confidence":1e999}'), BadResponse),
    (huge(), AnswerTooLarge),
    (raw(b'{"confidence":1,"value":"' + b"x" * CAP + b'"}'), AnswerTooLarge),
]


@pytest.mark.parametrize(
    ("make", "step", "error"),
    [
        pytest.param(make, *bad, marks=[pytest.mark.embedded] if make is over_kafka else [])
        for make in (*MAKERS, over_kafka)
        for bad in BAD
        if make not in CANNOT_SAY or not CANNOT_SAY[make](bad[0])
    ],
    ids=lambda value: getattr(value, "kind", None) or getattr(value, "__name__", None),
)
async def test_one_bad_answer_is_one_clear_error(make: Maker, step: Step, error: type[AgentError]) -> None:
    """Of the right kind, in a short sentence, and the next call is not touched by it."""
    times_once = Step(**{name: getattr(step, name) for name in Step.__slots__} | {"times": 1})
    async with make(times_once, answer()) as rig:
        with pytest.raises(error) as caught:
            await rig.call()
        assert type(caught.value) is error
        assert 10 < len(caught.value.message) < 200
        assert caught.value.message.isprintable()
        assert (await rig.call("t2")).value == "ok"


@pytest.mark.parametrize("step", [hang(), drip()], ids=["hang", "drip"])
async def test_timeout_covers_the_whole_attempt(make: Maker, step: Step) -> None:
    """Also when a byte comes now and then; the agent sees its connection close."""
    async with make(step) as rig:
        with pytest.raises(CallTimeout, match=r"no answer within 0\.2 s"):
            await rig.call(timeout_s=0.2)
        await until(lambda: rig.fake.calls[0].ended == "closed")


async def test_cancelling_reaches_the_agent_at_once(make: Maker) -> None:
    """The agent stops working for nobody: it sees the connection close, not a timeout."""
    async with make(hang(times=1), answer()) as rig:
        task = asyncio.create_task(rig.call(timeout_s=60.0))
        await until(lambda: rig.fake.in_flight == 1)
        cancelled_at = time.time()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: rig.fake.calls[0].ended == "closed", 5.0)
        assert rig.fake.calls[0].ended_at - cancelled_at < 5.0
        assert (await rig.call("t2")).value == "ok"


async def test_cancelling_in_the_middle_of_a_body_reaches_the_agent(make: Maker) -> None:
    """The head of the answer is there already."""
    async with make(drip()) as rig:
        task = asyncio.create_task(rig.call(timeout_s=60.0))
        await until(lambda: rig.fake.in_flight == 1)
        await asyncio.sleep(0.15)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: rig.fake.calls[0].ended == "closed", 5.0)


async def test_no_time_left_makes_no_call(make: Maker) -> None:
    """And it is not the agent's fault."""
    async with make(answer()) as rig:
        with pytest.raises(Expired):
            await rig.call(timeout_s=0.0)
        assert len(rig.fake.calls) == 0


async def test_many_calls_at_once_each_get_their_own_answer(make: Maker) -> None:
    """Fifty in flight on one transport."""
    async with make(compute(lambda payload: {"value": payload, "confidence": 1}, delay_s=0.05)) as rig:
        answers = await asyncio.gather(*(rig.call(f"t{n}", body=b"%d" % n) for n in range(50)))
        assert [found.value for found in answers] == list(range(50))
        assert rig.fake.most_in_flight > 1


# --- HTTP's own --------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("code", "error", "retryable"),
    [
        (408, CallTimeout, True),
        (425, RateLimited, True),
        (401, ClientError, False),
        (404, ClientError, False),
        (422, ClientError, False),
        (502, ServerError, True),
        (504, ServerError, True),
        (301, BadResponse, True),
        (304, BadResponse, True),
        (204, BadResponse, True),
    ],
)
async def test_status_table(code: int, error: type[AgentError], retryable: bool) -> None:
    """Row by row."""
    async with http(status(code)) as rig:
        with pytest.raises(error) as caught:
            await rig.call()
        assert (type(caught.value), caught.value.retryable) == (error, retryable)


async def test_redirect_is_not_followed() -> None:
    """The other agent is never asked."""
    async with http(answer()) as other:
        elsewhere = Step("status", code=307, headers=(("Location", other.fake.endpoint + "/analyze"),))
        async with http(elsewhere) as rig:
            with pytest.raises(BadResponse, match="this redirect is not followed"):
                await rig.call()
        assert len(other.fake.calls) == 0


@pytest.mark.parametrize(
    ("code", "text", "seconds"),
    [(429, "7", 7.0), (503, "1.5", 1.5), (429, "soon", None), (429, "-1", None), (500, "7", None)],
)
async def test_retry_after(code: int, text: str, seconds: float | None) -> None:
    """Read on 429 and 503 only; garbage is as if it were not there."""
    async with http(status(code, retry_after=text)) as rig:
        with pytest.raises(AgentError) as caught:
            await rig.call()
        assert caught.value.retry_after_s == seconds


@pytest.mark.parametrize(
    ("metadata", "body", "value", "confidence"),
    [
        (None, {"label": "spam", "confidence": 1}, {"label": "spam"}, 1.0),
        ({"confidencePath": "scores[0]"}, {"scores": [0.3], "value": 4}, 4, 0.3),
        ({"valuePath": "a.b", "confidencePath": "c"}, {"a": {"b": "x"}, "c": 0.5}, "x", 0.5),
        ({"valuePath": "[0]", "confidencePath": "[1]"}, ["x", 0.5], "x", 0.5),
        ({"valuePath": "none"}, {"confidence": 0.5}, None, 0.5),
    ],
)
async def test_where_value_and_confidence_are_found(metadata: Any, body: Any, value: Any, confidence: float) -> None:
    """By default or by the agent's own paths."""
    async with http(compute(lambda _: body)) as rig:
        found = await rig.call(metadata=metadata)
        assert (found.value, found.confidence) == (value, confidence)


async def test_other_members_of_the_answer_are_kept_as_metadata() -> None:
    """Reasoning, uncertainties and the like."""
    async with http(compute(lambda _: {"value": 1, "confidence": 1, "reasoning": "why"})) as rig:
        assert (await rig.call()).metadata == {"reasoning": "why"}


@pytest.mark.parametrize("metadata", [{"valuePath": "a["}, {"valuePath": 3}, {"confidencePath": "x" * 2000}])
async def test_path_that_is_none_blames_the_registration(metadata: Any) -> None:
    """No call is made, and it does not count against the agent."""
    async with http(answer()) as rig:
        with pytest.raises(Unsupported, match=r"metadata\.\w+Path"):
            await rig.call(metadata=metadata)
        assert len(rig.fake.calls) == 0


async def test_path_that_does_not_fit_the_answer_is_a_bad_response() -> None:
    """A function of the wrong type, or nothing there."""
    async with http(answer()) as rig:
        with pytest.raises(BadResponse, match="confidencePath"):
            await rig.call(metadata={"confidencePath": "abs(value)"})
        with pytest.raises(BadResponse, match="has no confidence"):
            await rig.call(metadata={"confidencePath": "nowhere"})


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("utf-8", bytes),
        ("GZIP", gzip.compress),
        ("gzip", lambda body: gzip.compress(body[:9]) + gzip.compress(body[9:])),  # in two members
        ("gzip", lambda body: gzip.compress(body) + bytes(8)),  # filled up
        ("deflate", lambda body: zlib.compress(body, wbits=-15)),  # without zlib's head, as .NET wrote it
    ],
)
async def test_an_answer_compressed_although_identity_was_asked_for(
    encoding: str, compress: Callable[[bytes], bytes]
) -> None:
    """It is read, within the same cap: a small body can hide a huge one."""
    small = raw(compress(b'{"value":1,"confidence":1}'), headers=(("Content-Encoding", encoding),), times=1)
    bomb = raw(compress(b'"' + b"x" * CAP + b'"'), headers=(("Content-Encoding", encoding),), times=1)
    other = raw(b"?", headers=(("Content-Encoding", "br"),), times=1)
    liar = raw(b'{"value":1,"confidence":1}', headers=(("Content-Encoding", "gzip"),))
    async with http(small, bomb, other, liar) as rig:
        assert (await rig.call()).value == 1
        with pytest.raises(AnswerTooLarge):
            await rig.call("t2")
        for key in ("t3", "t4"):
            with pytest.raises(BadResponse, match="compressed"):
                await rig.call(key)


async def test_html_is_named() -> None:
    """The most usual wrong answer of all."""
    async with http(html()) as rig:
        with pytest.raises(BadResponse, match="the answer is HTML, not JSON: '<!doctype html>"):
            await rig.call()


async def test_endless_error_body_is_not_read_to_its_end() -> None:
    """A few kilobytes say enough."""
    async with http(status(500, body=b"x" * 5_000_000, times=1), answer()) as rig:
        with pytest.raises(ServerError) as caught:
            await rig.call()
        assert len(caught.value.message) < 300
        assert (await rig.call()).value == "ok"


async def test_the_reason_in_an_error_object_is_shown() -> None:
    """Model servers wrap it in a hundred characters and more."""
    error = {"type": "invalid_request_error", "param": None, "code": None, "message": "x" * 80 + " the reason"}
    async with http(status(400, body=json.dumps({"error": error}).encode())) as rig:
        with pytest.raises(ClientError, match="the reason"):
            await rig.call()


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
