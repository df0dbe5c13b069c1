"""The AsyncAPI document is valid, in step with the topics, and true of the records that are written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from jsonschema import Draft7Validator, Draft202012Validator

import schemas
from schemas.asyncapi import Cluster, document
from schemas.codec import Rejected, decode
from schemas.contract import schema
from schemas.examples import EXAMPLES, REJECTED, REJECTION, TIME
from schemas.messages import Anomaly, PlanResult, Task
from schemas.times import parse_time
from schemas.topics import TOPICS, full_name
from streams.cli.output import yaml_text
from streams.rules.broker.topic_plan import wanted
from streams.rules.dispatch.records import DispatchRecorder
from streams.rules.plans.records import PlanRecorder
from streams.rules.records import LARGE_BYTES, Output
from streams.rules.source_record import SourceRecord
from streams.rules.task_records import Success, Timing
from streams.settings import Settings
from streams.statistics.outputs import StatsRecorder

Json = dict[str, Any]

VENDORED = (Path(__file__).parents[1] / "data" / "asyncapi" / "3.1.0-without-id.json").read_bytes()
OFFICIAL = Draft7Validator(orjson.loads(VENDORED))
COMMITTED = Path(schemas.__file__).parent / "asyncapi.yaml"
GUARDED = Cluster(("b1:9093", "b2:9093"), "SASL_SSL", "SCRAM-SHA-512", partitions=24, replicas=3)
DOCUMENT = document()
NOW_MS = parse_time(TIME)
APP = Settings().app_id
RECORDER = DispatchRecorder(app_id=APP, processor="dispatch", prefix="parallax.", group=f"{APP}-dispatch")
TASK = Task.model_validate(EXAMPLES["Task"])
SOURCE_RECORD = SourceRecord("tasks", 0, 42, None, REJECTED.encode())


def reason() -> str:
    """Why the example of a dead letter is one."""
    with pytest.raises(Rejected) as found:
        decode(Task, SOURCE_RECORD.value)
    return found.value.reason


def references(value: Any) -> Iterator[str]:
    """Every `$ref` in a document."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def at(pointer: str) -> Any:
    """What a reference points to. Raises `KeyError`."""
    found: Any = DOCUMENT
    for part in pointer.removeprefix("#/").split("/"):
        found = found[part]
    return found


def faults(message: str, part: str, value: Any) -> list[str]:
    """What both dialects have against a message's payload or headers."""
    body = {"allOf": [{"$ref": f"#/components/messages/{message}/{part}"}], "components": DOCUMENT["components"]}
    validators = (Draft7Validator(body), Draft202012Validator(body))
    return [fault.message for validator in validators for fault in validator.iter_errors(value)]


def texts(headers: Iterable[tuple[str, bytes]]) -> dict[str, str]:
    """Headers as the document has them."""
    return {name: value.decode() for name, value in headers}


def example(message: str) -> Json:
    """The first example of a message."""
    found: Json = DOCUMENT["components"]["messages"][message]["examples"][0]
    return found


def test_the_vendored_schema_is_the_official_one() -> None:
    """Byte for byte."""
    told = (Path(__file__).parents[1] / "data" / "asyncapi" / "README.md").read_text("utf-8")
    assert sha256(VENDORED).hexdigest() in told


@pytest.mark.parametrize(
    "whole", [DOCUMENT, document("acme."), document("acme.", GUARDED)], ids=["default", "prefix", "guarded"]
)
def test_it_is_valid_asyncapi(whole: Json) -> None:
    """By the official JSON Schema; what the document is for makes no difference."""
    assert [f"{list(fault.path)}: {fault.message[:200]}" for fault in OFFICIAL.iter_errors(whole)] == []


@pytest.mark.parametrize(
    "place", ["operations/sendTask/action", "channels/tasks/bindings/kafka/partitions", "servers/kafka/protocol"]
)
def test_the_official_schema_finds_what_is_wrong(place: str) -> None:
    """Or the test above would hold of anything."""
    whole = orjson.loads(orjson.dumps(DOCUMENT))
    *path, last = place.split("/")
    spot = whole
    for part in path:
        spot = spot[part]
    spot[last] = ["wrong"]
    assert not OFFICIAL.is_valid(whole)


