"""Agents: their registration, limits and status."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Field, model_validator

from schemas.messages.base import Count, DurationMs, Id, Message, Milliseconds, Name, OrDefault, Ratio, Timestamp

Protocol = Literal["http", "grpc", "gateway", "a2a", "openai", "mcp", "kafka"]


class Limits(Message):
    """Limits of calls to one agent: `maxRequests` in any `windowMs`, `maxConcurrency` at once."""

    max_requests: Annotated[int, Field(ge=1), OrDefault] = 100
    window_ms: Annotated[DurationMs, OrDefault] = 60_000
    max_concurrency: Annotated[int, Field(ge=1, le=100_000), OrDefault] = 10
    adaptive: bool | None = None
    """Whether the concurrency is found by trying, `maxConcurrency` at most."""
    hedge: bool | None = None
    """Whether a second call may run beside a slow first one, since the agent honours the Idempotency-Key."""


class BreakerLimits(Message):
    """When an agent's circuit opens and for how long; milliseconds.

    `failureRate` replaces the threshold; `slowRate` (with `slowCallDuration`) applies in addition; both need
    `minimumCalls`. `mode`: `open` lets no call through, `disabled` lets all.
    """

    failure_threshold: Annotated[int, Field(ge=1, le=10_000), OrDefault] = 5
    reset_timeout: Annotated[DurationMs, OrDefault] = 30_000
    monitoring_period: Annotated[DurationMs, OrDefault] = 60_000
    failure_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    minimum_calls: Annotated[int, Field(ge=1, le=1_000_000), OrDefault] = 10
    slow_call_duration: DurationMs | None = None
    slow_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    mode: Annotated[Literal["auto", "open", "disabled"], OrDefault] = "auto"

    @model_validator(mode="after")
    def _slow(self) -> Self:
        if (self.slow_rate is None) != (self.slow_call_duration is None):
            raise ValueError("slowRate and slowCallDuration belong together")
        return self


NO_SECRET_HEADERS = frozenset(
    ("host", "connection", "content-length", "content-type", "transfer-encoding", "idempotency-key", "accept-encoding")
)
"""In lower case: headers that we or the connection set."""


class SecretRef(Message):
    """A reference to a secret, never the secret itself. Exactly one of `env` and `file`.

    The secret is sent as `Authorization: Bearer ...`, or with `scheme: header` unchanged in the header named.
    """

    env: Name | None = None
    file: Name | None = None
    scheme: Literal["bearer", "header"] | None = None
    header: Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}$")] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.env is None) == (self.file is None):
            raise ValueError('must name a secret by exactly one of {"env": NAME} or {"file": PATH}')
        if (self.scheme == "header") != (self.header is not None):
            raise ValueError('scheme "header" needs header: NAME, such as X-Api-Key; no other scheme may have it')
        if self.header is not None and self.header.lower() in NO_SECRET_HEADERS:
            raise ValueError(f"header: {self.header} cannot carry a secret")
        return self


DEFAULT_SAMPLES = 5


class ConfidenceSource(Message):
    """Where the confidence of an agent's answers comes from.

    `stated`: the answer's own (the default). `path`: selected from the answer by the JMESPath expression `path`.
    `constant`: always `value`. `logprobs`: the mean log-probability of the answer's tokens (protocol `openai`).
    `agreement`: the agent is asked `samples` times, until `enough` answers agree. `judge`: the agent `agent` is asked
    how likely the answer is right.
    """

    source: Annotated[Literal["stated", "path", "constant", "logprobs", "agreement", "judge"], Field(alias="from")]
    path: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    value: Ratio | None = None
    samples: Annotated[int, Field(ge=2, le=20)] | None = None
    enough: Annotated[int, Field(ge=2, le=20)] | None = None
    agent: Id | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for source, name in (("path", "path"), ("constant", "value"), ("judge", "agent")):
            if (self.source == source) != (getattr(self, name) is not None):
                raise ValueError(f'{name}: required with "from": "{source}", and allowed with no other')
        for name in ("samples", "enough"):
            if self.source != "agreement" and getattr(self, name) is not None:
                raise ValueError(f'{name}: allowed only with "from": "agreement"')
        if self.enough is not None and not self.sample_count < 2 * self.enough <= 2 * self.sample_count:
            raise ValueError(
                f"enough: must be more than half of the {self.sample_count} samples and no more than all, not {self.enough}"
            )
        return self

    @property
    def sample_count(self) -> int:
        """How often the agent is asked for one task, at most."""
        if self.source != "agreement":
            return 1
        return DEFAULT_SAMPLES if self.samples is None else self.samples

    @property
    def enough_count(self) -> int:
        """How many equal answers suffice: more than half of the samples."""
        return self.sample_count // 2 + 1 if self.enough is None else self.enough


_SCHEMES: dict[str, Protocol] = {name: name for name in get_args(Protocol)} | {"https": "http", "grpcs": "grpc"}
"""A protocol is the scheme of its endpoints."""


def _lower_scheme(endpoint: Any) -> Any:
    """A scheme's case does not matter (RFC 3986, 3.1)."""
    if not isinstance(endpoint, str):
        return endpoint
    scheme, separator, rest = endpoint.partition("://")
    return scheme.lower() + separator + rest if separator else endpoint


