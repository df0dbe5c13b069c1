"""The AsyncAPI 3.1 document of the public topics, as an application beside the pipeline sees them. Pure.

In: the table of topics, the messages' schemas, the examples, and which cluster it is for. Out: one self-contained document; what
users write is `send`, what they may read `receive`. Topics that users neither write nor read are not in it. Its schemas are
those of `schemas.contract`, with their definitions as components. Never writes a file; `parallax docs asyncapi` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

from schemas.codec import ce_headers
from schemas.contract import schema
from schemas.dead_letter_headers import DLQ_HEADERS, OMITTED, OMITTED_HEADER
from schemas.examples import ENVELOPES, EXAMPLES, REJECTED, REJECTION, TIME
from schemas.messages import EventType, Message
from schemas.times import parse_time
from schemas.topics import (
    DEFAULT_PARTITIONS,
    DEFAULT_PREFIX,
    TOPICS,
    Topic,
    dead_letter_config,
    dead_letter_topics,
    event_ce_type,
    full_name,
)

ASYNCAPI = "3.1.0"
KAFKA_BINDING = "0.5.0"
VERSION = "1.0.0"
"""Version of the contracts: the 1 is that of `v1` in every event type and schema id. Not the package's."""

TITLE = "An application beside Parallax Streams"
ABOUT = (
    "The public topics of Parallax Streams as YOUR application sees them: `send` is what you write and the pipeline reads, "
    "`receive` what the pipeline writes and you may read. Values are plain JSON. Records you read are CloudEvents in binary "
    "mode; records you write may be plain JSON without any headers, or CloudEvents in binary or structured mode. Unknown "
    "fields are accepted and ignored. Read with isolation.level=read_committed: that makes exactly one result a task. "
    "The pipeline's own topics are left out; `parallax topics apply` creates all of them."
)
DEAD_LETTER = "DeadLetter"
TOMBSTONE = "AgentRemoval"
CORRELATION = {"Task": "id", "Result": "taskId", "Plan": "id", "PlanResult": "planId"}
"""The field that correlates a message."""
ANSWERS = {"tasks": "results", "plans": "plan-results"}
_SASL: dict[str, Json] = {
    "PLAIN": {"type": "plain"},
    "SCRAM-SHA-256": {"type": "scramSha256"},
    "SCRAM-SHA-512": {"type": "scramSha512"},
    "OAUTHBEARER": {"type": "http", "scheme": "bearer"},
    "AWS_MSK_IAM": {"type": "http", "scheme": "bearer"},
}

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cluster:
    """The Kafka cluster a document is for. `servers`: HOST:PORT each. `replicas`: None = the broker's default.

    `security_protocol` and `sasl_mechanism` are spelled as in Kafka's clients.
    """

    servers: tuple[str, ...] = ("localhost:9092",)
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str = "PLAIN"
    partitions: int = DEFAULT_PARTITIONS
    replicas: int | None = None


def document(prefix: str = DEFAULT_PREFIX, cluster: Cluster | None = None) -> Json:
    """The whole document, JSON-able, the same each time.

    >>> [name for name, what in document()["operations"].items() if what["action"] == "send"]
    ['sendTask', 'sendPlan', 'sendControl', 'sendAgentRegistration', 'sendSchedule', 'sendConfidenceDataPoint']
    """
    cluster = cluster or Cluster()
    public = [topic for topic in TOPICS if topic.users_write or topic.users_read]
    dead = dead_letter_topics()
    components: Json = {
        "schemas": _schemas(public),
        "messages": {topic.message.__name__: _message(topic) for topic in public}
        | {TOMBSTONE: _tombstone(), DEAD_LETTER: _dead_letter(prefix)},
    }
    if cluster.security_protocol.startswith("SASL_"):
        components["securitySchemes"] = {"sasl": _SASL[cluster.sasl_mechanism]}
    return {
        "asyncapi": ASYNCAPI,
        "id": "urn:parallax:asyncapi:v1",
        "info": {"title": TITLE, "version": VERSION, "description": ABOUT, "license": {"name": "Apache-2.0"}},
        "defaultContentType": "application/json",
        "servers": dict(_servers(cluster)),
        "channels": {topic.name: _channel(topic, prefix, cluster) for topic in public}
        | {name: _dead_channel(name, prefix, cluster) for name in dead},
        "operations": {name: body for topic in public for name, body in _operations(topic)}
        | {_dead_operation(name): _operation("receive", name, [DEAD_LETTER]) for name in dead},
        "components": components,
    }


