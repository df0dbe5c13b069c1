"""Tokens for brokers: when one is asked for, what is said when there is none, and that no secret is in it."""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiokafka.conn import OAuthAuthenticator
from aiokafka.errors import KafkaError

from streams.broker.access import user
from streams.broker.kafka import client_options
from streams.broker.oauth import AwsTokens, EndpointTokens, FileTokens, TokenRefused, TokenUnavailable
from streams.settings import Settings, SettingsError

URL = "https://login.test/token"
SECRET = "the-secret"


class Endpoint:
    """A token endpoint that gives what it is told to; keeps what it was asked."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[httpx.Request] = []
        self.now = 100.0

    def tokens(self, **fields: Any) -> EndpointTokens:
        """A provider that asks it."""
        transport = httpx.MockTransport(self._answer)
        return EndpointTokens(
            url=URL, client_id="me", secret=SECRET, now=lambda: self.now, transport=transport, **fields
        )

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(found, Exception):
            raise found
        return found


def given(token: str = "abc", **fields: Any) -> httpx.Response:  # noqa: S107
    return httpx.Response(200, json={"access_token": token, "token_type": "Bearer"} | fields)


async def test_a_token_is_asked_for_by_client_credentials_and_used_for_four_fifths_of_its_time() -> None:
    endpoint = Endpoint(given("one", expires_in=100), given("two", expires_in="50"), given("three"), given("four"))
    tokens = endpoint.tokens(scope="kafka")
    assert [await tokens.token() for _ in range(3)] == ["one"] * 3
    [request] = endpoint.asked
    assert (request.method, str(request.url)) == ("POST", URL)
    assert request.content == b"grant_type=client_credentials&scope=kafka"
    assert request.headers["authorization"] == "Basic bWU6dGhlLXNlY3JldA=="
    for passed_s, token in ((79.0, "one"), (2.0, "two"), (39.0, "two"), (2.0, "three"), (47.0, "three"), (2.0, "four")):
        endpoint.now += passed_s
        assert await tokens.token() == token


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (httpx.ConnectError("refused"), TokenUnavailable, "refused"),
        (httpx.ReadTimeout(""), TokenUnavailable, "ReadTimeout"),
        (httpx.Response(503), TokenUnavailable, "it answers 503"),
        (httpx.Response(302, headers={"location": "http://elsewhere"}), TokenUnavailable, "it answers 302"),
        (httpx.Response(401, json={"error": "invalid_client"}), TokenRefused, "401, invalid_client"),
        (httpx.Response(400, json=["x"]), TokenRefused, "refuses kafka.sasl_oauthbearer_client_id"),
        (httpx.Response(400, json={"error": "two\nlines"}), TokenRefused, "(400)"),
        (httpx.Response(200, text="<html>"), TokenUnavailable, "no access_token"),
        (httpx.Response(200, json={"access_token": ""}), TokenUnavailable, "no access_token"),
        (httpx.Response(200, json={"access_token": "a\x01b"}), TokenUnavailable, "no access_token"),
        (httpx.Response(200, json={"access_token": "é"}), TokenUnavailable, "no access_token"),
        (
            httpx.Response(200, content=b'{"access_token": "' + b"a" * 70_000 + b'"}'),
            TokenUnavailable,
            "no access_token",
        ),
    ],
)
async def test_without_a_token_one_line_says_why(answer: Any, kind: type[Exception], said: str) -> None:
    """A `KafkaError`, which aiokafka takes for a broken connection; the next connection asks again."""
    endpoint = Endpoint(answer, given())
    tokens = endpoint.tokens()
    with pytest.raises(kind) as caught:
        await tokens.token()
    assert isinstance(caught.value, KafkaError)
    assert said in str(caught.value)
    assert URL in str(caught.value)
    assert SECRET not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert await tokens.token() == "abc"


@pytest.mark.parametrize("lifetime", [0, -5, True, "soon", None, 1e400])
async def test_a_lifetime_that_says_nothing_is_a_minute(lifetime: Any) -> None:
    endpoint = Endpoint(given(expires_in=lifetime) if lifetime != 1e400 else httpx.Response(
        200, content=b'{"access_token": "abc", "expires_in": 1e400}'))  # fmt: skip
    tokens = endpoint.tokens()
    await tokens.token()
    endpoint.now += 49
    await tokens.token()
    assert len(endpoint.asked) == (1 if lifetime == 1e400 else 2)


async def test_a_file_is_read_for_each_connection(tmp_path: Path) -> None:
    file = tmp_path / "token"
    tokens = FileTokens(str(file))
    for content, said in (
        (None, "No such file"),
        (b" \n", "holds no token"),
        (b"a b", "holds no token"),
        (b"\xff", "utf-8"),
    ):
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(TokenUnavailable, match=said):
            await tokens.token()
    for token in ("one", "two"):
        file.write_text(token + "\n")
        assert await tokens.token() == token


def settings(**kafka: Any) -> Settings:
    return Settings.model_validate(
        {"kafka": {"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER"} | kafka}
    )


def test_settings_name_one_place_where_tokens_come_from() -> None:
    endpoint = {"sasl_oauthbearer_token_endpoint_url": URL}
    for kafka, said in (
        ({}, "either"),
        (endpoint | {"sasl_oauthbearer_token_file": "/t"}, "kafka.sasl_mechanism OAUTHBEARER needs either"),
        (endpoint, "sasl_oauthbearer_client_id"),
        (endpoint | {"sasl_oauthbearer_client_id": "me"}, "sasl_oauthbearer_client_secret"),
    ):
        with pytest.raises(SettingsError, match=said):
            client_options(settings(**kafka))
    whole = settings(**endpoint, sasl_oauthbearer_client_id="me", sasl_oauthbearer_client_secret=SECRET)
    one, two = client_options(whole), client_options(whole)
    assert one["sasl_oauth_token_provider"] is two["sasl_oauth_token_provider"], "one token for all clients"
    assert "sasl_plain_username" not in one
    assert SECRET not in repr(whole)
    assert isinstance(
        client_options(settings(sasl_oauthbearer_token_file="/t"))["sasl_oauth_token_provider"], FileTokens
    )
    assert user(whole).startswith("the user that the token names")


AWS_KEYS = {"AWS_ACCESS_KEY_ID": "AKIAFAKE", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": "session"}


def msk(**kafka: Any) -> Settings:
    return settings(sasl_mechanism="AWS_MSK_IAM", **kafka)


async def test_a_token_for_msk_is_a_signed_request_to_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS's own signer makes it from the machine's credentials, here without a network. On the wire it is OAUTHBEARER."""
    for name, value in (AWS_KEYS | {"AWS_EC2_METADATA_DISABLED": "true"}).items():
        monkeypatch.setenv(name, value)
    options = client_options(msk(sasl_aws_region="eu-central-1"))
    assert options["sasl_mechanism"] == "OAUTHBEARER"
    provider = options["sasl_oauth_token_provider"]
    assert provider is client_options(msk(sasl_aws_region="eu-central-1"))["sasl_oauth_token_provider"]
    token = await provider.token()
    assert token == await provider.token()
    url = httpx.URL(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode())
    assert url.host == "kafka.eu-central-1.amazonaws.com"
    assert url.params["Action"] == "kafka-cluster:Connect"
    assert url.params["X-Amz-Credential"].startswith("AKIAFAKE/")
    assert "/eu-central-1/kafka-cluster/" in url.params["X-Amz-Credential"]
    assert SECRET not in str(url)
    sent = OAuthAuthenticator(sasl_oauth_token_provider=provider)
    assert (await sent.step(None)) == (f"n,,\x01auth=Bearer {token}\x01\x01".encode(), True)


