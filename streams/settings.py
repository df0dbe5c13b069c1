"""All settings and their sources: flag > environment `PARALLAX_*` > `parallax.toml` > default.

A nested value is written `PARALLAX_BREAKER__FAILURE_THRESHOLD=3` or, in the file, under `[breaker]`. Durations are
written `30s`, `1m30s`, `250ms` or as milliseconds. An unknown name is an error that names the nearest known one.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, SecretStr, ValidationError

from schemas.messages import BreakerLimits, Limits
from schemas.topics import DEFAULT_PREFIX
from streams.rules.detection.specs import DetectorSpec, parse_specs
from streams.rules.dispatch.balancing import Policy
from streams.settings_parts import (
    AgentSettings,
    ControlPlaneSettings,
    DurationMs,
    FunctionSettings,
    GrpcTlsSettings,
    HttpTaskSettings,
    Reference,
    SecretSettings,
    Section,
    TlsSettings,
    WebAuthSettings,
    WireDurationMs,
    words,
)

RoleName = Literal["dispatch", "plans", "schedules", "stats"]
ENV_PREFIX = "PARALLAX_"
CONFIG_FILE = "parallax.toml"


class SettingsError(Exception):
    """A setting that is unknown or invalid; the message names it and its source."""


class KafkaSettings(Section):
    """The connection to the brokers; names as in aiokafka and librdkafka."""

    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "AWS_MSK_IAM"] = "PLAIN"
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    sasl_oauthbearer_token_endpoint_url: Annotated[str, Field(pattern=r"^https?://")] | None = None
    sasl_oauthbearer_client_id: Annotated[str, Field(min_length=1)] | None = None
    sasl_oauthbearer_client_secret: SecretStr | None = None
    sasl_oauthbearer_scope: Annotated[str, Field(min_length=1)] | None = None
    sasl_oauthbearer_cafile: Annotated[str, Field(min_length=1)] | None = None
    sasl_oauthbearer_token_file: Annotated[str, Field(min_length=1)] | None = None
    sasl_aws_region: Annotated[str, Field(pattern=r"^[a-z]{2}(-[a-z]+)+-[0-9]+$")] | None = None
    ssl_cafile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    request_timeout: DurationMs = 30_000
    schema_registry_url: Annotated[str, Field(pattern=r"^https?://[^\s@?#]+$")] | None = None
    schema_registry_username: Annotated[str, Field(min_length=1)] | None = None
    schema_registry_password: SecretStr | None = None
    schema_registry_cafile: Annotated[str, Field(min_length=1)] | None = None


class DefaultLimits(Limits):
    """`Limits` of agents without their own, in the form of settings: text and durations are parsed, names are not
    camelCase.
    """

    model_config = ConfigDict(strict=False, extra="forbid", validate_default=True)

    window_ms: Annotated[WireDurationMs, Field(alias="window_ms", serialization_alias="windowMs")] = 60_000


class DefaultBreaker(BreakerLimits):
    """`BreakerLimits` of agents without their own, in the form of settings."""

    model_config = ConfigDict(strict=False, extra="forbid", validate_default=True)

    reset_timeout: Annotated[WireDurationMs, Field(alias="reset_timeout", serialization_alias="resetTimeout")] = 30_000
    monitoring_period: Annotated[
        WireDurationMs, Field(alias="monitoring_period", serialization_alias="monitoringPeriod")
    ] = 60_000
    slow_call_duration: Annotated[
        WireDurationMs | None, Field(alias="slow_call_duration", serialization_alias="slowCallDuration")
    ] = None


class HealthSettings(Section):
    """When the balancer passes over an agent.

    Checks ask `/health` or the protocol's equivalent; a `check_interval` of 0 disables them.
    """

    check_interval: DurationMs = 30_000
    check_timeout: Annotated[DurationMs, Field(ge=1)] = 5_000
    check_concurrency: Annotated[int, Field(ge=1, le=1000)] = 20
    unhealthy_after: Annotated[int, Field(ge=1, le=1000)] = 3
    healthy_after: Annotated[int, Field(ge=1, le=1000)] = 2
    eject_after: Annotated[int, Field(ge=0, le=1000)] = 5
    eject_time: Annotated[DurationMs, Field(ge=1)] = 30_000
    eject_time_max: Annotated[DurationMs, Field(ge=1)] = 300_000
    eject_share: Annotated[float, Field(ge=0, le=1)] = 0.5


class RetrySettings(Section):
    """Wait before retry n (the first is 0): `initial_delay` x `multiplier`^n, with jitter by default, at most `max_delay`."""

    max_retries: Annotated[int, Field(ge=0, le=100)] = 2
    initial_delay: DurationMs = 1000
    backoff_multiplier: Annotated[float, Field(ge=1, le=100)] = 2.0
    max_delay: DurationMs = 30_000
    jitter: bool = True
    budget_share: Annotated[float, Field(ge=0, le=100)] = 0.2
    """Retries and hedged calls within 10 s: at most this share of an agent's first calls, plus `budget_floor`."""
    budget_floor: Annotated[int, Field(ge=0, le=1_000_000)] = 10
    """Retries and hedged calls within 10 s that are always allowed."""


