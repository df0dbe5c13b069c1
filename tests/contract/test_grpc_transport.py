"""gRPC's own: the request's fields, the table of statuses, lines that fail, health, TLS, streams, the loop's colours."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import uvloop
from google.protobuf.json_format import MessageToDict

from agents_io.errors import (
    AgentError,
    BadResponse,
    CallTimeout,
    ClientError,
    ConnectionFailed,
    InternalError,
    ServerError,
    Unsupported,
)
from agents_io.fakes.steps import Step, answer, compute, hang, huge, raw, reset, status
from agents_io.grpc.rules.payload import parse_result
from agents_io.grpc.status import TABLE, status_error
from agents_io.protocols.grpc.endpoint import endpoint_of
from agents_io.protocols.grpc.fake import GrpcFakeAgent
from agents_io.protocols.grpc.transport import GrpcTransport
from agents_io.tls import TlsFiles
from agents_io.transport import Call
from schemas.messages import AgentRegistration, SecretRef
from schemas.pb.confidence_pb2 import AgentRequest, ConfidenceResult, Health
from tests.support.health import is_well
from tests.support.transport_rig import TransportRig, running
from tests.support.wait import until

CERTS = Path(__file__).parent.parent / "support" / "tls"
CA = {"caFile": str(CERTS / "authority.pem")}
CLIENT = {"certFile": str(CERTS / "client.pem"), "keyFile": str(CERTS / "client.key")}


CALL = Call("t1", "k1", b"{}", 10.0, (("traceparent", "00-1-2-01"),), "p")


def rig_of(
    *steps: Step, options: dict[str, Any] | None = None, **fake: Any
) -> AbstractAsyncContextManager[TransportRig]:
    """A fake gRPC agent and the transport."""
    return running(GrpcFakeAgent(steps, **fake), GrpcTransport(**(options or {})), CALL)


# --- what is sent ------------------------------------------------------------------------------------------------------


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


async def test_payload_nested_too_deep_for_protocol_buffers_makes_no_call() -> None:
    """The agent could not read it, and is not blamed."""
    deep = b'{"data":' * 40 + b"1" + b"}" * 40
    async with rig_of(answer()) as rig:
        with pytest.raises(Unsupported, match="nested deeper"):
            await rig.call(body=deep)
        assert len(rig.fake.calls) == 0


# --- what comes back ---------------------------------------------------------------------------------------------------


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
        for size in (9_000, 15_000, 40_000):
            call = Call("t", "k", b"{}", 10.0, (("x-size", str(size)),))
            assert (await transport.call(agent, call)).value == 1
        with pytest.raises(BadResponse, match="metadata"):
            await transport.call(agent, Call("t", "k", b"{}", 10.0, (("x-size", "200000"),)))
    finally:
        await transport.close()
        await server.stop(0)


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


async def test_task_above_the_agents_own_cap_is_the_callers_fault() -> None:
    """Not a rate limit: the same task will never fit."""
    async with rig_of(answer(), max_request_bytes=1000) as rig:
        with pytest.raises(ClientError, match="larger than the agent accepts"):
            await rig.call(body=b'"' + b"x" * 5000 + b'"')


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


# --- lines -------------------------------------------------------------------------------------------------------------


async def test_nobody_listens_is_told_at_once_and_an_agent_that_is_back_is_called_at_once() -> None:
    """gRPC's reconnect back-off (a second, then more) stands between neither."""
    async with GrpcFakeAgent() as fake:
        port = fake._port
    transport = GrpcTransport()
    agent = AgentRegistration(id="a", endpoint=f"grpc://127.0.0.1:{port}")
    for _ in range(4):
        begun = time.monotonic()
        with pytest.raises(ConnectionFailed):
            await transport.call(agent, Call("t", "t", b"{}", 20.0))
        assert time.monotonic() - begun < 5
    async with GrpcFakeAgent(port=port):
        answers = await asyncio.gather(*(transport.call(agent, Call("t", "t", b"{}", 20.0)) for _ in range(5)))
        assert [found.value for found in answers] == ["ok"] * 5
    await transport.close()


async def test_line_that_is_cut_fails_every_call_on_it_and_the_next_has_another() -> None:
    """Also those that were only waiting."""
    async with rig_of(hang(times=5), answer()) as rig:
        calls = [asyncio.create_task(rig.call(timeout_s=60)) for _ in range(5)]
        await until(lambda: rig.fake.in_flight == 5)
        rig.fake.cut()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ConnectionFailed] * 5
        assert (await rig.call()).value == "ok"
        assert rig.fake.connections == 2


