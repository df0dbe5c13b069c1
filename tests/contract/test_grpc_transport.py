"""Calls over gRPC: the fields and metadata of the request, the table of statuses, what is kept of an answer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.json_format import MessageToDict

from agents_io.errors import (
    AgentError,
    BadResponse,
    ClientError,
    ConnectionFailed,
    InternalError,
    RateLimited,
    ServerError,
    Unsupported,
)
from agents_io.fakes.steps import answer, compute, huge, raw, status
from agents_io.grpc.rules.payload import parse_result
from agents_io.grpc.status import TABLE, status_error
from agents_io.protocols.grpc.endpoint import endpoint_of
from agents_io.protocols.grpc.transport import GrpcTransport
from agents_io.transport import Call
from schemas.messages import AgentRegistration, SecretRef
from schemas.pb.confidence_pb2 import AgentRequest, ConfidenceResult
from tests.support.grpc_rig import rig_of


@pytest.mark.parametrize(
    ("body", "description", "data", "context"),
    [
        (b'{"task": "sum", "data": {"n": [1, 2.5]}}', "sum", {"n": [1.0, 2.5]}, {}),
        (b'{"description": "what", "a": null}', "what", {"description": "what", "a": None}, {}),
        (b'{"task": 7, "b": true}', "analyze", {"task": 7.0, "b": True}, {}),
        (b'{"data": [1]}', "analyze", {"value": [1.0]}, {}),
        (b'{"data": null, "x": {}}', "analyze", {"data": None, "x": {}}, {}),
        (b'"text"', "analyze", {"value": "text"}, {}),
        (b'{"a": 1, "context": {"s": "t", "o": {"k": [1]}}}', "analyze", {"a": 1.0}, {"s": "t", "o": '{"k":[1]}'}),
        (b'{"context": "mine"}', "analyze", {"context": "mine"}, {}),
    ],
)
async def test_payload_becomes_the_fields_of_the_request(
    body: bytes, description: str, data: dict[str, Any], context: dict[str, str]
) -> None:
    """As existing agents expect them."""
    async with rig_of(answer()) as rig:
        await rig.call(body=body, timeout_s=2.5)
        request: AgentRequest = rig.fake.calls[0].payload
        assert MessageToDict(request.data) == data
        assert (request.task_id, request.task_description, dict(request.context)) == ("t1", description, context)
        assert (request.timeout_ms, request.pattern_name) == (2500, "p")


async def test_metadata_on_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Key, budget, trace and token, and gRPC's own deadline."""
    monkeypatch.setenv("AGENT_TOKEN", "s3cret")
    async with rig_of(answer()) as rig:
        await rig.call(timeout_s=2.5, auth=SecretRef(env="AGENT_TOKEN"))
        seen = rig.fake.calls[0].headers
        assert {name: seen[name] for name in seen if name != "user-agent"} == {
            "idempotency-key": "k1",
            "x-request-timeout-ms": "2500",
            "traceparent": "00-1-2-01",
            "authorization": "Bearer s3cret",
        }
        assert seen["user-agent"].startswith("parallax-streams ")


