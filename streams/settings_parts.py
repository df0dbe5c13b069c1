"""Building blocks of the settings, and the sections about what agents and tasks may use: secrets, TLS, hosts,
functions, patterns.

In: given values, as text or numbers. Out: frozen sections of `settings.Settings`, or pydantic's error. It reads no
file.
"""

from __future__ import annotations

from ipaddress import ip_network
from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from agents_io.rules.targets import AgentWall, AllowList
from schemas.messages import MAX_DURATION_MS
from schemas.times import parse_duration

DurationMs = Annotated[int, BeforeValidator(parse_duration)]
WireDurationMs = Annotated[int, BeforeValidator(parse_duration), Field(ge=1, le=MAX_DURATION_MS)]


Reference = Annotated[str, Field(pattern=r"^(env|file):.+$")]
"""A reference to a token, `env:NAME` or `file:PATH`; never the token itself."""


def words(value: object) -> object:
    """The parts of `a, b`; any other value unchanged."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


class Section(BaseModel):
    """A group of settings; unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class TlsSettings(Section):
    """PEM files for TLS towards agents: a private CA, and a client certificate with its key. See `agents_io/tls.py`."""

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None


class GrpcTlsSettings(Section):
    """TLS of the worker's own gRPC port, from PEM files; plain text without `cert_file`. See `streams/grpc_tls.py`.

    `client_ca_file`: the CA whose certificate every client must show, including other workers. `ca_file`: the CA of
    other workers' certificates, by default the system's; they are for the host of a worker's address, or for
    `worker_name`.
    """

    cert_file: Annotated[str, Field(min_length=1)] | None = None
    key_file: Annotated[str, Field(min_length=1)] | None = None
    client_ca_file: Annotated[str, Field(min_length=1)] | None = None
    ca_file: Annotated[str, Field(min_length=1)] | None = None
    worker_name: Annotated[str, Field(min_length=1, max_length=253)] | None = None

    @model_validator(mode="after")
    def _with_certificate(self) -> Self:
        alone = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if alone and self.cert_file is None:
            raise ValueError(f"cert_file is missing: without it there is no TLS, and {alone[0]} means nothing")
        return self


class WebAuthSettings(Section):
    """Access to a worker over HTTP. Tokens are references: `env:NAME` or `file:PATH`. See `streams/live/access.py`.

    `token`: what this process sends to workers, as a client or as a worker; default: the first of `view_tokens`.
    `proxy_header`: the header in which a proxy within `proxy_networks` names the user; `proxy_operators` may operate
    (`*`: all).
    """

    view_tokens: Annotated[tuple[Reference, ...], BeforeValidator(words)] = ()
    operate_tokens: Annotated[tuple[Reference, ...], BeforeValidator(words)] = ()
    token: Reference | None = None
    proxy_header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,100}$")] | None = None
    proxy_networks: Annotated[tuple[str, ...], BeforeValidator(words)] = ()
    proxy_operators: Annotated[tuple[str, ...], BeforeValidator(words)] = ()
    open_metrics: bool = False

    @model_validator(mode="after")
    def _proxy(self) -> Self:
        for text in self.proxy_networks:
            try:
                ip_network(text)
            except ValueError as error:
                raise ValueError(f"proxy_networks: {text!r} is no network such as 10.0.0.7/32: {error}") from None
        if (self.proxy_header is None) != (not self.proxy_networks):
            raise ValueError("proxy_header and proxy_networks belong together: from elsewhere the header is ignored")
        if self.proxy_header is not None and self.proxy_header.lower() in ("authorization", "cookie", "host"):
            raise ValueError(f"proxy_header: {self.proxy_header} is not a header for a user's name")
        return self

    @property
    def is_set(self) -> bool:
        """Whether callers must authenticate."""
        return bool(self.view_tokens or self.operate_tokens or self.proxy_header)


class SecretSettings(Section):
    """Which secrets registrations may reference: variables by pattern, and files below a directory (anywhere, if none
    is set).
    """

    env: Annotated[tuple[str, ...], BeforeValidator(words)] = ("*",)
    directory: Annotated[str, Field(pattern=r"^/")] | None = None


class HttpTaskSettings(Section):
    """Where http tasks may go, and the limits of one host. Empty: nowhere. See `agents_io/rules/targets.py`."""

    allow: Annotated[tuple[str, ...], BeforeValidator(words)] = ()
    networks: Annotated[tuple[str, ...], BeforeValidator(words)] = ()
    max_requests: Annotated[int, Field(ge=1)] = 100
    window_ms: WireDurationMs = 60_000
    max_concurrency: Annotated[int, Field(ge=1, le=100_000)] = 10

    @model_validator(mode="after")
    def _readable(self) -> Self:
        self.allow_list()
        return self

    def allow_list(self) -> AllowList:
        """The rule made of the two lists."""
        return AllowList(self.allow, self.networks)


class AgentSettings(Section):
    """Where agents' endpoints may lead; anywhere without either list. See `AgentWall` in
    `agents_io/rules/targets.py`.
    """

    allow: Annotated[tuple[str, ...], BeforeValidator(words)] = ()
    networks: Annotated[tuple[str, ...], BeforeValidator(words)] = ()

    @model_validator(mode="after")
    def _readable(self) -> Self:
        self.wall()
        return self

    def wall(self) -> AgentWall | None:
        """The rule made of the two lists; None without them."""
        return AgentWall(self.allow, self.networks) if self.allow or self.networks else None


class FunctionSettings(Section):
    """Which functions tasks may name, and how many run at once: `threads` for all, `max_concurrency` for each."""

    modules: Annotated[tuple[str, ...], BeforeValidator(words)] = ()
    threads: Annotated[int, Field(ge=1, le=1000)] = 32
    max_concurrency: Annotated[int, Field(ge=1, le=1000)] = 8
    max_requests: Annotated[int, Field(ge=1)] | None = None
    window_ms: WireDurationMs = 60_000


class ControlPlaneSettings(Section):
    """The executor of patterns: the REST API at `url`, with the bearer token of `token_env` or `token_file`, if set."""

    url: Annotated[str, Field(pattern=r"^https?://")] | None = None
    token_env: str | None = None
    token_file: str | None = None
    max_concurrency: Annotated[int, Field(ge=1, le=100_000)] = 10
    max_requests: Annotated[int, Field(ge=1)] | None = None
    window_ms: WireDurationMs = 60_000

    @model_validator(mode="after")
    def _one_token(self) -> Self:
        if self.token_env is not None and self.token_file is not None:
            raise ValueError("token_env and token_file: only one of them")
        return self
