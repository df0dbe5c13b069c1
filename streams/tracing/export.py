"""Makes a provider of spans with its exporter from the standard environment `OTEL_*`, and ends it in bounded time.

In: the environment. Out: a `Provider`, or None if tracing is not enabled or spans could not be made (that is logged).
Raises `TracingError`, one line that names the variable. Spans wait in the SDK's bounded queue (`OTEL_BSP_*`; the oldest
are dropped) and are sent by a separate thread: an unreachable or hung collector only costs spans. The SDK is imported
by this file only.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import structlog

from schemas.access import Who, role_group
from streams.rules.tracing.otel_env import BadOtel, ExportSettings, wanted
from streams.rules.tracing.spans import Ids
from streams.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

    from streams.tracing.spans import Tracing

log = structlog.get_logger(__name__)

SCOPE = "parallax-streams"
FLUSH_S = 5.0
"""How long a stopping worker waits for spans to be sent."""
NOISE_INTERVAL_S = 30.0


class TracingError(Exception):
    """Why spans cannot be made as the environment asks; names the variable."""


class Provider:
    """Makes the spans of a worker's roles."""

    def __init__(self, provider: TracerProvider, ids: Any) -> None:
        self._provider = provider
        self._ids = ids

    def role(self, role: Who, settings: Settings) -> Tracing:
        """The spans of one role."""
        from streams.tracing.spans import Tracing

        tracer = self._provider.get_tracer(SCOPE, _version())
        group = role_group(settings.app_id, role, settings.topic_prefix)
        return Tracing(tracer=tracer, ids=self._ids, role=role, prefix=settings.topic_prefix, group=group)

    async def stop(self, timeout_s: float = FLUSH_S) -> None:
        """Send waiting spans, at most so long. The thread is a daemon: a hung collector delays no exit."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def flush() -> None:
            self._provider.shutdown()
            loop.call_soon_threadsafe(done.set)

        threading.Thread(target=_kindly, args=(flush,), name="spans-flush", daemon=True).start()
        try:
            async with asyncio.timeout(timeout_s):
                await done.wait()
        except TimeoutError:
            log.warning("the collector did not accept the last spans in time; they are lost", timeout_s=timeout_s)


def _kindly(work: Any) -> None:
    try:
        work()
    except RuntimeError:
        return  # the loop has ended meanwhile: no caller waits any more


def provider(settings: Settings, environ: Mapping[str, str] | None = None) -> Provider | None:
    """The provider that the environment asks for. Call it in the process that makes the spans: threads do not survive a
    fork.
    """
    try:
        want = wanted(os.environ if environ is None else environ)
    except BadOtel as error:
        raise TracingError(str(error)) from None
    if want is None:
        return None
    try:
        import opentelemetry.sdk.trace as _sdk  # noqa: F401
    except ImportError:
        log.warning(
            "no spans are made: the SDK is not installed; pip install 'parallax-streams[otel]'", asked_by=want.asked_by
        )
        return None
    try:
        made = _made(settings, want)
    except ImportError as error:
        raise TracingError(
            f"{want.asked_by}: {error.name or error} is not installed; pip install 'parallax-streams[otel]'"
        ) from None
    except (ValueError, OSError) as error:
        raise TracingError(
            f"{want.asked_by}: the exporter cannot be created as OTEL_* configures it: {error}"
        ) from None
    _quiet()
    log.info("spans are exported", to=", ".join(want.exporters), protocol=want.protocol, endpoint=want.endpoint)
    return made


def _made(settings: Settings, want: ExportSettings) -> Provider:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    given = {"service.version": _version()}
    if settings.instance_id is not None:
        given["service.instance.id"] = settings.instance_id
    resource = Resource.create(given)
    if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": settings.app_id}))
    ids = make_ids()
    # Its own handler at the end of the process would wait half a minute for a hung collector.
    made = TracerProvider(resource=resource, id_generator=ids, shutdown_on_exit=False)
    for name in want.exporters:
        made.add_span_processor(BatchSpanProcessor(_exporter(name, want.protocol)))
    return Provider(made, ids)


def _exporter(name: str, protocol: str) -> SpanExporter:
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter(out=sys.stderr)  # stdout is for data
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as OverGrpc

        return OverGrpc()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as OverHttp

    return OverHttp()


def make_ids() -> Any:
    """A source of ids for the SDK (`spans.IdSource`): those that are set, else random ones."""
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class ChosenIds(RandomIdGenerator):
        def __init__(self) -> None:
            self.next: Ids | None = None

        def generate_trace_id(self) -> int:
            return super().generate_trace_id() if self.next is None else self.next.trace_id

        def generate_span_id(self) -> int:
            return super().generate_span_id() if self.next is None else self.next.span_id

    return ChosenIds()


def _version() -> str:
    try:
        return version(SCOPE)
    except PackageNotFoundError:
        return "unknown"


class Rarely(logging.Filter):
    """Passes one line of each kind in `NOISE_INTERVAL_S`, without its traceback: an absent collector is not the
    worker's fault.
    """

    def __init__(self) -> None:
        super().__init__()
        self._passed_s: dict[str, float] = {}
        """By template: as many as the SDK has log calls."""

    def filter(self, record: logging.LogRecord) -> bool:
        """True: log it."""
        if logging.getLogger(record.name).isEnabledFor(logging.DEBUG):
            return True
        now_s = time.monotonic()
        if now_s - self._passed_s.get(str(record.msg), -NOISE_INTERVAL_S) < NOISE_INTERVAL_S:
            return False
        self._passed_s[str(record.msg)] = now_s
        record.exc_info = None
        return record.levelno >= logging.WARNING


_RARELY = Rarely()


def _quiet() -> None:
    for name in list(logging.Logger.manager.loggerDict):
        if name.startswith("opentelemetry."):
            logging.getLogger(name).addFilter(_RARELY)