async def test_api_key_in_metadata_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are lower case in gRPC; some cannot be had."""
    monkeypatch.setenv("AGENT_KEY", "k3y")
    async with rig_of(answer()) as rig:
        await rig.call(auth=SecretRef(env="AGENT_KEY", scheme="header", header="X-Api-Key"))
        assert rig.fake.calls[0].headers["x-api-key"] == "k3y"
        assert "authorization" not in rig.fake.calls[0].headers
        with pytest.raises(Unsupported, match="gRPC metadata"):
            await rig.call(auth=SecretRef(env="AGENT_KEY", scheme="header", header="grpc-timeout"))


async def test_payload_nested_too_deep_for_protocol_buffers_makes_no_call() -> None:
    """The agent could not read it, and is not blamed."""
    deep = b'{"data":' * 40 + b"1" + b"}" * 40
    async with rig_of(answer()) as rig:
        with pytest.raises(Unsupported, match="nested deeper"):
            await rig.call(body=deep)
        assert len(rig.fake.calls) == 0


async def test_task_above_the_agents_own_cap_is_the_callers_fault() -> None:
    """Not a rate limit: the same task will never fit."""
    async with rig_of(answer(), max_request_bytes=1000) as rig:
        with pytest.raises(ClientError, match="larger than the agent accepts"):
            await rig.call(body=b'"' + b"x" * 5000 + b'"')


@pytest.mark.parametrize(
    "text",
    [
        "grpc: received message larger than max (5000 vs. 4096)",
        "gRPC message exceeds maximum size 4096: 5000",
        "Received message exceeds the maximum configured message size.",
    ],
)
async def test_every_way_to_say_that_a_task_is_too_large(text: str) -> None:
    """Go; Java; .NET. A limit of another kind stays one."""
    async with rig_of(status(429, body=text)) as rig:
        with pytest.raises(ClientError, match="larger than the agent accepts"):
            await rig.call()
    async with rig_of(status(429, body="the rate exceeds the maximum of 10 a second")) as rig:
        with pytest.raises(RateLimited):
            await rig.call()


@pytest.mark.parametrize(
    "text",
    ["grpc://h", "grpc://h:0x1", "grpc://:70", "grpc://h:70/path", "unix:///tmp/x", "grpc://u@h:1", "grpc://h:99999"],
)
def test_endpoint_that_is_none_blames_the_registration(text: str) -> None:
    """Also one that would make gRPC resolve something else than a host."""
    with pytest.raises(Unsupported, match="endpoint"):
        endpoint_of(text)


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
async def test_status_table(code: grpc.StatusCode) -> None:
    """Every status there is, row by row."""
    async with rig_of(status(code.value[0], body="why not", times=1), answer("next")) as rig:
        with pytest.raises(AgentError) as caught:
            await rig.call()
        assert isinstance(caught.value, TABLE[code])
        assert caught.value.code in ("connection", "timeout", "rate_limited", "http_5xx", "http_4xx")
        assert "why not" in caught.value.message or code is grpc.StatusCode.UNIMPLEMENTED
        assert (await rig.call()).value == "next"


def test_status_table_says_what_counts_and_what_is_tried_again() -> None:
    """The breaker's effect and whether another call may help, for each status."""
    effects = {code.name: (kind.code, kind.retryable, kind.counts_against_agent) for code, kind in TABLE.items()}
    refused = ("http_4xx", False, False)
    assert effects == {
        "UNAVAILABLE": ("connection", True, True),
        "CANCELLED": ("connection", True, True),
        "DEADLINE_EXCEEDED": ("timeout", True, True),
        "RESOURCE_EXHAUSTED": ("rate_limited", True, False),
        "INTERNAL": ("http_5xx", True, True),
        "UNKNOWN": ("http_5xx", True, True),
        "DATA_LOSS": ("http_5xx", True, True),
        "ABORTED": ("http_5xx", True, True),
        "INVALID_ARGUMENT": refused,
        "NOT_FOUND": refused,
        "ALREADY_EXISTS": refused,
        "FAILED_PRECONDITION": refused,
        "OUT_OF_RANGE": refused,
        "UNAUTHENTICATED": refused,
        "PERMISSION_DENIED": refused,
        "UNIMPLEMENTED": refused,
    }


@pytest.mark.parametrize(
    ("code", "text", "seconds"), [(429, "7", 7.0), (503, "1.5", 1.5), (429, "soon", None), (500, "7", None)]
)
async def test_retry_after(code: int, text: str, seconds: float | None) -> None:
    """In the trailing metadata, on the statuses that may say when."""
    async with rig_of(status(code, retry_after=text)) as rig:
        with pytest.raises(AgentError) as caught:
            await rig.call()
        assert caught.value.retry_after_s == seconds


@asynccontextmanager
async def analyzing(analyze: Callable[[bytes, Any], Awaitable[bytes]]) -> AsyncIterator[Callable[..., Awaitable[Any]]]:
    """A function that calls the agent with this method."""
    server = grpc.aio.server()
    methods = {"Analyze": grpc.unary_unary_rpc_method_handler(analyze)}
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("parallax.confidence.ConfidenceAgent", methods),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    transport = GrpcTransport()
    agent = AgentRegistration(id="a", endpoint=f"grpc://127.0.0.1:{port}")
    try:
        yield lambda *headers: transport.call(agent, Call("t", "k", b"{}", 10.0, headers))
    finally:
        await transport.close()
        await server.stop(0)


def retry_info(seconds: float) -> bytes:
    """A google.rpc.Status with a RetryInfo among its details."""
    details, status = (pytest.importorskip(f"google.rpc.{name}_pb2") for name in ("error_details", "status"))
    info = details.RetryInfo()
    info.retry_delay.FromMilliseconds(int(seconds * 1000))
    said = status.Status(code=8, message="slow")
    for detail in (details.ErrorInfo(reason="QUOTA"), info):
        said.details.add().Pack(detail)
    return bytes(said.SerializeToString())


@pytest.mark.parametrize(
    ("trailing", "text", "seconds"),
    [
        ((("grpc-status-details-bin", retry_info(3.5)), ("retry-after", "2")), "slow", 3.5),
        ((("grpc-status-details-bin", b"\xff"), ("retry-after", "2")), "slow", 2.0),
        ((("grpc-retry-pushback-ms", "250"), ("retry-after", "2")), "slow", 0.25),
        ((("retry-after-ms", "1500"),), "slow", 1.5),
        ((("x-ratelimit-reset", "4"),), "slow", 4.0),
        ((), "please try again in 2.5s", 2.5),
        ((("grpc-retry-pushback-ms", "-1"),), "slow", None),
    ],
)
async def test_every_way_to_say_when(trailing: tuple[tuple[str, str | bytes], ...], text: str, seconds: Any) -> None:
    """Google's RetryInfo, gRPC's own, and what HTTP has."""

    async def analyze(request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, text, trailing)
        raise AssertionError("abort raises")

    async with analyzing(analyze) as call:
        with pytest.raises(RateLimited) as caught:
            await call()
    assert caught.value.retry_after_s == seconds


