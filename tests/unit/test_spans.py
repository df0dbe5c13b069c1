"""What spans are called, what they say, which ids they have, and what records carry of them."""

from __future__ import annotations

import pytest

from schemas.messages import AgentRegistration
from streams.rules.dispatch.records import DispatchRecorder
from streams.rules.records import Output
from streams.rules.source_record import SourceRecord
from streams.rules.tracing.spans import (
    above,
    agent_attributes,
    answer_attributes,
    drawn,
    record_attributes,
    redacted,
    stamp,
)
from streams.rules.tracing.trace import Trace, trace_of

TRACE = "0af7651916cd43dd8448eb211c80319c"
GIVEN = Trace(f"00-{TRACE}-b7ad6b7169203331-01", "v=1")
OURS = f"00-{TRACE}-{'1' * 16}-01"


def source_record(topic: str, *headers: tuple[str, bytes]) -> SourceRecord:
    """A record of that topic."""
    return SourceRecord(topic, 3, 7, b"k", b"{}", headers, 1_800_000_000_000)


def test_ids_follow_from_the_record_and_from_what_is_above_it() -> None:
    """The same for the same; another for another place, time or parent; a trace of its own where none is given."""
    place = ("app-dispatch", "t.tasks", 3, 7, 1_800_000_000_000)
    mine = drawn(GIVEN, *place)
    assert mine == drawn(GIVEN, *place)
    assert f"{mine.trace_id:032x}" == TRACE
    other = Trace(f"00-{TRACE}-{'2' * 16}-01")
    others = [drawn(GIVEN, *place[:3], 8, place[4]), drawn(GIVEN, *place[:4], 1), drawn(other, *place)]
    assert len({mine.span_id, *(ids.span_id for ids in others)}) == 4
    alone = drawn(None, *place)
    assert alone == drawn(None, *place)
    assert alone.trace_id not in (0, mine.trace_id, drawn(None, *place[:4], 1).trace_id)
    assert 0 < alone.span_id < 2**64
    assert 0 < alone.trace_id < 2**128


def test_nobody_outside_can_say_what_our_own_header_says() -> None:
    """Believed of records the pipeline wrote; users' topics, and what is no context, leave the user's own."""
    both = (("traceparent", GIVEN.parent.encode()), ("tracestate", b"v=1"), ("parallax-span", f"{OURS} w=2".encode()))
    assert above(source_record("dispatch", *both)) == Trace(OURS, "w=2")
    assert above(source_record("parked", *both)) == Trace(OURS, "w=2")
    assert above(source_record("tasks", *both)) == above(source_record("plans", *both)) == GIVEN
    assert above(source_record("dispatch", *both[:2], ("parallax-span", b"\xff"))) == GIVEN
    assert above(source_record("dispatch")) is None


def test_each_topic_says_in_its_own_way_which_span_its_records_belong_to() -> None:
    """Users' headers stay as they were on what goes on; data points, dead letters and state say nothing; twice is once."""
    trace = Trace(OURS, "w=2")
    old = [("a", b"b"), ("traceparent", b"old"), ("tracestate", b"old")]
    topics = (
        "results",
        "plan-results",
        "events",
        "tasks",
        "plans",
        "dispatch",
        "parked",
        "data-points",
        "dlq.tasks",
        "state",
    )
    outputs = {topic: Output(topic, None, b"", list(old)) for topic in topics}
    shared = outputs["results"].headers
    outputs["results"].fallback = Output("results", None, b"", shared)
    outputs["parked"].fallback = Output("dlq.parked", None, b"", list(old))
    for _ in range(2):
        stamp(outputs.values(), trace)
    said = [("a", b"b"), ("traceparent", OURS.encode()), ("tracestate", b"w=2")]
    for topic in topics[:5]:
        assert outputs[topic].headers == said, topic
    for topic in topics[5:7]:
        assert outputs[topic].headers == [*old, ("parallax-span", f"{OURS} w=2".encode())]
    for topic in topics[7:]:
        assert outputs[topic].headers == old
    assert outputs["results"].fallback.headers == said
    assert outputs["parked"].fallback.headers == old


def test_what_goes_on_is_read_back_as_it_was_said() -> None:
    """The header of a parked task leads to the same context."""
    for trace in (Trace(OURS, "w=2"), Trace(OURS)):
        output = Output("parked", None, b"")
        stamp([output], trace)
        assert above(source_record("parked", *output.headers)) == trace


def test_a_record_is_described_without_its_key_and_value() -> None:
    """Topic, place, group, and which message it is."""
    headers = (("ce_id", b"i" * 300), ("ce_type", b"io.x"), ("secret", b"s"))
    assert record_attributes(source_record("tasks", *headers), "t.tasks", "app-dispatch") == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "t.tasks",
        "messaging.destination.partition.id": "3",
        "messaging.consumer.group.name": "app-dispatch",
        "messaging.kafka.message.offset": 7,
        "messaging.message.id": "i" * 256,
        "cloudevents.event_type": "io.x",
    }


@pytest.mark.parametrize(
    ("endpoint", "protocol", "server"),
    [
        ("https://h.example:8443/v1?key=s#f", "http",
         {"server.address": "h.example", "server.port": 8443, "url.full": "https://h.example:8443/v1"}),
        ("http://[::1]/", "http", {"server.address": "::1", "url.full": "http://[::1]/"}),
        ("grpc://h:50051", "grpc", {"server.address": "h", "server.port": 50051}),
        ("kafka://topic", "kafka", {"server.address": "topic"}),
    ],
)  # fmt: skip
def test_an_agent_is_described_without_what_is_secret(endpoint: str, protocol: str, server: dict[str, object]) -> None:
    """Where it is, by which protocol; no query; nothing of its metadata or auth."""
    agent = AgentRegistration.model_validate(
        {"id": "a", "name": "Anna", "endpoint": endpoint, "metadata": {"x": "hidden"}, "auth": {"env": "HIDDEN"}}
    )
    assert agent_attributes(agent) == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.provider.name": protocol,
        "gen_ai.agent.id": "a",
        "gen_ai.agent.name": "Anna",
        **server,
    }


@pytest.mark.parametrize("url", ["http://[bad", "http://a]b"])
def test_what_is_no_url_is_not_shown(url: str) -> None:
    """It might be anything."""
    assert redacted(url) == ""


def test_the_user_of_a_url_may_hold_an_at_sign() -> None:
    """What is behind the last one is the host."""
    assert redacted("https://me:p@ss@h/x?y#z") == "https://h/x"
    assert trace_of([]) is None


def test_a_number_that_no_exporter_can_carry_is_left_out() -> None:
    """It would cost the whole batch of spans."""
    usage = {"inputTokens": 2**64, "outputTokens": -1}
    assert answer_attributes("openai", {"model": 7, "usage": usage}) == {}
    assert answer_attributes("openai", {"usage": [1]}) == {}


def test_a_dead_letter_has_the_users_headers_and_none_of_ours() -> None:
    """Also of a task that went on before it was refused."""
    theirs = (("traceparent", GIVEN.parent.encode()), ("mine", b"x"))
    output = Output("dispatch", None, b"", list(theirs))
    stamp([output], Trace(OURS))
    assert len(output.headers) == 3
    dead, event = DispatchRecorder(app_id="app", processor="dispatch", prefix="t.", group="g").dead_letter(
        source_record("dispatch", *output.headers), "s", "why", 0
    )
    stamp([dead, event], Trace(OURS))
    assert tuple(dead.headers[:2]) == theirs
    assert all(name.startswith(("__dlq.", "parallax.dlq.")) for name, _ in dead.headers[2:])