def test_the_committed_file_is_in_step() -> None:
    """Regenerate with `make schemas`."""
    assert COMMITTED.read_text("utf-8") == yaml_text(DOCUMENT) + "\n"
    assert yaml.safe_load(COMMITTED.read_text("utf-8")) == DOCUMENT


def test_every_reference_leads_somewhere_and_all_that_is_there_is_referred_to() -> None:
    """No dangling name, no component that nobody uses."""
    found = set(references(DOCUMENT))
    for pointer in found:
        assert at(pointer)
    parts = {f"#/components/{kind}/{name}" for kind, named in DOCUMENT["components"].items() for name in named}
    assert parts <= found


@pytest.mark.parametrize(("prefix", "cluster"), [("parallax.", None), ("acme.", GUARDED)])
def test_channels_are_the_public_topics_as_they_are_created(prefix: str, cluster: Cluster | None) -> None:
    """Name, partitions and settings are what `parallax topics apply` makes; what users neither write nor read is left out."""
    channels = document(prefix, cluster)["channels"]
    kafka = {channel["address"]: channel["bindings"]["kafka"] for channel in channels.values()}
    internal = {full_name(t.name, prefix) for t in TOPICS if not (t.users_write or t.users_read)}
    topics = {topic.name: topic for topic in wanted(prefix)}
    assert kafka.keys() == topics.keys() - internal
    assert internal == {
        f"{prefix}{name}"
        for name in (
            "standings",
            "dispatch",
            "parked",
            "scheduled",
            "schedule-state",
            "state",
            "plan-state",
            "calibrations",
        )
    }
    for name, binding in kafka.items():
        assert binding["topic"] == name
        assert binding["partitions"] == (topics[name].partitions or (24 if cluster else 8))
        assert binding.get("replicas") == (3 if cluster else None)
        settings = {
            key: ",".join(value) if isinstance(value, list) else str(value)
            for key, value in binding["topicConfiguration"].items()
        }
        assert settings == dict(topics[name].config)


def test_operations_are_the_users() -> None:
    """send where users write, receive where they read, each on its channel."""
    found = {
        (body["action"], body["channel"]["$ref"].removeprefix("#/channels/"))
        for body in DOCUMENT["operations"].values()
    }
    send = {("send", topic.name) for topic in TOPICS if topic.users_write}
    receive = {("receive", topic.name) for topic in TOPICS if topic.users_read}
    dead = {("receive", f"dlq.{topic.name}") for topic in TOPICS if topic.dead_letters}
    assert found == send | receive | dead
    assert {name for _, name in send} == {"tasks", "plans", "controls", "agents", "schedules", "data-points"}
    assert len(found) == len(DOCUMENT["operations"])


def test_the_cluster_and_the_prefix_are_those_asked_for() -> None:
    """Servers, whether they are secured, and no default name anywhere in what names topics."""
    whole = document("acme.", GUARDED)
    assert [server["host"] for server in whole["servers"].values()] == ["b1:9093", "b2:9093"]
    assert {server["protocol"] for server in whole["servers"].values()} == {"kafka-secure"}
    assert whole["components"]["securitySchemes"] == {"sasl": {"type": "scramSha512"}}
    assert {server["protocol"] for server in DOCUMENT["servers"].values()} == {"kafka"}
    text = orjson.dumps(whole).decode().replace("io.parallax.", "")  # of event types, which do not follow it
    assert not [topic.name for topic in TOPICS if full_name(topic.name) in text]


def test_public_topics_have_messages_of_their_own() -> None:
    """A message is described once, with the key of its topic; definitions of one name are the same in every message."""
    public = [topic.message for topic in TOPICS if topic.users_write or topic.users_read]
    assert len(set(public)) == len(public)
    seen: Json = {}
    for message in public:
        body = schema(message)
        parts = body.pop("$defs", {}) | {message.__name__: {key: value for key, value in body.items() if key[0] != "$"}}
        for name, part in parts.items():
            assert seen.setdefault(name, part) == part, name


@pytest.mark.parametrize("name", DOCUMENT["components"]["schemas"])
def test_schemas_are_valid_in_both_dialects(name: str) -> None:
    """AsyncAPI's tools need to know draft-07 only."""
    body = DOCUMENT["components"]["schemas"][name]
    Draft7Validator.check_schema(body)
    Draft202012Validator.check_schema(body)


