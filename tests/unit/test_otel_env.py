"""When the environment asks for spans, and what is said of one that cannot be used."""

from __future__ import annotations

import pytest

from streams.rules.tracing.otel_env import BadOtel, ExportSettings, wanted

BASE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_SERVICE_NAME": "x", "OTEL_TRACES_SAMPLER": "what"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": " "},
        BASE | {"OTEL_SDK_DISABLED": "TRUE"},
        BASE | {"OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://h"},
    ],
)
def test_nothing_is_made_unless_somebody_asks(environ: dict[str, str]) -> None:
    """And what is wrong there does not matter then."""
    assert wanted(environ) is None


def test_what_is_asked_for() -> None:
    """The variable of traces wins over the common one; what is shown has no secret; the protocol is HTTP unless said."""
    own = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://u:p@traces/v1/traces?key=s"}
    assert wanted(BASE) == ExportSettings(
        ("otlp",), "http/protobuf", "http://collector:4318", "OTEL_EXPORTER_OTLP_ENDPOINT"
    )
    assert wanted(BASE | own) == ExportSettings(("otlp",), "http/protobuf", "https://traces/v1/traces", next(iter(own)))
    grpc = {"OTEL_TRACES_EXPORTER": "otlp, console", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    assert wanted(grpc) == ExportSettings(("otlp", "console"), "grpc", "http://localhost:4317", "OTEL_TRACES_EXPORTER")
    over = BASE | grpc | {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}
    assert (found := wanted(over)) is not None
    assert found.protocol == "http/protobuf"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h:port"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "ftp://h"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_TRACES_EXPORTER", "otlp,none"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "HTTP"),
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "many"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "5000"),
        ("OTEL_BSP_SCHEDULE_DELAY", "-1"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "-1"),
        ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "x"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "0"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zip"),
    ],
)
def test_what_cannot_be_used_is_named(name: str, value: str) -> None:
    """The variable first, in one line."""
    with pytest.raises(BadOtel) as raised:
        wanted(BASE | {name: value})
    assert str(raised.value).startswith(f"{name}: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("share", ["1.1", "-0.1", "x", "nan"])
def test_a_share_lies_between_nothing_and_all(share: str) -> None:
    """And it matters only to samplers that draw."""
    given = BASE | {"OTEL_TRACES_SAMPLER_ARG": share}
    assert wanted(given) is not None
    with pytest.raises(BadOtel, match="OTEL_TRACES_SAMPLER_ARG: must be a number from 0 to 1"):
        wanted(given | {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio"})


def test_a_secret_in_an_endpoint_is_not_repeated() -> None:
    """Neither where it cannot be used."""
    with pytest.raises(BadOtel) as raised:
        wanted({"OTEL_EXPORTER_OTLP_ENDPOINT": "u:hunter2@h:4318"})
    assert "hunter2" not in str(raised.value)
