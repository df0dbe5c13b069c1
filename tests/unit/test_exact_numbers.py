"""A number a user wrote reaches the agent, and one an agent wrote reaches the result, with every digit."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from agents_io.errors import Unsupported
from agents_io.grpc.rules.payload import fill_request, parse_result
from agents_io.protocols.functions.rules.results import read_result
from agents_io.protocols.http_tasks.rules.orders import read_order, read_reply
from agents_io.protocols.openai.rules.chat import chat_request
from agents_io.protocols.openai.rules.config import chat_config
from agents_io.protocols.patterns.control_plane import read_execution
from agents_io.rules.answer import parse_answer, reading_of
from agents_io.rules.confidence import from_agreement
from agents_io.rules.jsonrpc import request
from agents_io.rules.prompts import as_text
from agents_io.serving.answers import reply_of
from agents_io.serving.runs import parse_body
from agents_io.transport import Answer, Call
from schemas.exact_json import dumps, loads, loads_lines
from schemas.pb.confidence_pb2 import AgentRequest, ConfidenceResult
from streams.client.requests import encode
from streams.client.result import read_result as read_client_result
from streams.rules.plans.answer import Voice, merge, vote
from streams.rules.task_records import with_answer
from tests.support.coordinating import Coordinating
from tests.support.dispatching import Dispatching

pytestmark = pytest.mark.virtual_time

PAIRS = [
    ("18446744073709551617", "18446744073709551618"),
    ("-9223372036854775809", "-9223372036854775810"),
    ("0.12345678901234567891", "0.12345678901234567892"),
    ("9007199254740993.0", "9007199254740992.0"),
    ("1e-400", "2e-400"),
    ("1" + "0" * 400, "2" + "0" * 400),
]
NUMBERS = [first for first, _ in PAIRS]


def exact(raw: bytes | str | None) -> Any:
    """An independent reading: every number as a decimal."""
    return json.loads(raw or b"null", parse_int=Decimal, parse_float=Decimal)


def task(name: str, payload: str, **fields: Any) -> bytes:
    """A task with a payload of that very text."""
    rest = {"id": name, "type": "agent", "target": "a1"} | fields
    return f'{{"payload":{payload},{json.dumps(rest)[1:]}'.encode()


@pytest.mark.parametrize(("one", "other"), PAIRS)
@pytest.mark.parametrize("form", ['{"account":%s}', "%s", '[{"a":[%s]}]', '{"data":{"n":%s},"task":"x"}'])
async def test_two_different_numbers_are_two_questions(form: str, one: str, other: str) -> None:
    """Each is sent to the agent as it came; the same bytes again are answered from the cache."""
    it = Dispatching()
    for offset, number in enumerate((one, other, one)):
        it.take(offset, task(f"t{offset}", form % number))
        assert (await it.result(offset))["cached"] is (offset == 2)
    assert [exact(call.body) for _, call in it.transport.calls] == [exact(form % one), exact(form % other)]


@pytest.mark.parametrize("number", NUMBERS)
async def test_what_goes_beside_a_payload_is_exact_too(number: str) -> None:
    """Context, the user's own metadata on the result, and the payload of an http task."""
    it = Dispatching()
    for offset, kind in enumerate(("agent", "http")):
        raw = task(f"t{offset}", f'{{"n":{number}}}', type=kind, target="a1" if kind == "agent" else "http://h/")
        it.take(offset, raw[:-1] + f',"context":{{"previous":{number}}},"metadata":{{"own":{number}}}}}'.encode())
        await it.end(offset)
        [result] = [o for _, n, outputs in it.partition.ended if n == offset for o in outputs if o.topic == "results"]
        assert exact(result.value)["metadata"] == {"own": Decimal(number)}
    agent, http = (call.body for _, call in it.transport.calls)
    asked = {"n": Decimal(number), "context": {"previous": Decimal(number)}}
    assert exact(agent) == asked
    assert exact(read_order(http).body) == asked