class CacheSettings(Section):
    """Which answers are cached and for how long. Bounds are per owner partition."""

    enabled: bool = True
    ttl: DurationMs = 300_000
    min_confidence: Annotated[float, Field(ge=0, le=1)] = 0.8
    max_entries: Annotated[int, Field(ge=1)] = 1000
    max_bytes: Annotated[int, Field(ge=1024)] = 8 * 1024 * 1024


class StatsSettings(Section):
    """Windows and detectors."""

    keep_minutes: Annotated[int, Field(ge=1)] = 60
    keep_hours: Annotated[int, Field(ge=1)] = 24
    keep_days: Annotated[int, Field(ge=1)] = 30
    minute_grace: DurationMs = 30_000
    hour_grace: DurationMs = 300_000
    day_grace: DurationMs = 3_600_000
    check_interval: DurationMs = 60_000
    own_process: bool = True
    """Beside other roles of a worker, statistics run in a separate process."""
    detect: bool = True
    sudden_drop: Annotated[float, Field(gt=0, le=1)] = 0.3
    low_confidence: Annotated[float, Field(ge=0, le=1)] = 0.5
    high_variance: Annotated[float, Field(gt=0, le=1)] = 0.2
    run_length: Annotated[float, Field(ge=100, le=1e9)] = 10_000
    overconfidence: Annotated[float, Field(ge=0, le=0.9)] = 0.1
    slow_factor: Annotated[float, Field(ge=1.1, le=1000)] = 2.0
    cost_factor: Annotated[float, Field(ge=1.1, le=1000)] = 2.0
    silent_after: Annotated[DurationMs, Field(ge=1000)] = 600_000
    prices: Annotated[str, Field(min_length=1)] | None = None
    """A file of prices by agent and model, TOML or JSON; see `usage.py`. Dispatch reads it at its start."""
    detectors: Annotated[tuple[DetectorSpec, ...], PlainValidator(parse_specs)] = ()
    """Detectors besides the default ones: a table of names, each a class name or a table with `use`; see `specs.py`."""


class DispatchSettings(Section):
    """Bounds and pace of dispatch."""

    max_in_flight: Annotated[int, Field(ge=1, le=1_000_000)] = 100_000
    max_held_bytes: Annotated[int, Field(ge=1)] = 64 * 1024 * 1024
    """Memory for the tasks that a worker holds; further tasks wait on their topic."""
    default_timeout: Annotated[DurationMs, Field(ge=1)] = 30_000
    """One attempt, for tasks without `metadata.timeout`."""
    max_wait: DurationMs = 24 * 3_600_000
    """The whole task, from its record's timestamp on; 0: no limit."""
    drain_timeout: DurationMs = 5_000
    stop_timeout: DurationMs = 20_000
    blocked_after: DurationMs = 60_000
    idempotency_window: DurationMs = 24 * 3_600_000
    idempotency_ids: Annotated[int, Field(ge=64, le=10_000_000)] = 250_000
    stall_after: Annotated[DurationMs, Field(ge=1000)] = 30_000
    max_task_bytes: Annotated[int, Field(ge=1)] = 1024 * 1024
    max_answer_bytes: Annotated[int, Field(ge=1)] = 768 * 1024
    commit_interval_max: DurationMs = 50
    delivery: Literal["auto", "exactly-once", "at-least-once"] = "auto"
    balancer: Policy = "confidence"
    await_agent: Literal["never", "unavailable", "always"] = "unavailable"
    """Which tasks wait if no agent can take them: none, those without a target whose capable agents are all
    unavailable now, or all.
    """


