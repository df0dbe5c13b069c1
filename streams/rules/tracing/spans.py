"""Names, attributes and ids of a worker's spans, and the headers of records. Pure.

In: records, agents, ends of calls, plans. Out: names and attributes (OpenTelemetry's conventions for messaging and
generative AI, which are drafts: all their names are here), ids, headers. The ids of a record's span follow from the
record: if it is processed again, it gets the same span. Spans never contain payloads or answers, nor a URL's query,
user or password.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from schemas.codec import header
from schemas.messages import AgentRegistration
from streams.rules.plans.blueprint import Blueprint
from streams.rules.records import Output
from streams.rules.source_record import SPAN_HEADER, SourceRecord
from streams.rules.task_records import status_of_code
from streams.rules.tracing.trace import Trace, trace_of

Attributes = dict[str, str | int | float | bool]

USERS = frozenset(("tasks", "plans"))
"""Topics that users write: our own headers on their records are not trusted."""
WITH_SPAN = frozenset(("results", "plan-results", "events"))
"""Topics whose records carry their span as `traceparent`."""
REQUESTS = frozenset(("tasks", "plans"))
"""Topics whose records request more work: that work is below our span, in place of the record's former one."""
PASSED_ON = frozenset(("dispatch", "parked"))
"""Topics on which a task continues, with the user's own headers unchanged; ours are beside them."""
CONFIDENCE = "gen_ai.evaluation.result"
MAX_NAME = 256
MAX_TOKENS = 2**53
"""A number beyond 64 bits would make the exporter lose its whole batch."""


class Ids(NamedTuple):
    """A span's ids, as in OpenTelemetry: integers of 128 and 64 bits, never 0."""

    trace_id: int
    span_id: int


def drawn(parent: Trace | None, *facts: object) -> Ids:
    """The span ids derived from these facts: the same whenever and wherever they are derived.

    >>> given = trace_of([("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")])
    >>> hex(drawn(given, "tasks", 0, 1).trace_id)
    '0xaf7651916cd43dd8448eb211c80319c'
    >>> drawn(given, "tasks", 0, 1) == drawn(given, "tasks", 0, 1) != drawn(given, "tasks", 0, 2)
    True
    >>> drawn(None, "tasks", 0, 1).trace_id == drawn(None, "tasks", 0, 2).trace_id
    False
    """
    text = "/".join(map(str, facts))
    above = ""
    if parent is None:
        trace_id = int.from_bytes(blake2b(text.encode(), digest_size=16, person=b"trace").digest())
    else:
        _, given, above, _ = parent.parent.split("-")[:4]
        trace_id = int(given, 16)
    span_id = int.from_bytes(blake2b(f"{trace_id}-{above}-{text}".encode(), digest_size=8, person=b"span").digest())
    return Ids(trace_id or 1, span_id or 1)


def above(record: SourceRecord) -> Trace | None:
    """The parent of a record's own span: our span, if the task came from another partition or from `parked`; else the
    user's.

    >>> mine, theirs = (b"00-0af7651916cd43dd8448eb211c80319c-%s-01" % (digit * 16) for digit in (b"1", b"2"))
    >>> headers = (("traceparent", theirs), ("parallax-span", mine))
    >>> [above(SourceRecord(topic, 0, 0, None, b"", headers)).parent[36:38] for topic in ("tasks", "dispatch")]
    ['22', '11']
    """
    ours = None if record.topic in USERS else header(record.headers, SPAN_HEADER)
    if ours is not None:
        parent, _, state = ours.partition(" ")
        found = trace_of([("traceparent", parent.encode()), ("tracestate", state.encode())])
        if found is not None:
            return found
    return trace_of(record.headers)


def stamp(outputs: Iterable[Output], trace: Trace) -> None:
    """Put its span on each record, in the form of its topic; also on its smaller forms.

    >>> trace = Trace("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    >>> outputs = [Output(topic, None, b"", [("traceparent", b"old")]) for topic in ("tasks", "parked", "data-points")]
    >>> stamp(outputs, trace)
    >>> [[(key, value[:4]) for key, value in output.headers] for output in outputs]
    [[('traceparent', b'00-0')], [('traceparent', b'old'), ('parallax-span', b'00-0')], [('traceparent', b'old')]]
    """
    for output in outputs:
        form: Output | None = output
        while form is not None:
            if form.topic in WITH_SPAN or form.topic in REQUESTS:
                kept = [given for given in form.headers if given[0] not in ("traceparent", "tracestate")]
                form.headers = kept + trace.headers()
            elif form.topic in PASSED_ON:
                kept = [given for given in form.headers if given[0] != SPAN_HEADER]
                form.headers = [*kept, (SPAN_HEADER, f"{trace.parent} {trace.state}".strip().encode())]
            form = form.fallback


# Attributes


def record_attributes(record: SourceRecord, topic: str, group: str) -> Attributes:
    """Attributes of the span `process {topic}`. `topic`: its full name."""
    found: Attributes = {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": topic,
        "messaging.destination.partition.id": str(record.partition),
        "messaging.consumer.group.name": group,
        "messaging.kafka.message.offset": record.offset,
    }
    for name, key in (("messaging.message.id", "ce_id"), ("cloudevents.event_type", "ce_type")):
        text = header(record.headers, key)
        if text:
            found[name] = text[:MAX_NAME]
    return found