@pytest.mark.parametrize("number", NUMBERS)
async def test_an_answer_is_exact_on_the_result_the_event_and_from_the_cache(number: str) -> None:
    """Also in the cache of the next owner."""
    it = Dispatching()
    it.transport.last = parse_answer(f'{{"value":{{"wei":[{number}]}},"confidence":0.9}}'.encode())
    it.take(0)
    await it.end(0)
    kept = [output.value for output in it.handler.changes() if output.value]
    later = Dispatching(kept=kept)
    later.take(1, task("t1", "{}"))
    assert (await later.result(1))["cached"] is True
    written = [
        (o.topic, o.value)
        for partition in (it.partition, later.partition)
        for _, _, outputs in partition.ended
        for o in outputs
    ]
    found = [exact(value) for topic, value in written if topic == "results"]
    told = [exact(value)["data"] for topic, value in written if topic == "events"]
    assert [row["result"] for row in (*found, told[0])] == [{"wei": [Decimal(number)]}] * 3


@pytest.mark.parametrize("number", NUMBERS)
def test_every_protocol_carries_and_reads_it(number: str) -> None:
    """Bodies, prompts, JSON-RPC parameters; values in answers, by a path too; a control plane's result; a function's."""
    payload = loads(f'{{"task":"x","data":{{"n":{number}}},"context":{{"c":{number}}}}}')
    assert exact(request(1, "call", payload))["params"] == exact(dumps(payload))
    assert f'"n":{number}' in as_text(payload).replace("E", "e")
    assert number in json.loads(chat_request(chat_config({"model": "m"}), payload))["messages"][1]["content"]
    value = f'{{"n":{number}}}'
    reading = reading_of({"valuePath": "a.b", "defaultConfidence": 1})
    answers = [
        parse_answer(f'{{"value":{value},"confidence":1}}'.encode()),
        parse_answer(f'{{"a":{{"b":{value}}}}}'.encode(), reading),
        read_reply(value.encode(), "application/json"),
        parse_result(ConfidenceResult(value_json=value, confidence=1).SerializeToString(), 1000),
        Answer(
            read_execution(f'{{"execution":{{"status":"completed","result":{value}}}}}'.encode(), "p", "e").result, 1
        ),
        read_result(loads(value), 1000),
    ]
    assert [exact(dumps(answer.value)) for answer in answers] == [exact(value)] * len(answers)


@pytest.mark.parametrize("number", NUMBERS)
def test_protocol_buffers_have_doubles_only_so_the_task_is_refused(number: str) -> None:
    """It names the field; in the context, which travels as text, every digit arrives."""
    call = Call("t", "t", f'{{"data":{{"a":[{{"n":{number}}}]}}}}'.encode(), 1.0)
    with pytest.raises(Unsupported) as caught:
        fill_request(AgentRequest(), call)
    assert caught.value.message.startswith(f"payload.data.a.0.n: {number[:40]}")
    made = AgentRequest()
    fill_request(made, Call("t", "t", f'{{"data":1,"context":{{"n":{number}}}}}'.encode(), 1.0))
    assert exact(made.context["n"]) == Decimal(number)


