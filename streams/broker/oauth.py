"""Tokens for OAUTHBEARER: from an OAuth 2.0 token endpoint, from a file that another program renews, or signed with
this machine's AWS credentials for Amazon MSK with IAM.

In: settings. Out: the token provider that aiokafka asks at each new connection. A token is used for four fifths of its
lifetime. Every failure is a `KafkaError` with one line: aiokafka's client tries again, as after a broken connection.
Messages contain no token and no secret.
"""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiokafka.abc import AbstractTokenProvider
from aiokafka.conn import AIOKafkaConnection, OAuthAuthenticator
from aiokafka.errors import KafkaConnectionError, SaslAuthenticationFailed

if TYPE_CHECKING:
    import httpx

    from streams.settings import KafkaSettings

TIMEOUT_S = 10.0
SHARE = 0.8
"""Share of its lifetime after which a token is renewed."""
DEFAULT_S = 60.0
"""How long a token is used if its endpoint names no lifetime."""
MOST_S = 86_400.0
MOST_BYTES = 64 * 1024
TOKEN_MECHANISMS = ("OAUTHBEARER", "AWS_MSK_IAM")
"""MSK with IAM is OAUTHBEARER on the wire."""
HINT = "kafka.sasl_oauthbearer_token_endpoint_url"


Sign = Callable[[str], tuple[str, int]]
"""From a region to a token and its end, epoch ms. It blocks."""


class TokenUnavailable(KafkaConnectionError):  # type: ignore[misc]  # aiokafka ships no types
    """There is no token now; a later try may succeed."""


class TokenRefused(SaslAuthenticationFailed):  # type: ignore[misc]
    """The token endpoint refuses this client or its secret: waiting does not help."""


class _Authenticator(OAuthAuthenticator):  # type: ignore[misc]
    """aiokafka takes any response for success. A broker that refuses a token first sends the reason as JSON, and an
    error code only once that was acknowledged (RFC 7628, section 3.2.3).
    """

    async def step(self, payload: bytes | None) -> tuple[bytes, bool] | None:
        """The next message to send; None: nothing, the token was accepted."""
        if self._token_sent and payload:
            return b"\x01", True
        step: tuple[bytes, bool] | None = await super().step(payload)
        return step


def hear_refusals() -> None:
    """Apply to this process from now on. Idempotent."""
    AIOKafkaConnection.authenticator_oauth = lambda connection: _Authenticator(
        sasl_oauth_token_provider=connection._sasl_oauth_token_provider
    )


class FileTokens(AbstractTokenProvider):  # type: ignore[misc]
    """The token in a file, read again for each connection."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def token(self) -> str:
        """Raises `TokenUnavailable`."""
        try:
            found = Path(self._path).read_text("utf-8").strip()  # noqa: ASYNC240 - a small local file
        except (OSError, UnicodeDecodeError) as error:
            raise TokenUnavailable(f"kafka.sasl_oauthbearer_token_file {self._path}: {error}") from None
        if not found or any(character.isspace() or ord(character) < 32 for character in found):
            raise TokenUnavailable(f"kafka.sasl_oauthbearer_token_file {self._path}: it holds no token")
        return found


class _KeptTokens(AbstractTokenProvider):  # type: ignore[misc]
    """Uses a token for `SHARE` of its lifetime, then asks for another. `now`: seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._kept: tuple[str, float] | None = None

    async def token(self) -> str:
        """Raises `TokenUnavailable`, `TokenRefused`."""
        if self._kept is None or self._kept[1] <= self._now():
            asked_at = self._now()
            token, lifetime_s = await self._ask(asked_at)
            self._kept = token, asked_at + SHARE * lifetime_s
        return self._kept[0]

    @abstractmethod
    async def _ask(self, asked_at: float) -> tuple[str, float]:
        """A new token, and its lifetime in seconds from `asked_at` on."""