def _servers(cluster: Cluster) -> Iterator[tuple[str, Json]]:
    protocol = "kafka-secure" if cluster.security_protocol.endswith("SSL") else "kafka"
    for number, host in enumerate(cluster.servers, start=1):
        body: Json = {"host": host, "protocol": protocol}
        if cluster.security_protocol.startswith("SASL_"):
            body["security"] = [{"$ref": "#/components/securitySchemes/sasl"}]
        yield ("kafka" if number == 1 else f"kafka-{number}"), body


def _messages_on(topic: Topic) -> list[str]:
    name = topic.message.__name__
    return [name, TOMBSTONE] if topic.name == "agents" else [name]


def _channel(topic: Topic, prefix: str, cluster: Cluster) -> Json:
    text = f"Key: {topic.key}. Written by {', '.join(topic.written_by)}; read by {', '.join(topic.read_by)}."
    partitions = topic.partitions or cluster.partitions
    return _channel_of(topic.name, text, _messages_on(topic), partitions, topic.config(), prefix, cluster)


def _dead_channel(name: str, prefix: str, cluster: Cluster) -> Json:
    source = full_name(name.removeprefix("dlq."), prefix)
    text = f"What was put aside from {source} and why: key, value and headers as they were. See `parallax dlq`."
    return _channel_of(name, text, [DEAD_LETTER], cluster.partitions, dead_letter_config(), prefix, cluster)


def _channel_of(
    name: str, text: str, messages: list[str], partitions: int, config: dict[str, str], prefix: str, cluster: Cluster
) -> Json:
    kafka: Json = {"topic": full_name(name, prefix), "partitions": partitions}
    if cluster.replicas is not None:
        kafka["replicas"] = cluster.replicas
    kafka["topicConfiguration"] = {
        key: value.split(",") if key == "cleanup.policy" else int(value) if value.isdigit() else value
        for key, value in config.items()
    }
    return {
        "address": full_name(name, prefix),
        "description": text,
        "messages": {message: {"$ref": f"#/components/messages/{message}"} for message in messages},
        "bindings": {"kafka": kafka | {"bindingVersion": KAFKA_BINDING}},
    }


def _operations(topic: Topic) -> Iterator[tuple[str, Json]]:
    for action, wanted in (("send", topic.users_write), ("receive", topic.users_read)):
        if wanted:
            name = topic.message.__name__
            body = _operation(action, topic.name, _messages_on(topic))
            if action == "send" and topic.name in ANSWERS:
                body["reply"] = {"channel": {"$ref": f"#/channels/{ANSWERS[topic.name]}"}}
            yield f"{action}{name}", body


def _operation(action: str, channel: str, messages: list[str]) -> Json:
    place = f"#/channels/{channel}"
    return {
        "action": action,
        "channel": {"$ref": place},
        "messages": [{"$ref": f"{place}/messages/{message}"} for message in messages],
    }


def _dead_operation(name: str) -> str:
    return "receiveDeadLettersOf" + "".join(word.capitalize() for word in name.removeprefix("dlq.").split("-"))


def _message(topic: Topic) -> Json:
    name = topic.message.__name__
    example: Json = {"name": "example", "payload": EXAMPLES[name]}
    if not topic.users_write:
        example["headers"] = _example_headers(topic)
    body: Json = {
        "name": name,
        "title": name,
        "summary": schema(topic.message)["description"].partition("\n")[0],
        "contentType": "application/json",
        "headers": {"$ref": "#/components/schemas/SentHeaders"} if topic.users_write else _read_headers(topic),
        "payload": {"$ref": f"#/components/schemas/{name}"},
    }
    if name in CORRELATION:
        body["correlationId"] = {"location": f"$message.payload#/{CORRELATION[name]}"}
    return body | {"bindings": _key(topic.key), "examples": [example]}


def _tombstone() -> Json:
    return {
        "name": TOMBSTONE,
        "title": TOMBSTONE,
        "summary": "Unregisters the agent whose id is the key: a record without a value.",
        "headers": {"$ref": "#/components/schemas/SentHeaders"},
        "payload": {"type": "null"},
        "bindings": _key("agent id"),
    }