async def test_a_token_for_msk_is_signed_anew_before_it_ends() -> None:
    """After four fifths of its time. Without credentials a client tries again, as after a broken connection."""
    now, asked = [1000.0], list[str]()

    def sign(region: str) -> tuple[str, int]:
        asked.append(region)
        if len(asked) == 2:
            raise RuntimeError("Unable to locate\ncredentials")
        return f"token-{len(asked)}", round((now[0] + 900) * 1000)

    tokens = AwsTokens("eu-west-1", sign, now=lambda: now[0])
    assert [await tokens.token() for _ in range(2)] == ["token-1"] * 2
    now[0] += 719
    assert await tokens.token() == "token-1"
    now[0] += 2
    with pytest.raises(TokenUnavailable, match="in eu-west-1 from AWS credentials: Unable to locate credentials"):
        await tokens.token()
    assert await tokens.token() == "token-3"
    assert asked == ["eu-west-1"] * 3


def test_msk_needs_a_region_and_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"AWS_MSK_IAM needs kafka\.sasl_aws_region"):
        client_options(msk())
    with pytest.raises(ValueError, match="sasl_aws_region"):
        msk(sasl_aws_region="Frankfurt")
    assert user(msk(sasl_aws_region="us-gov-west-1")).endswith("(kafka.sasl_mechanism AWS_MSK_IAM)")
    monkeypatch.setitem(sys.modules, "aws_msk_iam_sasl_signer", None)
    with pytest.raises(SettingsError, match=r"pip install 'parallax-streams\[aws\]'"):
        client_options(msk(sasl_aws_region="eu-central-1"))