@pytest.mark.parametrize("name", DOCUMENT["components"]["messages"])
def test_examples_fit_their_schemas(name: str) -> None:
    """Payload and headers, in both dialects; only the message without a value has none."""
    message = DOCUMENT["components"]["messages"][name]
    assert ("examples" in message) == (message["payload"] != {"type": "null"})
    for shown in message.get("examples", ()):
        assert faults(name, "payload", shown["payload"]) == []
        assert faults(name, "headers", shown.get("headers", {})) == []
    if "correlationId" in message:
        assert example(name)["payload"][message["correlationId"]["location"].partition("#/")[2]]


def test_a_wrong_payload_and_missing_headers_are_found() -> None:
    """Or the test above would hold of anything."""
    assert faults("Task", "payload", {**EXAMPLES["Task"], "type": "agnt"})
    assert faults("Result", "headers", {})
    assert faults("Result", "headers", {**example("Result")["headers"], "ce_type": "io.parallax.task.v1"})
    assert faults("AgentRemoval", "payload", {})


def written() -> dict[str, Output]:
    """What the pipeline writes of the story the examples tell."""
    answer = Success(orjson.dumps(EXAMPLES["Result"]["result"]), 0.93)
    result = RECORDER.succeeded(TASK, {}, "summarizer", answer, Timing(412.5), False, NOW_MS)[0]
    used = b'{"model":"m-1","usage":{"inputTokens":900,"outputTokens":120,"cost":0.003}}'
    spent = Success(answer.value_json, 0.93, used)
    point = RECORDER.succeeded(TASK, {}, "summarizer", spent, Timing(412.5, wait_ms=8.5), False, NOW_MS)[2]
    data = {"taskId": "t1", "type": "agent", "target": "summarizer"}
    planned = PlanResult.model_validate(EXAMPLES["PlanResult"])
    return {
        "Result": result,
        "ConfidenceDataPoint": point,
        "Event": RECORDER.event("task:started", "t1", data, NOW_MS),
        "PlanResult": PlanRecorder(APP, "parallax.", f"{APP}-plans").message(
            "plan-results", "p1", orjson.dumps(planned.wire()), NOW_MS
        ),
        "Anomaly": StatsRecorder(Settings(), "g").anomaly(Anomaly.model_validate(EXAMPLES["Anomaly"]))[0],
    }


@pytest.mark.parametrize("name", written())
def test_examples_are_what_the_pipeline_writes(name: str) -> None:
    """Value and headers to the letter."""
    output = written()[name]
    assert orjson.loads(output.value or b"") == example(name)["payload"] == EXAMPLES[name]
    assert texts(output.headers) == example(name).get("headers", texts(output.headers))


def test_the_example_of_a_dead_letter_is_what_the_pipeline_writes() -> None:
    """Value and headers to the letter; the header of a value left out is described too."""
    output = RECORDER.dead_letter(SOURCE_RECORD, "validate", reason(), NOW_MS)[0]
    assert texts(output.headers) == example("DeadLetter")["headers"] == REJECTION
    assert (output.value or b"").decode() == example("DeadLetter")["payload"]
    described = DOCUMENT["components"]["messages"]["DeadLetter"]["headers"]
    large = SourceRecord("tasks", 0, 42, None, b"x" * (LARGE_BYTES + 1))
    fallback = RECORDER.dead_letter(large, "validate", "too large", NOW_MS)[0].fallback
    assert fallback is not None
    assert {name for name, _ in fallback.headers} == set(described["properties"])
    assert {name for name, _ in output.headers} == set(described["required"])


def test_events_of_every_type_fit() -> None:
    """Each has a CloudEvents type of its own, and the document lists them all."""
    listed = at("#/components/messages/Event/headers/properties/ce_type/enum")
    types = at("#/components/schemas/Event/properties/type/enum")
    for kind in types:
        output = RECORDER.event(kind, "t1", {}, NOW_MS)
        assert faults("Event", "headers", texts(output.headers)) == []
    assert len(set(listed)) == len(listed) == len(types)