class EndpointTokens(_KeptTokens):
    """Tokens by client credentials (RFC 6749, section 4.4). Shared by all clients of a process."""

    def __init__(
        self,
        *,
        url: str,
        client_id: str,
        secret: str,
        scope: str | None = None,
        cafile: str | None = None,
        now: Callable[[], float] = time.monotonic,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`cafile`: the CA of the endpoint, None: the system's CAs. `now`: seconds."""
        super().__init__(now)
        self._url = url
        self._credentials = client_id, secret
        self._form = {"grant_type": "client_credentials"} | ({} if scope is None else {"scope": scope})
        self._cafile = cafile
        self._transport = transport

    async def _ask(self, asked_at: float) -> tuple[str, float]:
        import ssl

        import httpx

        try:
            trust = ssl.create_default_context(cafile=self._cafile)
            async with httpx.AsyncClient(timeout=TIMEOUT_S, verify=trust, transport=self._transport) as http:
                answer = await http.post(self._url, data=self._form, auth=self._credentials)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise TokenUnavailable(
                f"no token from {self._url} ({HINT}): {str(error) or type(error).__name__}"
            ) from None
        if answer.status_code in (400, 401, 403):
            raise TokenRefused(
                f"no token from {self._url}: it refuses kafka.sasl_oauthbearer_client_id and its secret, or the scope"
                f" ({answer.status_code}{_reason(answer)})"
            )
        if answer.status_code != 200:
            raise TokenUnavailable(f"no token from {self._url} ({HINT}): it answers {answer.status_code}")
        return self._read(answer)

    def _read(self, answer: httpx.Response) -> tuple[str, float]:
        try:
            body = answer.json() if len(answer.content) <= MOST_BYTES else None
        except ValueError:
            body = None
        token = body.get("access_token") if isinstance(body, dict) else None
        if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable():
            raise TokenUnavailable(f"no token from {self._url} ({HINT}): its answer holds no access_token")
        return token, _lifetime_s(body.get("expires_in") if isinstance(body, dict) else None)


def _lifetime_s(value: Any) -> float:
    """A token's lifetime in seconds. Some servers write the number as text.

    >>> _lifetime_s(3600), _lifetime_s("300"), _lifetime_s(None), _lifetime_s(-1), _lifetime_s(float("inf"))
    (3600.0, 300.0, 60.0, 60.0, 86400.0)
    """
    if isinstance(value, str) and value.isdigit() and len(value) < 10:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        return DEFAULT_S
    return min(float(value), MOST_S)


def _reason(answer: httpx.Response) -> str:
    """The error code of RFC 6749, section 5.2, if there is one."""
    try:
        code = answer.json().get("error")
    except (ValueError, AttributeError):
        return ""
    return f", {code}" if isinstance(code, str) and code.isascii() and code.isprintable() and len(code) < 100 else ""


class AwsTokens(_KeptTokens):
    """Tokens for Amazon MSK, signed with the credentials that AWS's library finds: environment, profile, web identity, instance
    role. Shared by all clients of a process."""

    def __init__(self, region: str, sign: Sign, now: Callable[[], float] = time.time) -> None:
        """`now`: epoch seconds, since the signer returns the time at which a token ends."""
        super().__init__(now)
        self._region = region
        self._sign = sign

    async def _ask(self, asked_at: float) -> tuple[str, float]:
        try:
            # The library may ask a metadata service for the credentials, and blocks.
            token, ends_ms = await asyncio.to_thread(self._sign, self._region)
        except Exception as error:  # botocore's errors have no common base class with the signer's
            reason = " ".join((str(error) or type(error).__name__).split())[:300]
            raise TokenUnavailable(
                f"no token for Amazon MSK in {self._region} from AWS credentials: {reason}"
            ) from None
        return token, ends_ms / 1000 - asked_at


def _signer() -> Sign:
    try:
        from aws_msk_iam_sasl_signer import MSKAuthTokenProvider
    except ImportError:
        raise ValueError("needs a package that is not installed; pip install 'parallax-streams[aws]'") from None
    sign: Sign = MSKAuthTokenProvider.generate_auth_token
    return sign


@lru_cache(maxsize=16)
def _aws(region: str, sign: Sign) -> AwsTokens:
    """The provider that all clients of this process share."""
    return AwsTokens(region, sign)


def tokens(kafka: KafkaSettings) -> AbstractTokenProvider:
    """The token provider of these settings. Raises ValueError if they name none or two.

    The message continues after the name of the mechanism.
    """
    if kafka.sasl_mechanism == "AWS_MSK_IAM":
        if kafka.sasl_aws_region is None:
            raise ValueError("needs kafka.sasl_aws_region")
        return _aws(kafka.sasl_aws_region, _signer())
    endpoint, file = kafka.sasl_oauthbearer_token_endpoint_url, kafka.sasl_oauthbearer_token_file
    if (endpoint is None) == (file is None):
        raise ValueError(f"needs either {HINT} or kafka.sasl_oauthbearer_token_file")
    if file is not None:
        return FileTokens(file)
    client_id, secret = kafka.sasl_oauthbearer_client_id, kafka.sasl_oauthbearer_client_secret
    if client_id is None or secret is None:
        raise ValueError(f"with {HINT} needs kafka.sasl_oauthbearer_client_id and kafka.sasl_oauthbearer_client_secret")
    return _endpoint(
        str(endpoint), client_id, secret.get_secret_value(), kafka.sasl_oauthbearer_scope, kafka.sasl_oauthbearer_cafile
    )


@lru_cache(maxsize=16)
def _endpoint(url: str, client_id: str, secret: str, scope: str | None, cafile: str | None) -> EndpointTokens:
    """The provider that all clients of this process with these settings share."""
    return EndpointTokens(url=url, client_id=client_id, secret=secret, scope=scope, cafile=cafile)