async def test_reasoning_uncertainties_and_metadata_are_kept() -> None:
    """Beside the value."""
    said = {"value": 1, "confidence": 1, "reasoning": "why", "uncertainties": ["u"], "metadata": {"k": "v"}}
    async with rig_of(compute(lambda _: said)) as rig:
        assert (await rig.call()).metadata == {"reasoning": "why", "uncertainties": ["u"], "k": "v"}


async def test_who_answered_and_when_are_kept_too() -> None:
    """Every member of the result beside value and confidence."""
    result = ConfidenceResult(value_json="1", confidence=1, agent_id="a7")
    result.timestamp.FromMilliseconds(1_700_000_000_123)
    assert parse_result(result.SerializeToString(), 100).metadata == {
        "agentId": "a7",
        "timestamp": "2023-11-14T22:13:20.123Z",
    }


async def test_metadata_beyond_8_kib() -> None:
    """A mesh and a debug trailer come to that; far beyond, it is the answer's fault and no rate limit."""

    async def analyze(request: bytes, context: Any) -> bytes:
        sizes = dict(context.invocation_metadata())
        context.set_trailing_metadata((("x-debug", "d" * int(sizes["x-size"])),))
        return ConfidenceResult(value_json="1", confidence=1).SerializeToString()

    async with analyzing(analyze) as call:
        for size in (9_000, 15_000, 40_000):
            assert (await call(("x-size", str(size)))).value == 1
        with pytest.raises(BadResponse, match="metadata"):
            await call(("x-size", "200000"))


async def test_a_task_that_exists_already_is_tried_again_after_the_first_attempt() -> None:
    """An earlier attempt of ours may still run there."""
    async with rig_of(status(grpc.StatusCode.ALREADY_EXISTS.value[0])) as rig:
        for attempt, again in ((1, False), (2, True)):
            with pytest.raises(ClientError) as caught:
                await rig.transport.call(rig.agent, Call("t", "k", b"{}", 10.0, attempt=attempt))
            assert (caught.value.retryable, caught.value.counts_against_agent) == (again, False)


async def test_value_path() -> None:
    """An agent that wraps its value."""
    async with rig_of(answer({"label": "spam"})) as rig:
        assert (await rig.call(metadata={"valuePath": "label"})).value == "spam"
        with pytest.raises(Unsupported, match=r"metadata\.valuePath"):
            await rig.call(metadata={"valuePath": 3})


async def test_compressed_answer_is_refused() -> None:
    """A small message can hide a huge one."""
    async with rig_of(huge(200_000, times=1), answer(), compressed=True) as rig:
        with pytest.raises(BadResponse, match="compressed"):
            await rig.call()


async def test_secret_an_agent_echoes_is_in_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the details of a status, or in an answer that is none."""
    monkeypatch.setenv("AGENT_TOKEN", "canary-123")
    echo = raw(b'{"value":"canary-123","confidence":7}')
    async with rig_of(status(500, body="got Bearer canary-123", times=1), echo) as rig:
        for error in (ServerError, BadResponse):
            with pytest.raises(error) as caught:
                await rig.call(auth=SecretRef(env="AGENT_TOKEN"))
            assert "canary" not in caught.value.message


async def test_wrong_token_is_the_callers_fault() -> None:
    """401 and 403 in gRPC's words."""
    async with rig_of(status(401, times=1), status(403)) as rig:
        for name in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
            with pytest.raises(ClientError, match=name):
                await rig.call()


@pytest.mark.parametrize(
    ("details", "error"),
    [
        ("failed to connect to all addresses; last error: UNKNOWN: Too many open files", InternalError),
        ("failed to connect to all addresses; last error: UNKNOWN: Connection refused", ConnectionFailed),
    ],
)
def test_our_own_lack_of_descriptors_is_not_the_agents_fault(details: str, error: type[AgentError]) -> None:
    """It must not open its circuit."""
    nothing = grpc.aio.Metadata()
    said = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, nothing, nothing, details)
    assert type(status_error(said, 1.0, "")) is error


def test_commands_that_need_no_grpc_do_not_load_it() -> None:
    """It costs a tenth of a second and more."""
    modules = "streams.cli.main, streams.cli.agents, agents_io.protocols.registration_check"
    code = f"import sys, {modules}; sys.exit(any(name in sys.modules for name in ('grpc', 'google')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