def _dead_letter(prefix: str) -> Json:
    example_headers = REJECTION | {"__dlq.errors.topic": full_name("tasks", prefix)}
    return {
        "name": DEAD_LETTER,
        "title": DEAD_LETTER,
        "summary": "A record as it was: bytes, key and headers. Further headers name its origin and the reason.",
        "contentType": "application/octet-stream",
        "headers": {
            "type": "object",
            "properties": {h.name: _text(h.about) for h in DLQ_HEADERS} | {OMITTED_HEADER: _text(OMITTED)},
            "required": [h.name for h in DLQ_HEADERS],
        },
        "payload": {"description": "The original bytes."},
        "bindings": _key("the original key"),
        "examples": [{"name": "example", "headers": example_headers, "payload": REJECTED}],
    }


def _key(about: str) -> Json:
    return {"kafka": {"key": _text(about), "bindingVersion": KAFKA_BINDING}}


def _text(about: str) -> Json:
    return {"type": "string", "description": about}


def _ce_types(topic: Topic) -> list[str]:
    return [event_ce_type(kind) for kind in get_args(EventType)] if topic.name == "events" else [topic.ce_type]


def _read_headers(topic: Topic) -> Json:
    return {
        "type": "object",
        "allOf": [{"$ref": "#/components/schemas/CloudEventHeaders"}],
        "properties": {"ce_type": {"type": "string", "enum": _ce_types(topic)}},
    }


def _example_headers(topic: Topic) -> Json:
    name = topic.message.__name__
    processor, ce_id, subject = ENVELOPES[name]
    ce_type = event_ce_type(EXAMPLES[name]["type"]) if topic.name == "events" else topic.ce_type
    source = f"/parallax/parallax-streams/{processor}"
    headers = ce_headers(ce_type=ce_type, ce_id=ce_id, source=source, subject=subject, time_ms=parse_time(TIME))
    return {name: value.decode() for name, value in headers}


def _schemas(public: list[Topic]) -> Json:
    """The messages' schemas and all their definitions side by side, then those of the headers."""
    found: Json = {}
    for topic in public:
        found |= _lifted(topic.message)
    return dict(sorted(found.items())) | {"CloudEventHeaders": _cloud_event(), "SentHeaders": _sent_headers()}


def _lifted(message: type[Message]) -> Json:
    body = schema(message)
    parts: Json = body.pop("$defs", {}) | {message.__name__: body}
    for head in ("$schema", "$id"):
        body.pop(head)
    return {name: _moved(part) for name, part in parts.items()}


def _moved(value: Any) -> Any:
    """Turns references to definitions into references to components."""
    if isinstance(value, dict):
        reference = value.get("$ref")
        if isinstance(reference, str):
            return {"$ref": reference.replace("#/$defs/", "#/components/schemas/")}
        return {key: _moved(item) for key, item in value.items()}
    return [_moved(item) for item in value] if isinstance(value, list) else value


def _cloud_event() -> Json:
    properties = {
        "ce_specversion": {"type": "string", "const": "1.0"},
        "ce_id": _text("with ce_source: the same event has the same, also when it is written again"),
        "ce_source": _text("/parallax/<app>/<processor>"),
        "ce_type": _text("io.parallax.<noun>.v1"),
        "ce_time": {"type": "string", "format": "date-time"},
        "ce_subject": _text("the task, plan or agent it is about"),
        "content-type": {"type": "string", "const": "application/json"},
    }
    traced = {
        "traceparent": _text(
            "of results, plan results and events, where a worker makes spans: the one they belong to (W3C)"
        ),
        "tracestate": _text("as traceparent"),
    }
    about = "A CloudEvent in binary mode (CloudEvents 1.0.2, Kafka protocol binding 3.2)."
    return {"type": "object", "description": about, "properties": properties | traced, "required": list(properties)}


def _sent_headers() -> Json:
    about = (
        "None is needed. Those of a CloudEvent (`ce_*`) are accepted in binary mode; in structured mode the value is the "
        "envelope and content-type says so."
    )
    properties = {
        "content-type": _text("application/json, or application/cloudevents+json"),
        "traceparent": _text("of a task or plan: the trace its calls belong to (W3C)"),
        "tracestate": _text("as traceparent"),
    }
    return {"type": "object", "description": about, "properties": properties}