async def test_timeout_gives_the_next_call_a_line_of_its_own() -> None:
    """The agent's host may have gone without a word; those under way on the old line are left alone."""
    async with rig_of(hang(times=1), answer(delay_s=0.5, times=1), answer("new")) as rig:
        with_the_first = asyncio.create_task(rig.call(timeout_s=0.2))
        await until(lambda: rig.fake.in_flight == 1)
        second = asyncio.create_task(rig.call())
        with pytest.raises(CallTimeout):
            await with_the_first
        assert (await rig.call()).value == "new"
        assert (await second).value == "ok"
        assert rig.fake.connections == 2
        await until(lambda: rig.fake.open_connections == 1)


async def test_one_line_for_all_calls_to_one_endpoint() -> None:
    """Twenty at once, twenty one by one."""
    async with rig_of(answer(delay_s=0.02)) as rig:
        await asyncio.gather(*(rig.call() for _ in range(20)))
        for _ in range(20):
            await rig.call()
        assert (rig.fake.connections, len(rig.transport.channels)) == (1, 1)


async def test_lines_are_bounded_and_idle_ones_closed() -> None:
    """The oldest idle line makes room; a line nobody used for a while is closed when another is given back."""
    fakes = [GrpcFakeAgent() for _ in range(3)]
    for fake in fakes:
        await fake.__aenter__()
    transport = GrpcTransport(max_channels=2, idle_s=0.3)
    agents = [AgentRegistration(id=fake.endpoint, endpoint=fake.endpoint) for fake in fakes]
    for agent in agents:
        await transport.call(agent, Call("t", "t", b"{}", 10.0))
    assert len(transport.channels) == 2
    await until(lambda: fakes[0].open_connections == 0)
    await asyncio.sleep(0.4)
    await transport.call(agents[0], Call("t", "t", b"{}", 10.0))
    assert len(transport.channels) == 1
    await until(lambda: fakes[1].open_connections + fakes[2].open_connections == 0)
    await transport.close()
    for fake in fakes:
        await fake.__aexit__(None, None, None)


async def test_closing_the_transport_beneath_a_call_is_an_error_of_the_call() -> None:
    """Not a cancellation nobody asked for."""
    async with rig_of(hang()) as rig:
        call = asyncio.create_task(rig.call(timeout_s=60))
        await until(lambda: rig.fake.in_flight == 1)
        await rig.transport.close()
        with pytest.raises(ConnectionFailed, match="closed"):
            await call


async def test_reset_is_a_failed_connection_also_in_a_stream() -> None:
    """With some results read already."""
    async with rig_of(reset(after_bytes=1, times=1), answer("last")) as rig:
        with pytest.raises(ConnectionFailed):
            await rig.call(metadata={"stream": True})
        assert (await rig.call(metadata={"stream": True})).value == "last"