def agent_attributes(agent: AgentRegistration) -> Attributes:
    """Attributes of every call to this agent."""
    found: Attributes = {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.provider.name": agent.transport,
        "gen_ai.agent.id": agent.id,
    }
    if agent.name:
        found["gen_ai.agent.name"] = agent.name[:MAX_NAME]
    return found | _server(agent.endpoint)


def _server(endpoint: str) -> Attributes:
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname, parts.port
    except ValueError:
        return {}
    if not (parts.scheme and host):
        return {}
    found: Attributes = {"server.address": host}
    if port is not None:
        found["server.port"] = port
    if parts.scheme in ("http", "https"):
        found["url.full"] = redacted(endpoint)
    return found


def redacted(url: str) -> str:
    """The URL without user, password, query and fragment; empty if it is not a URL.

    >>> redacted("https://me:secret@[::1]:9/v1?key=secret#x"), redacted("http://[bad")
    ('https://[::1]:9/v1', '')
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def answer_attributes(provider: str, metadata: Mapping[str, Any]) -> Attributes:
    """Which model answered and its usage, as reported by the transport for chat completions; the metadata of other
    protocols are an agent's words.

    >>> answer = {"model": "m-1", "usage": {"inputTokens": 7, "outputTokens": 2, "totalTokens": 9}}
    >>> answer_attributes("openai", answer)
    {'gen_ai.response.model': 'm-1', 'gen_ai.usage.input_tokens': 7, 'gen_ai.usage.output_tokens': 2}
    >>> answer_attributes("http", answer)
    {}
    """
    if provider != "openai":
        return {}
    found: Attributes = {}
    if isinstance(model := metadata.get("model"), str):
        found["gen_ai.response.model"] = model
    usage = metadata.get("usage")
    for name, key in (("input_tokens", "inputTokens"), ("output_tokens", "outputTokens")):
        tokens = usage.get(key) if isinstance(usage, dict) else None
        if isinstance(tokens, int) and 0 <= tokens <= MAX_TOKENS:
            found[f"gen_ai.usage.{name}"] = tokens
    return found


def confidence_attributes(confidence: float) -> Attributes:
    """Attributes of the event `gen_ai.evaluation.result`."""
    return {"gen_ai.evaluation.name": "confidence", "gen_ai.evaluation.score.value": confidence}


def plan_name(plan: Blueprint, template: str | None) -> str:
    """The name of a plan's span: few different names, for grouping; the id is an attribute."""
    return f"invoke_workflow {(template or plan.kind)[:MAX_NAME]}"


def plan_attributes(plan: Blueprint, template: str | None) -> Attributes:
    """Attributes of a plan's span. `template`: the local pattern it runs, if a task asked for it."""
    return {
        "gen_ai.operation.name": "invoke_workflow",
        "gen_ai.workflow.name": (template or plan.kind)[:MAX_NAME],
        "parallax.plan.id": plan.id,
        "parallax.plan.kind": plan.kind,
        "parallax.plan.tasks": len(plan.steps),
    }


class Ending(NamedTuple):
    """How a record or a plan ended. `error`: its kind, if it failed.

    `confidence`: one that no call below has. `calls`: all calls to agents for it.
    """

    outcome: str
    error: str | None = None
    agent_id: str | None = None
    calls: int | None = None
    cached: bool | None = None
    stage: str | None = None
    confidence: float | None = None


def ended_in(error: str, agent_id: str | None, calls: int | None) -> Ending:
    """A task's end without an answer. `error`: its code.

    >>> ended_in("timeout", "a", 2).outcome, is_error(ended_in("cancelled", None, None))
    ('timeout', False)
    """
    return Ending(status_of_code(error), error, agent_id, calls)


def rejection(stage: str) -> Ending:
    """The end of a record that cannot be read."""
    return Ending("dead-lettered", "rejected", stage=stage)


def plan_ending(status: str, error: Mapping[str, Any] | None, confidence: float | None) -> Ending:
    """A plan's end, from its result.

    >>> plan_ending("failure", {"code": "http_5xx"}, None).error
    'http_5xx'
    """
    return Ending(status, None if error is None else str(error.get("code")), confidence=confidence)


def is_error(ending: Ending) -> bool:
    """Whether it is an error; a requested cancel is none."""
    return ending.error is not None and ending.outcome != "cancelled"


def ending_attributes(ending: Ending) -> Attributes:
    """Attributes of a span with this end.

    >>> ending_attributes(Ending("success", agent_id="a", calls=1))
    {'parallax.outcome': 'success', 'gen_ai.agent.id': 'a', 'parallax.calls': 1}
    """
    found = {
        "parallax.outcome": ending.outcome,
        "error.type": ending.error,
        "gen_ai.agent.id": ending.agent_id,
        "parallax.calls": ending.calls,
        "parallax.cached": ending.cached,
        "parallax.dlq.stage": ending.stage,
    }
    return {name: value for name, value in found.items() if value is not None}
