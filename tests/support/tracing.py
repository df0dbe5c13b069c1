"""Spans kept in memory, as tests look at them; and a collector on loopback that takes them over OTLP/HTTP, or does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler

from streams.tracing.export import make_ids
from streams.tracing.spans import Tracing

TRACE, USER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{USER}-01"


class Recording:
    """A `Tracing` of one role whose finished spans can be looked at."""

    def __init__(self, role: str = "dispatch", sampler: Sampler = ALWAYS_ON) -> None:
        self._exporter = InMemorySpanExporter()
        ids = make_ids()
        provider = TracerProvider(sampler=sampler, id_generator=ids, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracing = Tracing(tracer=provider.get_tracer("test"), ids=ids, role=role, prefix="t.", group=f"app-{role}")

    @property
    def spans(self) -> list[ReadableSpan]:
        """Those that have ended, in the order of their ends."""
        return list(self._exporter.get_finished_spans())

    def one(self, name: str) -> ReadableSpan:
        """The only span of that name."""
        [found] = [span for span in self.spans if span.name == name]
        return found


def ids(span: ReadableSpan) -> tuple[str, str, str | None]:
    """Trace, own id and parent's, in hex."""
    context, parent = span.get_span_context(), span.parent
    assert context is not None
    return f"{context.trace_id:032x}", f"{context.span_id:016x}", None if parent is None else f"{parent.span_id:016x}"


def header_of(span: ReadableSpan) -> bytes:
    """What a record of this span carries as `traceparent`, whether or not the trace's id is told to be random."""
    trace_id, span_id, _ = ids(span)
    return f"00-{trace_id}-{span_id}".encode()


class Collector:
    """Takes spans on a free port of 127.0.0.1. `hang`: it takes connections and never answers."""

    def __init__(self, hang: bool = False) -> None:
        self.spans: list[dict[str, Any]] = []
        self.resources: list[dict[str, Any]] = []
        self.asked = 0
        self.url = ""
        self._hang = hang
        self.end = asyncio.Event()

    async def take(self, request: web.Request) -> web.Response:
        self.asked += 1
        if self._hang:
            await self.end.wait()
            return web.Response(status=503)
        message = ExportTraceServiceRequest.FromString(await request.read())
        for resource in message.resource_spans:
            self.resources.append(_plain(resource.resource.attributes))
            for scope in resource.scope_spans:
                self.spans += [_span(span) for span in scope.spans]
        return web.Response(body=b"", content_type="application/x-protobuf")

    def named(self, name: str) -> list[dict[str, Any]]:
        """Spans of that name, in the order of their beginnings."""
        return sorted((span for span in self.spans if span["name"] == name), key=lambda span: span["begin"])


def _span(span: Any) -> dict[str, Any]:
    return {
        "name": span.name,
        "trace": span.trace_id.hex(),
        "id": span.span_id.hex(),
        "parent": span.parent_span_id.hex(),
        "kind": span.kind,
        "begin": span.start_time_unix_nano,
        "end": span.end_time_unix_nano,
        "error": span.status.code == 2,
        "attributes": _plain(span.attributes),
        "events": [(event.name, _plain(event.attributes)) for event in span.events],
    }


def _plain(attributes: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in attributes}


@asynccontextmanager
async def collector(hang: bool = False) -> AsyncIterator[Collector]:
    """One that runs."""
    made = Collector(hang)
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_post("/v1/traces", made.take)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield made
    finally:
        made.end.set()
        await runner.cleanup()