async def test_a_stream_without_end_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so many results are read; the agent sees the stream end."""
    monkeypatch.setattr("agents_io.protocols.grpc.transport.MAX_RESULTS", 3)
    async with rig_of(Step("drip")) as rig:
        with pytest.raises(AgentError, match="more than 3 results") as kept:
            await rig.call(timeout_s=60, metadata={"stream": True})
        await until(lambda: rig.fake.calls[0].ended == "closed")
        assert kept.value.code == "too_large"


# --- health and capabilities -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "well"),
    [(Health.HEALTHY, True), (Health.DEGRADED, True), (Health.UNHEALTHY, False), (Health.UNKNOWN, False)],
)
async def test_health_by_the_agents_own_check(said: Health.Status, well: bool) -> None:
    """What it says of itself."""
    async with rig_of() as rig:
        rig.fake.status = said
        assert await is_well(rig.transport, rig.agent, 5.0) is well


async def test_health_by_the_standard_service() -> None:
    """Where the agent has no check of its own."""
    async with rig_of(health_by="standard") as rig:
        assert await is_well(rig.transport, rig.agent, 5.0)
        rig.fake.healthy = False
        assert not await is_well(rig.transport, rig.agent, 5.0)


async def test_health_of_an_agent_that_has_no_check_is_not_known() -> None:
    """That is no illness."""
    async with rig_of(health_by="none") as rig:
        with pytest.raises(Unsupported, match="no health check"):
            await rig.transport.check_health(rig.agent, 5.0)


async def test_nobody_there_is_not_healthy() -> None:
    """And it does not raise."""
    async with rig_of() as rig:
        pass
    transport = GrpcTransport()
    assert not await is_well(transport, rig.agent, 2.0)
    await transport.close()


# --- TLS and keys ------------------------------------------------------------------------------------------------------


def behind_tls(*, wants_client: bool = False) -> grpc.ServerCredentials:
    """What a server for 127.0.0.1 shows, and whether it wants to be shown something."""
    pair = [((CERTS / "server.key").read_bytes(), (CERTS / "server.pem").read_bytes())]
    authority = (CERTS / "authority.pem").read_bytes() if wants_client else None
    return grpc.ssl_server_credentials(pair, authority, wants_client)


async def test_tls_by_the_files_of_the_settings_or_of_the_registration() -> None:
    """An agent nobody vouches for is not called."""
    files = TlsFiles(ca_file=CA["caFile"])
    async with rig_of(answer(), options={"tls": files}, credentials=behind_tls()) as rig:
        assert rig.agent.endpoint.startswith("grpcs://")
        assert (await rig.call()).value == "ok"
        with pytest.raises(ConnectionFailed, match=r"CERTIFICATE_VERIFY_FAILED|certificate verify failed"):
            await rig.call(metadata={"tls": {"caFile": str(CERTS / "stranger.pem")}})
        assert len(rig.fake.calls) == 1
    async with rig_of(answer(), credentials=behind_tls()) as rig:
        assert (await rig.call(metadata={"tls": CA})).value == "ok"
        with pytest.raises(ConnectionFailed):
            await rig.call()
        with pytest.raises(Unsupported, match="no/such"):
            await rig.call(metadata={"tls": {"caFile": "no/such"}})


async def test_client_certificate() -> None:
    """An agent that talks to nobody without one."""
    async with rig_of(answer(), credentials=behind_tls(wants_client=True)) as rig:
        assert (await rig.call(metadata={"tls": CA | CLIENT})).value == "ok"
        with pytest.raises(ConnectionFailed):
            await rig.call(metadata={"tls": CA})


async def test_a_certificate_that_changes_on_disk_is_used_from_the_next_call_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a channel of its own; no restart."""
    monkeypatch.setattr("agents_io.tls.RECHECK_S", 0.0)
    authority = tmp_path / "authority.pem"
    authority.write_bytes((CERTS / "stranger.pem").read_bytes())
    async with rig_of(answer(), credentials=behind_tls()) as rig:
        with pytest.raises(ConnectionFailed):
            await rig.call(metadata={"tls": {"caFile": str(authority)}})
        authority.write_bytes((CERTS / "authority.pem").read_bytes())
        for _ in range(3):
            assert (await rig.call(metadata={"tls": {"caFile": str(authority)}})).value == "ok"
        assert len(rig.transport.channels) == 1


async def test_api_key_in_metadata_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are lower case in gRPC; some cannot be had."""
    monkeypatch.setenv("AGENT_KEY", "k3y")
    async with rig_of(answer()) as rig:
        await rig.call(auth=SecretRef(env="AGENT_KEY", scheme="header", header="X-Api-Key"))
        assert rig.fake.calls[0].headers["x-api-key"] == "k3y"
        assert "authorization" not in rig.fake.calls[0].headers
        with pytest.raises(Unsupported, match="gRPC metadata"):
            await rig.call(auth=SecretRef(env="AGENT_KEY", scheme="header", header="grpc-timeout"))


# --- the loop, and this machine ----------------------------------------------------------------------------------------


def test_on_uvloop() -> None:
    """The worker's loop: answers, timeouts, cancelling and streams are the same there."""

    async def all_of_it() -> None:
        async with rig_of(answer(times=2), hang(times=2), answer()) as rig:
            assert (await rig.call()).value == "ok"
            assert (await rig.call(metadata={"stream": True})).value == "ok"
            with pytest.raises(CallTimeout):
                await rig.call(timeout_s=0.2)
            await until(lambda: rig.fake.calls[-1].ended == "closed")
            task = asyncio.create_task(rig.call(timeout_s=60))
            await until(lambda: rig.fake.in_flight == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: rig.fake.in_flight == 0)
            answers = await asyncio.gather(*(rig.call() for _ in range(20)))
            assert len(answers) == 20

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(all_of_it())


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


# --- endpoints ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["grpc://h", "grpc://h:0x1", "grpc://:70", "grpc://h:70/path", "unix:///tmp/x", "grpc://u@h:1", "grpc://h:99999"],
)
def test_endpoint_that_is_none_blames_the_registration(text: str) -> None:
    """Also one that would make gRPC resolve something else than a host."""
    with pytest.raises(Unsupported, match="endpoint"):
        endpoint_of(text)
