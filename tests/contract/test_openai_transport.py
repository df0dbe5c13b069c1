"""What only models behind chat completions have: the request, the schema, tokens, limits by header."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from agents_io.errors import AgentError, RateLimited, Unsupported
from agents_io.fakes.steps import ScriptStep, answer, raw
from agents_io.protocols.openai.fake import FakeChat
from agents_io.protocols.openai.transport import OpenAiTransport
from agents_io.transport import Answer, Call
from schemas.messages import AgentRegistration, SecretRef
from tests.support.health import is_well

BODY = b'{"task":"add","data":[1,2]}'


async def ask(fake: FakeChat, metadata: dict[str, Any] | None = None, body: bytes = BODY, **fields: Any) -> Answer:
    """One call on a transport of its own."""
    transport = OpenAiTransport()
    agent = AgentRegistration(
        id="a", endpoint=fake.endpoint, protocol="openai", metadata={"model": "m"} | (metadata or {}), **fields
    )
    try:
        return await transport.call(agent, Call("t", "t", body, 10.0))
    finally:
        await transport.close()


class Seeing(FakeChat):
    """Keeps the requests as they came."""

    last: dict[str, Any]

    def payload_of(self, raw: bytes) -> Any:
        self.last = orjson.loads(raw)
        return super().payload_of(raw)


async def test_request_asks_for_the_schema_and_carries_what_the_registration_says() -> None:
    """Model, prompt and parameters from the metadata; the payload as words and data."""
    async with Seeing(answer()) as fake:
        await ask(
            fake,
            {
                "system": "You add.",
                "temperature": 0,
                "maxTokens": 50,
                "valueSchema": {"type": "number"},
                "request": {"user": "u"},
            },
        )
        said = fake.last
        schema = said["response_format"]["json_schema"]
        assert (said["model"], said["temperature"], said["max_tokens"], said["user"]) == ("m", 0, 50, "u")
        assert said["stream"] is False
        assert schema["strict"] is True
        assert schema["schema"]["properties"]["value"] == {"type": "number"}
        assert sorted(schema["schema"]["required"]) == ["confidence", "reasoning", "value"]
        assert [message["role"] for message in said["messages"]] == ["system", "user"]
        assert said["messages"][0]["content"].startswith("You add.")
        assert "confidence" in said["messages"][0]["content"]
        assert said["messages"][1]["content"] == "add\n\nData:\n[1,2]"


@pytest.mark.parametrize(("form", "expected"), [("json_object", {"type": "json_object"}), ("none", None)])
async def test_response_format_for_servers_without_schemas(form: str, expected: Any) -> None:
    """By metadata."""
    async with Seeing(answer()) as fake:
        assert (await ask(fake, {"responseFormat": form})).value == "ok"
        assert fake.last.get("response_format") == expected


async def test_tokens_model_and_reason_are_kept() -> None:
    """In the answer's metadata, beside what the model said itself."""
    async with FakeChat(raw(b'{"value":4,"confidence":0.5,"reasoning":"two and two"}')) as fake:
        found = await ask(fake)
        assert (found.value, found.confidence) == (4, 0.5)
        assert found.metadata == {
            "reasoning": "two and two",
            "model": "m-1",
            "finishReason": "stop",
            "usage": {"inputTokens": 12, "outputTokens": 5, "totalTokens": 17},
        }


@pytest.mark.parametrize(
    "said",
    [
        b'```json\n{"value":"ok","confidence":0.9}\n```',
        b'<think>hm, {"value":1}</think>\n{"value":"ok","confidence":0.9}',
        b'\n {"value":"ok","confidence":0.9} ',
    ],
)
async def test_fences_and_thoughts_around_the_answer_are_passed_over(said: bytes) -> None:
    """Models without a format do this."""
    async with FakeChat(raw(said)) as fake:
        assert (await ask(fake, {"responseFormat": "none"})).value == "ok"


async def test_plain_text_has_the_default_confidence_if_the_registration_gives_one() -> None:
    """And only then: no confidence is invented."""
    async with FakeChat(raw(b"It is 4.")) as fake:
        found = await ask(fake, {"responseFormat": "none", "defaultConfidence": 0.7})
        assert (found.value, found.confidence) == ("It is 4.", 0.7)
        with pytest.raises(AgentError, match="not JSON"):
            await ask(fake, {"responseFormat": "none"})


async def test_paths_look_into_what_the_model_said() -> None:
    """Not into the envelope."""
    async with FakeChat(raw(b'{"label":"spam","p":0.25}')) as fake:
        found = await ask(fake, {"valuePath": "label", "confidencePath": "p"})
        assert (found.value, found.confidence) == ("spam", 0.25)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "3", "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "9s"}, 3.0),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m0.5s"}, 60.5),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "20ms"}, 0.02),
        ({"x-ratelimit-remaining-tokens": "9", "x-ratelimit-reset-tokens": "20s"}, None),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "soon"}, None),
    ],
)
async def test_rate_limit_headers_say_how_long_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    """Retry-After first, then the limit that is used up."""
    async with FakeChat(ScriptStep("status", code=429, headers=tuple(headers.items()))) as fake:
        with pytest.raises(RateLimited) as caught:
            await ask(fake)
        assert caught.value.retry_after_s == seconds


async def test_key_is_sent_and_shown_in_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Providers repeat a part of it themselves; ours must not."""
    monkeypatch.setenv("MODEL_KEY", "sk-canary")
    echo = ScriptStep("status", code=401, body=b'{"error":{"message":"Incorrect API key: sk-canary"}}')
    async with FakeChat(echo) as fake:
        with pytest.raises(AgentError) as caught:
            await ask(fake, auth=SecretRef(env="MODEL_KEY"))
        assert fake.calls[0].headers["Authorization"] == "Bearer sk-canary"
        assert "canary" not in caught.value.message


@pytest.mark.parametrize(
    "metadata",
    [
        {"model": ""},
        {"model": 3},
        {"responseFormat": "xml"},
        {"system": 1},
        {"valueSchema": "string"},
        {"strict": "yes"},
        {"request": {"stream": True}},
        {"request": []},
        {"defaultConfidence": 2},
    ],
)
async def test_registration_that_cannot_work_makes_no_call(metadata: dict[str, Any]) -> None:
    """The sentence names the member."""
    async with FakeChat(answer()) as fake:
        with pytest.raises(Unsupported, match=rf"metadata\.{next(iter(metadata))}"):
            await ask(fake, metadata)
        assert len(fake.calls) == 0


async def test_health_asks_for_the_models() -> None:
    """200 is healthy, 503 and nobody there are not."""
    transport = OpenAiTransport()
    async with FakeChat(answer()) as fake:
        agent = AgentRegistration(id="a", endpoint=fake.endpoint, protocol="openai", metadata={"model": "m"})
        assert await is_well(transport, agent, 5.0)
        fake.healthy = False
        assert not await is_well(transport, agent, 5.0)
    assert not await is_well(transport, agent, 1.0)
    await transport.close()
