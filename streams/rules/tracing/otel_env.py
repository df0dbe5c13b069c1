"""Whether the environment enables tracing, and whether its variables are valid. Pure.

In: the standard variables `OTEL_*`. Out: what to export and how, None for nothing, or `BadOtel` that names the
variable. The SDK itself ignores many mistakes, or fails with a traceback; a worker should report them before it begins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from streams.rules.tracing.spans import redacted

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
EXPORTERS = "OTEL_TRACES_EXPORTER"
KNOWN_EXPORTERS = ("otlp", "console", "none")
KNOWN_PROTOCOLS = ("http/protobuf", "grpc")
SAMPLER, SAMPLER_ARG = "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"
KNOWN_SAMPLERS = (
    "always_on", "always_off", "traceidratio",
    "parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio",
)  # fmt: skip
DEFAULT_HTTP = "http://localhost:4318"
DEFAULT_GRPC = "http://localhost:4317"
_COUNTS = {
    "OTEL_BSP_MAX_QUEUE_SIZE": 2048,
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": 512,
    "OTEL_BSP_SCHEDULE_DELAY": 5000,
    "OTEL_BSP_EXPORT_TIMEOUT": 30_000,
}
_LIMITS = (
    "OTEL_ATTRIBUTE_COUNT_LIMIT", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_SPAN_EVENT_COUNT_LIMIT", "OTEL_SPAN_LINK_COUNT_LIMIT",
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT",
)  # fmt: skip
_TIMEOUTS = ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT")
_COMPRESSIONS = ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION")


class BadOtel(Exception):
    """An invalid variable; the message names it."""


@dataclass(frozen=True, slots=True)
class ExportSettings:
    """`exporters`: `otlp`, `console`; `protocol` of OTLP; `endpoint`: fit for display; `asked_by`: the variable that
    enables tracing.
    """

    exporters: tuple[str, ...]
    protocol: str
    endpoint: str
    asked_by: str


def wanted(environ: Mapping[str, str]) -> ExportSettings | None:
    """What to export. Nothing unless an endpoint or an exporter is named. Raises `BadOtel`.

    >>> wanted({}), wanted({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:4318", "OTEL_SDK_DISABLED": "true"})
    (None, None)
    >>> wanted({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://u:p@h:4318"}).endpoint
    'http://h:4318'
    """
    variables = {name: value.strip() for name, value in environ.items() if name.startswith("OTEL_") and value.strip()}
    asked_by = next((name for name in (*ENDPOINTS, EXPORTERS) if name in variables), None)
    if asked_by is None or variables.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    exporters = tuple(name.strip() for name in variables.get(EXPORTERS, "otlp").split(","))
    for name in exporters:
        _one_of(EXPORTERS, name, KNOWN_EXPORTERS)
    if exporters == ("none",):
        return None
    if "none" in exporters:
        raise BadOtel(f"{EXPORTERS}: none cannot be combined with another exporter")
    protocol = _protocol(variables)
    for name in ENDPOINTS:
        _endpoint(name, variables)
    shown = next(
        (variables[name] for name in ENDPOINTS if name in variables),
        DEFAULT_GRPC if protocol == "grpc" else DEFAULT_HTTP,
    )
    _sampler(variables)
    _numbers(variables)
    return ExportSettings(exporters, protocol, redacted(shown), asked_by)


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise BadOtel(f"{name}: {value[:80]!r} is not known here; known are {', '.join(known)}")


def _protocol(variables: Mapping[str, str]) -> str:
    name = next((name for name in PROTOCOLS if name in variables), None)
    if name is None:
        return KNOWN_PROTOCOLS[0]
    _one_of(name, variables[name], KNOWN_PROTOCOLS)
    return variables[name]


def _endpoint(name: str, variables: Mapping[str, str]) -> None:
    if name not in variables:
        return
    try:
        parts = urlsplit(variables[name])
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise BadOtel(f"{name}: must be a URL, http://host:port or https://host:port")


def _sampler(variables: Mapping[str, str]) -> None:
    sampler = variables.get(SAMPLER, "parentbased_always_on").lower()
    _one_of(SAMPLER, sampler, KNOWN_SAMPLERS)
    if sampler.endswith("traceidratio") and SAMPLER_ARG in variables:
        _number(SAMPLER_ARG, variables, float, lambda share: 0 <= share <= 1, "a number from 0 to 1")


def _numbers(variables: Mapping[str, str]) -> None:
    for name in _COUNTS:
        _number(name, variables, int, lambda count: count > 0, "a whole number above 0")
    most, batch = (int(variables.get(name, _COUNTS[name])) for name in list(_COUNTS)[:2])
    if batch > most:
        raise BadOtel(
            f"OTEL_BSP_MAX_EXPORT_BATCH_SIZE: {batch} is more than the queue holds ({most}, OTEL_BSP_MAX_QUEUE_SIZE)"
        )
    for name in _LIMITS:
        _number(name, variables, int, lambda count: count >= 0, "a whole number")
    for name in _TIMEOUTS:
        _number(name, variables, float, lambda seconds: seconds > 0, "a number of seconds above 0")
    for name in _COMPRESSIONS:
        if name in variables:
            _one_of(name, variables[name].lower(), ("none", "gzip", "deflate"))


def _number(
    name: str, variables: Mapping[str, str], read: Callable[[str], float], good: Callable[[float], bool], what: str
) -> None:
    if name not in variables:
        return
    try:
        fits = good(read(variables[name]))
    except ValueError:
        fits = False
    if not fits:
        raise BadOtel(f"{name}: must be {what}")