@pytest.mark.parametrize("number", [2**53 + 1, -(2**53) - 1, 2**63 - 1])
def test_integers_that_no_double_holds_are_refused_before_64_bits_too(number: int) -> None:
    """Those that one holds are sent."""
    with pytest.raises(Unsupported, match=str(number)):
        fill_request(AgentRequest(), Call("t", "t", b'{"n":%d}' % number, 1.0))
    made = AgentRequest()
    fill_request(made, Call("t", "t", b'{"n":%d}' % 2**60, 1.0))
    assert int(made.data["n"]) == 2**60


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("restart", [False, True])
async def test_a_plan_carries_it_from_step_to_step_to_its_result(number: str, restart: bool) -> None:
    """Payloads, `previous` and `results`, an expression's selection, through a restart."""
    it = Coordinating()
    steps = ",".join(
        f'{{"id":"{name}","type":"agent","target":"a1","payload":{{"n":{number}}},"metadata":{json.dumps(metadata)}}}'
        for name, metadata in (("a", {}), ("b", {}), ("c", {"input": "results.a.v"}))
    )
    written = []

    def take(source: str, raw: str, key: str | None = None) -> None:
        before = len(it.partition.ended)
        it.take(source, raw.encode(), key=key)
        written.extend(output for _, _, outputs in it.partition.ended[before:] for output in outputs)
        if restart:
            it.restart()

    take("plans", f'{{"id":"p","kind":"sequential","tasks":[{steps}]}}')
    for index in range(3):
        wire = {"taskId": f"p#{index}", "planId": "p", "status": "success", "confidence": 0.5, "executionTime": 1, "retries": 0,
                "cached": False, "timestamp": "2027-01-15T08:00:00.000Z", "metadata": {}}  # fmt: skip
        take("results", f'{{"result":{{"v":{number}}},{json.dumps(wire)[1:]}', key="p")
    tasks = [exact(output.value) for output in written if output.topic == "tasks"]
    assert [row["payload"] for row in tasks] == [{"n": Decimal(number)}] * 3
    answer = {"v": Decimal(number)}
    assert tasks[1]["context"] == {"previous": answer, "results": {"a": answer}}
    assert tasks[2]["context"] == {"input": Decimal(number)}
    [result] = [exact(output.value) for output in written if output.topic == "plan-results"]
    assert result["result"] == answer


@pytest.mark.parametrize("number", NUMBERS)
async def test_a_template_fills_it_in(number: str) -> None:
    """Alone as a number, within text as its digits."""
    it = Coordinating()
    inner = {"id": "a", "type": "agent", "target": "a1", "payload": {"n": "${n}", "text": "is ${n}"}}
    it.templates["double"] = {"name": "double", "plan": {"tasks": [inner]}}
    it.plan(
        f'{{"id":"p","tasks":[{{"id":"s","type":"pattern","target":"double","payload":{{"n":{number}}}}}]}}'.encode()
    )
    [sent] = [o.value for _, _, outputs in it.partition.ended for o in outputs if o.topic == "tasks"]
    payload = exact(sent)["payload"]
    assert (payload["n"], payload["text"]) == (Decimal(number), f"is {number}")


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_answers_are_compared_with_every_digit(one: str, other: str) -> None:
    """Two voices for one number outweigh a surer one for its neighbour."""
    voices = [Voice("a", loads(one), 0.5), Voice("b", loads(other), 0.6), Voice("c", loads(one), 0.5)]
    assert exact(vote(voices).value) == Decimal(one)
    merged = merge([Voice("a", {"x": loads(one)}, 0.5), Voice("b", {"y": loads(other)}, 0.6)])
    assert exact(merged.value) == {"x": Decimal(one), "y": Decimal(other)}


@pytest.mark.parametrize("number", NUMBERS)
def test_clients_agents_made_of_functions_and_models_keep_it(number: str) -> None:
    """What `Client` sends and reads, what `serve` reads and answers, JSON that a model wrote over several lines."""
    value = loads(f'{{"n":{number}}}')
    sent = exact(f'{{"n":{number}}}')
    assert exact(encode({"payload": value}))["payload"] == sent
    wire = {"taskId": "t", "status": "success", "executionTime": 1, "retries": 0, "cached": False,
            "timestamp": "2027-01-15T08:00:00.000Z", "metadata": {}}  # fmt: skip
    result = read_client_result(f'{{"result":{{"n":{number}}},{json.dumps(wire)[1:]}'.encode())
    assert exact(dumps(result.result)) == sent
    assert exact(dumps(parse_body(f'{{"n":{number}}}'.encode()))) == sent
    assert exact(reply_of(value, 0.5).body)["value"] == sent
    assert exact(dumps(loads_lines(f'{{"text":"two\nlines","n":{number}}}')))["n"] == Decimal(number)
    told = with_answer({"own": value}, f'{{"usage":{number}}}'.encode())
    assert exact(dumps(told)) == {"own": sent, "answer": {"usage": Decimal(number)}}
    assert from_agreement([value, value])[0] == value