BUILTIN_PREFIXES = ("http:", "function:", "pattern:")
"""Prefixes of the ids of built-in agents for other types of tasks; such ids cannot be registered."""


class AgentRegistration(Message):
    """One agent and how to reach it (compacted topic `agents`; a null value unregisters)."""

    id: Id
    name: Name | None = None
    endpoint: Annotated[str, Field(min_length=1, max_length=2048), BeforeValidator(_lower_scheme)]
    protocol: Protocol | None = None
    capabilities: Annotated[list[Name], Field(max_length=1000), OrDefault] = []
    metadata: dict[str, Any] | None = None
    limits: Limits | None = None
    breaker: BreakerLimits | None = None
    auth: SecretRef | None = None
    confidence: ConfidenceSource | None = None

    @model_validator(mode="after")
    def _without_userinfo(self) -> Self:
        """Checked first: the other errors repeat the endpoint."""
        scheme, separator, rest = self.endpoint.rpartition("://")
        names_agent = separator and scheme in ("gateway", "kafka")  # an id or a topic, no authority
        if not names_agent and "@" in re.split(r"[/?#]", rest, maxsplit=1)[0]:
            raise ValueError(
                "endpoint: must hold no user name or password: registrations are stored and shown in plain text; "
                "refer to the secret with auth"
            )
        return self

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        scheme = self.endpoint.partition("://")[0] if "://" in self.endpoint else ""
        if self.protocol is None and scheme not in _SCHEMES:
            raise ValueError(
                f"endpoint: the protocol cannot be derived from {self.endpoint[:80]!r}; write http://..., grpc://..., "
                "gateway://... or give protocol"
            )
        if self.transport == "http" and scheme not in ("http", "https"):
            raise ValueError(f"endpoint: an http agent needs an http:// or https:// URL, not {self.endpoint[:80]!r}")
        return self

    @model_validator(mode="after")
    def _unreserved(self) -> Self:
        if self.id.startswith(BUILTIN_PREFIXES):
            raise ValueError(
                f"id: must not begin with {', '.join(BUILTIN_PREFIXES)}: such agents are the pipeline's own"
            )
        return self

    @property
    def transport(self) -> str:
        """The protocol given, else the one of the endpoint's scheme."""
        return self.protocol or _SCHEMES[self.endpoint.partition("://")[0]]

    @property
    def answers_unrated(self) -> bool:
        """Whether a single answer has no confidence yet: other samples, or a judge, give it one."""
        return self.confidence is not None and self.confidence.source in ("agreement", "judge")


class AgentStanding(Message):
    """An agent's status as its owner partition knows it, for workers that choose among several agents (compacted topic
    `standings`).

    `load`: tasks that wait for it or are being called; `responseTime` in ms and `confidence` are of recent answers.
    `calibratedConfidence`: that confidence calibrated by known outcomes; None while unknown.
    """

    agent_id: Id
    at: Timestamp
    circuit: Literal["closed", "open", "half_open"] = "closed"
    open_until: Timestamp | None = None
    healthy: bool = True
    reason: Literal["", "checks", "calls", "connection"] = ""
    ejected_until: Timestamp | None = None
    load: Count = 0
    concurrency: Annotated[int, Field(ge=1)] | None = None
    response_time: Milliseconds | None = None
    confidence: Ratio | None = None
    calibrated_confidence: Ratio | None = None
