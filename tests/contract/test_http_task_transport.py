"""Http tasks against a real server on loopback: what is sent, what comes of the reply, and where a connection may never go."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest

from agents_io.errors import (
    AgentError,
    AnswerTooLarge,
    BadResponse,
    CallTimeout,
    ClientError,
    ConnectionFailed,
    Expired,
    ForbiddenTarget,
    RateLimited,
    ServerError,
    Unsupported,
)
from agents_io.fakes.http import FakeAgent
from agents_io.fakes.steps import ScriptStep, answer, deep, drip, garbage, hang, html, huge, raw, reset, status
from agents_io.http.connecting import Connector, Origin
from agents_io.protocols.http_tasks.transport import HttpTaskTransport
from agents_io.rules.targets import AllowList
from agents_io.transport import Answer, Call
from schemas.messages import AgentRegistration
from tests.support.wait import until

CAP = 100_000
NOBODY = AgentRegistration(id="x", endpoint="http://x")


class Names:
    """A lookup that says what the test says, a list of addresses for each time it is asked."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        """The next answer, the last one for ever."""
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@dataclass
class Rig:
    """A server, and a transport that may go there."""

    fake: FakeAgent
    transport: HttpTaskTransport
    names: Names
    url: str = ""
    calls: int = field(default=0)

    async def call(
        self, url: str | None = None, *, payload: Any = None, timeout_s: float = 10.0, **order: Any
    ) -> Answer:
        """One task's request."""
        self.calls += 1
        body = orjson.dumps({"url": url or self.url, "payload": payload} | order)
        return await self.transport.call(
            NOBODY, Call("t1", f"k{self.calls}", body, timeout_s, (("traceparent", "tp"),))
        )


@asynccontextmanager
async def rig(
    *steps: ScriptStep, names: Names | None = None, allow: tuple[str, ...] = (), **lists: Any
) -> AsyncIterator[Rig]:
    """`service.test` is allowed and leads where `names` says."""
    names = names or Names(["127.0.0.1"])
    async with FakeAgent(steps) as fake:
        port = fake.endpoint.rpartition(":")[2]
        hosts = [f"{name}:{port}" for name in ("service.test", *allow)]
        allowed = AllowList(hosts, **{"networks": ["127.0.0.0/8"]} | lists)
        transport = HttpTaskTransport(allowed, max_answer_bytes=CAP, lookup=names)
        try:
            yield Rig(fake, transport, names, f"http://service.test:{port}/analyze")
        finally:
            await transport.close()


async def test_what_is_sent() -> None:
    """The payload, the task's headers, the pipeline's own, the name in Host, the query after what the URL has."""
    async with rig(raw(b'{"n": 1}')) as one:
        found = await one.call(
            one.url + "?a=1", payload={"q": 2}, method="POST", headers={"X-Mine": "v"}, query={"b": "2 3&c"}
        )
        assert (found.value, found.confidence) == ({"n": 1}, 1.0)
        received = one.fake.calls[0]
        seen = {name.lower(): value for name, value in received.headers.items()}
        assert received.payload == {"q": 2}
        assert int(seen.pop("x-request-timeout-ms")) > 9000
        assert seen == {
            "host": one.url.split("/")[2],
            "x-mine": "v",
            "accept": "application/json, text/*;q=0.5",
            "accept-encoding": "identity",
            "content-type": "application/json",
            "content-length": "7",
            "user-agent": "parallax-streams",
            "idempotency-key": "k1",
            "traceparent": "tp",
        }
        assert one.names.asked == ["service.test"]


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (status(500), ServerError),
        (status(404), ClientError),
        (status(429, retry_after="3"), RateLimited),
        (status(302), BadResponse),
        (reset(), ConnectionFailed),
        (reset(after_bytes=100), ConnectionFailed),
        (garbage(), BadResponse),
        (deep(), BadResponse),
        (raw(b'{"a": NaN}'), BadResponse),
        (raw(b"\xff\x00", content_type="image/png"), BadResponse),
        (raw(gzip.compress(b"[1]"), headers=(("Content-Encoding", "gzip"),)), BadResponse),
        (huge(), AnswerTooLarge),
        (raw(b'"' + b"x" * CAP + b'"'), AnswerTooLarge),
    ],
    ids=lambda value: getattr(value, "kind", None) or getattr(value, "__name__", None),
)
async def test_one_bad_reply_is_one_clear_error(step: ScriptStep, error: type[AgentError]) -> None:
    """Of the kind the table says, in a short sentence."""
    async with rig(step) as one:
        with pytest.raises(error) as caught:
            await one.call()
        assert type(caught.value) is error
        assert 10 < len(caught.value.message) < 200
        assert caught.value.message.isprintable()
        if error is RateLimited:
            assert caught.value.retry_after_s == 3.0


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("caf\u00e9".encode("latin-1"), "text/html; charset=iso-8859-1"),
        ("caf\u00e9".encode("utf-16"), "text/plain; charset=utf-16"),
        ('"caf\u00e9"'.encode("cp1252"), "application/json; charset=windows-1252"),
    ],
)
async def test_text_in_another_charset(body: bytes, kind: str) -> None:
    """As its type says."""
    async with rig(raw(body, content_type=kind)) as one:
        assert (await one.call()).value == "caf\u00e9"