class GatewaySettings(Section):
    """Agents that dial in. Tokens are references: `env:NAME` or `file:PATH`.

    `agent_token`: required as `authorization: Bearer` of agents that dial in or register themselves.
    """

    missed_heartbeats: Annotated[int, Field(ge=1, le=100)] = 3
    grace: Annotated[DurationMs, Field(ge=100)] = 60_000
    reconnect_wait: DurationMs = 10_000
    max_agents: Annotated[int, Field(ge=1)] = 10_000
    max_outstanding: Annotated[int, Field(ge=1)] = 1000
    agent_token: Reference | None = None
    relay_token: Reference | None = None


class PlansSettings(Section):
    """Bounds of the plan coordinator; `max_active` and `max_active_bytes` are per owner partition.

    `templates`: a file of local patterns, one JSON object a line. All workers with the roles dispatch and plans need
    the same file.
    """

    templates: str | None = None
    max_depth: Annotated[int, Field(ge=1, le=5)] = 5
    max_active: Annotated[int, Field(ge=1, le=100_000)] = 1000
    max_active_bytes: Annotated[int, Field(ge=1024)] = 64 * 1024 * 1024
    max_plan_bytes: Annotated[int, Field(ge=1, le=10 * 1024 * 1024)] = 8 * 1024 * 1024
    commit_interval_max: DurationMs = 20


class Settings(Section):
    """All settings; only `load` reads their sources."""

    bootstrap_servers: Annotated[str, Field(min_length=1)] = "localhost:9092"
    topic_prefix: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,99}$")] = DEFAULT_PREFIX
    app_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,100}$")] = "parallax-streams"
    instance_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,100}$")] | None = None
    roles: Annotated[tuple[RoleName, ...], BeforeValidator(words), Field(min_length=1)] = (
        "dispatch", "plans", "schedules", "stats"
    )  # fmt: skip
    session_timeout: Annotated[DurationMs, Field(ge=1000)] = 10_000
    web_host: str = "127.0.0.1"
    web_port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    web_advertise: Annotated[str, Field(pattern=r"^\S+:\d{1,5}$")] | None = None
    grpc_host: str = "127.0.0.1"
    grpc_port: Annotated[int, Field(ge=0, le=65_535)] = 50_051
    grpc_advertise: Annotated[str, Field(pattern=r"^\S+:\d{1,5}$")] | None = None
    insecure: bool = False
    """Whether addresses that other machines reach may be open to everyone."""
    agents_file: Annotated[str, Field(min_length=1)] | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "text", "json"] = "auto"
    kafka: KafkaSettings = KafkaSettings()
    dispatch: DispatchSettings = DispatchSettings()
    limits: DefaultLimits = DefaultLimits()
    breaker: DefaultBreaker = DefaultBreaker()
    retry: RetrySettings = RetrySettings()
    health: HealthSettings = HealthSettings()
    cache: CacheSettings = CacheSettings()
    plans: PlansSettings = PlansSettings()
    stats: StatsSettings = StatsSettings()
    secrets: SecretSettings = SecretSettings()
    tls: TlsSettings = TlsSettings()
    grpc_tls: GrpcTlsSettings = GrpcTlsSettings()
    web_auth: WebAuthSettings = WebAuthSettings()
    agents: AgentSettings = AgentSettings()
    http_tasks: HttpTaskSettings = HttpTaskSettings()
    functions: FunctionSettings = FunctionSettings()
    control_plane: ControlPlaneSettings = ControlPlaneSettings()
    gateway: GatewaySettings = GatewaySettings()


