"""The spans of one role: one for each record of a task and each plan, and below them one for each call to an agent.

In: records and plans as work on them begins, their outcome, their commit. Out: spans, ended by the commit: what is not
committed is done again elsewhere, as the same span. Contexts are passed explicitly and none is ever made current, since
all tasks share one thread. It decides nothing: `rules/tracing/spans.py` does. Needs `opentelemetry-api` and nothing of
its SDK.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from opentelemetry.context import Context
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    TraceState,
    set_span_in_context,
)

from agents_io.calling.pending_call import ObservedCall
from agents_io.errors import AgentError
from agents_io.per_agent import PerAgent
from agents_io.transport import Answer
from schemas.messages import AgentRegistration
from schemas.topics import full_name
from streams.rules.plans.run import PlanRun
from streams.rules.records import Output
from streams.rules.source_record import SourceRecord
from streams.rules.tracing import spans as rules
from streams.rules.tracing.trace import KNOWN_FLAGS, Trace

NOTHING = Context()


class IdSource(Protocol):
    """The provider's source of ids."""

    next: rules.Ids | None
    """The ids of the next span; None: random ones."""


class Tracing:
    """Makes a role's spans. `role`: its name; `group`: its consumer group."""

    def __init__(self, *, tracer: Tracer, ids: IdSource, role: str, prefix: str, group: str) -> None:
        self._tracer = tracer
        self._ids = ids
        self._role = role
        self._prefix = prefix
        self._group = group
        self._agents = PerAgent(rules.agent_attributes)

    def record(self, record: SourceRecord, task_id: str | None = None) -> WorkSpan:
        """Work on a record begins."""
        topic = full_name(record.topic, self._prefix)
        parent = rules.above(record)
        facts = (self._group, topic, record.partition, record.offset, record.timestamp_ms)
        attributes = rules.record_attributes(record, topic, self._group)
        if task_id is not None:
            attributes["parallax.task.id"] = task_id
        span = self._start(f"process {topic}", SpanKind.CONSUMER, parent, rules.drawn(parent, *facts), attributes, None)
        return WorkSpan(self, span)

    def plan(self, run: PlanRun, place: tuple[int, int], template: str | None) -> WorkSpan:
        """A plan begins, or continues after a restart. `template`: the pattern it runs, if a task asked for it."""
        facts = (self._group, run.plan.id, *place, run.accepted_ms)
        span = self._start(
            rules.plan_name(run.plan, template), SpanKind.INTERNAL, run.trace, rules.drawn(run.trace, *facts),
            rules.plan_attributes(run.plan, template), run.accepted_ms * 1_000_000,
        )  # fmt: skip
        return WorkSpan(self, span)

    def call(self, agent: AgentRegistration, parent: Context, number: int, hedged: bool) -> CallSpan:
        """A call to an agent begins."""
        attributes = self._agents.get(agent) | {"parallax.call.attempt": number}
        if hedged:
            attributes["parallax.call.hedged"] = True
        self._ids.next = None
        name = f"invoke_agent {agent.id}"
        span = self._tracer.start_span(name, parent, SpanKind.CLIENT, attributes)
        return CallSpan(span, agent.transport, not agent.answers_unrated)

    def _start(
        self, name: str, kind: SpanKind, parent: Trace | None, ids: rules.Ids, attributes: rules.Attributes,
        start_ns: int | None,
    ) -> Span:  # fmt: skip
        context = NOTHING if parent is None else set_span_in_context(NonRecordingSpan(_context_of(parent)), NOTHING)
        self._ids.next = ids
        try:
            return self._tracer.start_span(name, context, kind, attributes, start_time=start_ns)
        finally:
            self._ids.next = None


class WorkSpan:
    """A span that ends with a commit: of a record, or of a plan. `trace`: for the spans below it."""

    __slots__ = ("_below", "_span", "_tracing", "trace")

    def __init__(self, tracing: Tracing, span: Span) -> None:
        self._tracing = tracing
        self._span = span
        self._below = set_span_in_context(span, NOTHING)
        self.trace = _trace_of(span.get_span_context())

    def begins(self, agent: AgentRegistration, number: int, hedged: bool) -> ObservedCall:
        """A call to an agent begins (`agents_io.calling.pending_call.CallObserver`)."""
        if not self._span.is_recording():
            return UnseenCall(self.trace)  # no known sampler records a span below one it dropped
        return self._tracing.call(agent, self._below, number, hedged)

    def note(self, ending: rules.Ending) -> None:
        """Set the outcome."""
        span = self._span
        if not span.is_recording():
            return
        span.set_attributes(rules.ending_attributes(ending))
        if rules.is_error(ending):
            span.set_status(Status(StatusCode.ERROR, ending.error))
        if ending.confidence is not None:
            span.add_event(rules.CONFIDENCE, rules.confidence_attributes(ending.confidence))

    def stamp(self, *outputs: Output) -> None:
        """Put the span's context on records."""
        rules.stamp(outputs, self.trace)

    def close(self) -> None:
        """End the span: its work is committed."""
        self._span.end()


class CallSpan:
    """One call to an agent (`agents_io.calling.pending_call.ObservedCall`)."""

    __slots__ = ("_is_rated", "_provider", "_span", "headers")

    def __init__(self, span: Span, provider: str, is_rated: bool) -> None:
        self._span = span
        self._is_rated = is_rated
        self._provider = provider
        self.headers = tuple((name, value.decode()) for name, value in _trace_of(span.get_span_context()).headers())

    def ended(self, end: Answer | BaseException) -> None:
        """The call ended: an answer, a failure, or cut off because its caller no longer waits, which is no failure."""
        span = self._span
        if isinstance(end, Answer):
            span.set_attributes(rules.answer_attributes(self._provider, end.metadata))
            if self._is_rated:
                span.add_event(rules.CONFIDENCE, rules.confidence_attributes(end.confidence))
        elif isinstance(end, asyncio.CancelledError):
            span.set_attribute("parallax.call.cut_off", True)
        else:
            kind = end.code if isinstance(end, AgentError) else type(end).__name__
            span.set_attribute("error.type", kind)
            if isinstance(end, AgentError) and end.status is not None:
                span.set_attribute("http.response.status_code", end.status)
            span.set_status(Status(StatusCode.ERROR, kind))
        span.end()


class UnseenCall:
    """A call below a span that is not recorded: the agent gets an unsampled `traceparent`, and nothing else happens."""

    __slots__ = ("headers",)

    def __init__(self, trace: Trace) -> None:
        self.headers = tuple((name, value.decode()) for name, value in trace.headers())

    def ended(self, end: Answer | BaseException) -> None:
        """Nothing is recorded."""


def _context_of(trace: Trace) -> SpanContext:
    _, trace_id, span_id, flags = trace.parent.split("-")[:4]
    state = TraceState.from_header([trace.state]) if trace.state else None
    known = TraceFlags(int(flags, 16) & KNOWN_FLAGS)
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=known, trace_state=state)


def _trace_of(context: SpanContext) -> Trace:
    parent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & KNOWN_FLAGS:02x}"
    return Trace(parent, context.trace_state.to_header() if context.trace_state else "")