async def test_text_is_a_value_too() -> None:
    """A page as it is."""
    async with rig(html()) as one:
        assert (await one.call()).value.startswith("<!doctype html>")


@pytest.mark.parametrize("step", [hang(), drip()], ids=["hang", "drip"])
async def test_the_timeout_covers_the_whole_attempt(step: ScriptStep) -> None:
    """And the server sees its connection close."""
    async with rig(step) as one:
        with pytest.raises(CallTimeout):
            await one.call(timeout_s=0.2)
        await until(lambda: one.fake.calls[0].ended == "closed", 10)


async def test_no_time_left_and_no_health_page() -> None:
    """Nothing is sent."""
    async with rig(answer()) as one:
        with pytest.raises(Expired):
            await one.call(timeout_s=0.0)
        with pytest.raises(Unsupported):
            await one.transport.check_health(NOBODY, 1.0)
        assert not one.fake.calls


async def test_a_redirect_is_not_followed() -> None:
    """Wherever it leads."""
    async with rig(answer()) as other:
        elsewhere = ScriptStep("status", code=307, headers=(("Location", other.fake.endpoint + "/analyze"),))
        async with rig(elsewhere) as one:
            with pytest.raises(BadResponse, match="this redirect is not followed"):
                await one.call()
        assert not other.fake.calls


@pytest.mark.parametrize(
    "answers",
    [
        ["10.0.0.1"],
        ["169.254.169.254"],
        ["::ffff:127.0.0.1"],
        ["64:ff9b::7f00:1"],
        ["fd00:ec2::254"],
        ["127.0.0.1", "10.0.0.1"],
    ],
    ids=str,
)
async def test_a_name_that_leads_elsewhere_is_refused(answers: list[str]) -> None:
    """Every address counts, also when the first would do. Nothing is sent."""
    async with rig(answer(), names=Names(answers)) as one:
        with pytest.raises(ForbiddenTarget, match="is not public"):
            await one.call()
        assert not one.fake.calls
        assert one.names.asked == ["service.test"]


async def test_a_name_that_changes_its_mind_gains_nothing() -> None:
    """Rebinding: looked up once for a connection, and connected to what was checked."""
    names = Names(["127.0.0.1"], ["169.254.169.254"])
    async with rig(raw(b"1", headers=(("Connection", "close"),)), names=names) as one:
        assert (await one.call()).value == 1
        with pytest.raises(ForbiddenTarget):
            await one.call()
        assert names.asked == ["service.test"] * 2
        assert len(one.fake.calls) == 1


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "[::1]"]
)
async def test_hosts_that_are_not_on_the_list_are_not_called(host: str) -> None:
    """In whatever spelling; the server listens there."""
    async with rig(answer()) as one:
        with pytest.raises(ForbiddenTarget):
            await one.call(one.url.replace("service.test", host))
        assert not one.fake.calls
        assert not one.names.asked


async def test_an_address_that_is_named_is_allowed_and_only_that() -> None:
    """No network has to be opened for it."""
    async with rig(answer(), allow=("127.0.0.1",), networks=[]) as one:
        assert (await one.call(one.url.replace("service.test", "127.0.0.1"))).value["value"] == "ok"


async def test_the_socket_itself_is_guarded() -> None:
    """The last wall: an address that came past the lookup is refused where the socket is made."""

    class Passing(Connector):
        async def _addresses(self, host: str, port: int) -> list[str]:
            return ["127.0.0.1"]

    async with FakeAgent(answer()) as fake:
        origin = Origin("service.test", int(fake.endpoint.rpartition(":")[2]), None)
        with pytest.raises(ForbiddenTarget):
            await Passing(check=AllowList().check_text).connect(origin, lambda connection: None)
        assert not fake.calls


async def test_what_the_task_sent_is_in_no_error() -> None:
    """A server may echo the token; then it is starred out, or the reply is not shown."""
    for code in (500, 401):
        async with rig(status(code, body=b"bad token s3cret-token")) as one:
            with pytest.raises(AgentError) as caught:
                await one.call(headers={"Authorization": "Bearer s3cret-token"})
            assert "***" in caught.value.message
            assert "s3cret" not in caught.value.message
    async with rig(raw(b'{"s3cret-token')) as one:
        with pytest.raises(BadResponse, match="body withheld"):
            await one.call(headers={"Authorization": "Bearer s3cret-token"})