def _nested() -> dict[str, type[BaseModel]]:
    found: dict[str, type[BaseModel]] = {}
    for name, info in Settings.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            found[name] = info.annotation
    return found


def known_names() -> list[str]:
    """Every setting as a dotted path, in order.

    >>> "breaker.failure_threshold" in known_names()
    True
    """
    nested = _nested()
    names: list[str] = []
    for name in Settings.model_fields:
        names += [f"{name}.{inner}" for inner in nested[name].model_fields] if name in nested else [name]
    return names


@dataclass(frozen=True, slots=True)
class SettingSource:
    """One given value and its source: `origin` is "file", "env" or "flag", `name` the name used there."""

    path: str
    value: Any
    origin: str
    name: str


def _checked(path: str, value: Any, origin: str, file: str = "") -> SettingSource:
    names = known_names()
    if path not in names:
        near = difflib.get_close_matches(path, names, n=1)
        hint = f"; did you mean {_spell(near[0], origin)}?" if near else ""
        where = f"{file}: " if file else ""
        raise SettingsError(f"{where}{_spell(path, origin)}: unknown setting{hint}")
    return SettingSource(path, value, origin, f"{file}: {path}" if file else _spell(path, origin))


def _spell(path: str, origin: str) -> str:
    if origin == "env":
        return ENV_PREFIX + path.replace(".", "__").upper()
    return "--" + path.replace("_", "-") if origin == "flag" else path


def _from_file(file: Path) -> Iterator[SettingSource]:
    try:
        content = tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise SettingsError(f"{file}: {error}") from None
    for name, value in content.items():
        leaves = (
            {f"{name}.{inner}": leaf for inner, leaf in value.items()} if isinstance(value, dict) else {name: value}
        )
        for path, leaf in leaves.items():
            yield _checked(path, leaf, "file", file.name)


def _from_environment(environ: Mapping[str, str]) -> Iterator[SettingSource]:
    for name in sorted(environ):
        if name.startswith(ENV_PREFIX) and environ[name] != "":
            yield _checked(name.removeprefix(ENV_PREFIX).lower().replace("__", "."), environ[name], "env")


def _explain(error: ValidationError, given: Mapping[str, SettingSource]) -> str:
    lines = []
    for fault in error.errors(include_url=False, include_context=False, include_input=False)[:3]:
        path = ".".join(str(part) for part in fault["loc"] if isinstance(part, str))
        reason = fault["msg"].removeprefix("Value error, ")
        name = given[path].name if path in given else path
        lines.append(f"{name}: {reason[:1].lower()}{reason[1:]}")
    return "; ".join(lines)


def load_with_origins(
    flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None, directory: Path | None = None
) -> tuple[Settings, dict[str, SettingSource]]:
    """As `load`, with the source of each given setting (dotted path); a missing path has its default."""
    given: dict[str, SettingSource] = {}
    for found in _from_file((directory or Path.cwd()) / CONFIG_FILE):
        given[found.path] = found
    for found in _from_environment(os.environ if environ is None else environ):
        given[found.path] = found
    for path, value in (flags or {}).items():
        if value is not None:
            given[path] = _checked(path, value, "flag")
    tree: dict[str, Any] = {}
    for path, found in given.items():
        section, dot, leaf = path.partition(".")
        if dot:
            tree.setdefault(section, {})[leaf] = found.value
        else:
            tree[section] = found.value
    try:
        return Settings.model_validate(tree), given
    except ValidationError as error:
        raise SettingsError(_explain(error, given)) from None


def load(
    flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None, directory: Path | None = None
) -> Settings:
    """The settings in force. `flags`: dotted names to values; None: not given. Raises `SettingsError`."""
    return load_with_origins(flags, environ, directory)[0]
