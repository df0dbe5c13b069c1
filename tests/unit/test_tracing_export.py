"""From the environment to a provider of spans, what is said when there can be none, and an end that does not wait for ever."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from typing import Any

import pytest
import structlog
from opentelemetry.sdk import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from streams.rules.source_record import SourceRecord
from streams.settings import Settings
from streams.tracing.export import Provider, Rarely, TracingError, make_ids, provider
from tests.support.wait import until

BASE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
SOURCE_RECORD = SourceRecord("tasks", 0, 1, None, b"{}")


class Stuck(SpanExporter):
    """Takes what it is given and never comes back before `gate` opens."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.taken = 0

    def export(self, spans: Any) -> SpanExportResult:
        """Hang."""
        self.taken += len(spans)
        self.gate.wait()
        return SpanExportResult.FAILURE


def over(exporter: SpanExporter, queue: int = 2048) -> Provider:
    """A provider with this exporter, and a queue of so many."""
    ids = make_ids()
    made = TracerProvider(id_generator=ids, shutdown_on_exit=False)
    made.add_span_processor(
        BatchSpanProcessor(exporter, max_queue_size=queue, max_export_batch_size=8, schedule_delay_millis=10)
    )
    return Provider(made, ids)


async def test_nothing_is_made_and_nothing_imported_unless_somebody_asks() -> None:
    """Neither by default, nor when it is switched off; and a worker's start does not pay for what it does not use."""
    assert provider(Settings(), {}) is None
    assert provider(Settings(), BASE | {"OTEL_SDK_DISABLED": "true"}) is None
    look = (
        "import sys, streams.cli.main, streams.worker; print([name for name in sys.modules if 'opentelemetry' in name])"
    )
    run = await asyncio.create_subprocess_exec(sys.executable, "-c", look, stdout=asyncio.subprocess.PIPE)
    assert (await run.communicate())[0].strip() == b"[]"


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
async def test_a_provider_is_made_as_the_environment_says(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a name for the service if nobody gave one; it ends though nobody is there."""
    for name, value in (BASE | {"OTEL_EXPORTER_OTLP_PROTOCOL": protocol}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    resources: list[Any] = []
    usual = trace.TracerProvider

    def kept(*, resource: Any, **more: Any) -> TracerProvider:
        resources.append(resource)
        return usual(resource=resource, **more)

    monkeypatch.setattr(trace, "TracerProvider", kept)
    made = provider(Settings(app_id="app", instance_id="w1"))
    assert made is not None
    [attributes] = [resource.attributes for resource in resources]
    assert (attributes["service.name"], attributes["service.instance.id"]) == ("app", "w1")
    made.role("dispatch", Settings()).record(SOURCE_RECORD).close()
    began = time.monotonic()
    await made.stop(1.0)
    assert time.monotonic() - began < 10


async def test_a_variable_that_cannot_be_used_is_an_error_with_its_name() -> None:
    """Before anything is begun."""
    with pytest.raises(TracingError, match=r"^OTEL_TRACES_SAMPLER: 'x' is not known here"):
        provider(Settings(), BASE | {"OTEL_TRACES_SAMPLER": "x"})


async def test_what_the_sdk_finds_wrong_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate that is not there."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "https://127.0.0.1:9")
    monkeypatch.setattr("opentelemetry.exporter.otlp.proto.grpc.trace_exporter.OTLPSpanExporter", _refuses)
    with pytest.raises(TracingError, match=r"^OTEL_EXPORTER_OTLP_ENDPOINT: the exporter cannot be created as OTEL_"):
        provider(Settings())


def _refuses() -> SpanExporter:
    raise FileNotFoundError("no such certificate")


async def test_without_the_sdk_the_worker_runs_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody asked for spans by a variable that all containers may have: that ends no worker."""
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with structlog.testing.capture_logs() as logs:
        assert provider(Settings(), BASE) is None
    [line] = logs
    assert "parallax-streams[otel]" in line["event"]
    assert line["asked_by"] == "OTEL_EXPORTER_OTLP_ENDPOINT"


async def test_an_exporter_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK alone is not enough."""
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(TracingError, match=r"is not installed; pip install 'parallax-streams\[otel\]'"):
        provider(Settings(), BASE)


async def test_an_exporter_that_hangs_holds_up_neither_spans_nor_the_end() -> None:
    """Far more spans than the queue holds; then the end comes when it was to, and says so."""
    stuck = Stuck()
    made = over(stuck, queue=16)
    tracing = made.role("dispatch", Settings())
    try:
        tracing.record(SOURCE_RECORD).close()
        await until(lambda: stuck.taken)
        logging.getLogger("opentelemetry.sdk._shared_internal").setLevel(logging.ERROR)
        began = time.monotonic()
        for _ in range(2000):
            tracing.record(SOURCE_RECORD).close()
        assert time.monotonic() - began < 10, "making spans waited for the collector"
        began = time.monotonic()
        with structlog.testing.capture_logs() as logs:
            await made.stop(0.2)
        assert 0.15 < time.monotonic() - began < 5
        assert "did not accept the last spans in time" in logs[0]["event"]
    finally:
        stuck.gate.set()
    assert stuck.taken <= 8


async def test_the_last_spans_go_out_at_the_end() -> None:
    """Of a worker whose collector is well."""
    well = Stuck()
    well.gate.set()
    made = over(well)
    for _ in range(20):
        made.role("dispatch", Settings()).record(SOURCE_RECORD).close()
    with structlog.testing.capture_logs() as logs:
        await made.stop()
    assert (well.taken, logs) == (20, [])


def test_a_collector_that_is_away_is_told_once_in_a_while_and_without_tracebacks(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kind of line by itself; what is no warning is for debugging only."""
    now_s = [100.0]
    monkeypatch.setattr("streams.tracing.export.time.monotonic", lambda: now_s[0])
    quiet, logger = Rarely(), logging.Logger("opentelemetry.test", logging.INFO)
    logger.addFilter(quiet)
    logger.addHandler(caplog.handler)
    for step_s in (0.0, 29.0, 1.0):
        now_s[0] += step_s
        try:
            raise ValueError("away")
        except ValueError:
            logger.exception("not sent %s", step_s)
        logger.warning("queue full")
        logger.info("by the way")
    assert [record.getMessage() for record in caplog.records] == [
        "not sent 0.0", "queue full", "not sent 1.0", "queue full",
    ]  # fmt: skip
    assert all(record.exc_info is None for record in caplog.records)
