"""How answers over plain HTTP are read: statuses, the place of value and confidence, compression, what is no JSON."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from agents_io.errors import (
    AgentError,
    AnswerTooLarge,
    BadResponse,
    CallTimeout,
    ClientError,
    RateLimited,
    ServerError,
    Unsupported,
)
from agents_io.fakes.steps import ScriptStep, answer, compute, html, raw, status
from tests.support.protocols import CAP
from tests.support.transport_makers import http
from tests.support.transport_makers import make as make


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
        elsewhere = ScriptStep("status", code=307, headers=(("Location", other.fake.endpoint + "/analyze"),))
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
