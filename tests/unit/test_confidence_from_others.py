"""Confidence that one answer does not have by itself: from several samples, and from another agent as judge."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from agents_io.errors import BadResponse, ClientError, ServerError
from agents_io.transport import Answer
from schemas.codec import Rejected
from schemas.partitioning import owner_partition
from streams.rules.dispatch.judging import Judged, judge_body, rated, read_judged
from streams.rules.records import Output
from streams.rules.source_record import JUDGED_HEADER
from streams.rules.task_records import Success
from tests.support.dispatching import Dispatching
from tests.support.wait import until

pytestmark = pytest.mark.virtual_time

JUDGED = {"id": "a1", "endpoint": "http://h", "confidence": {"from": "judge", "agent": "j"}}
JUDGE = {"id": "j", "endpoint": "http://h"}


def dispatching(judged: dict[str, Any] = JUDGED, **fields: Any) -> Dispatching:
    """One partition with an agent that is judged, and its judge."""
    rig = Dispatching(**fields)
    rig.register(**judged)
    rig.register(**JUDGE)
    return rig


async def hop(rig: Dispatching, offset: int) -> Output:
    """Wait for the record that carries an answer to its judge."""
    await rig.end(offset)
    [[output]] = [outputs for _, at, outputs in rig.partition.ended if at == offset]
    assert output.topic == "dispatch"
    return output


async def judged(rig: Dispatching, offset: int, output: Output) -> dict[str, Any]:
    """Hand that record over, and wait for its end."""
    rig.take(offset, output.value, source="dispatch", headers=tuple(output.headers))
    return await rig.end(offset)


async def test_agreement_is_the_results_confidence() -> None:
    """One result and one point for all samples; a confident one is cached."""
    rig = Dispatching()
    rig.register(id="a1", endpoint="http://h", confidence={"from": "agreement", "samples": 3, "enough": 3})
    rig.transport.last = Answer("yes", 0.0, {"statedConfidence": 0.99})
    rig.take(0)
    end = await rig.end(0)
    assert (end["results"]["result"], end["results"]["confidence"], end["results"]["retries"]) == ("yes", 0.8, 0)
    assert end["results"]["metadata"]["answer"] == {
        "statedConfidence": 0.99,
        "agreement": {"samples": 3, "agree": 3},
    }
    assert (end["data-points"]["confidence"], end["data-points"]["success"]) == (0.8, True)
    rig.take(1)
    assert (await rig.result(1))["cached"]
    assert len(rig.transport.calls) == 3
    assert rig.kinds().count("task:started") == 1
    assert rig.handler.callers["a1"].stats.confidence.value == 0.8


async def test_a_sampled_task_is_cancelled_as_a_whole() -> None:
    """All its calls are cut off; one result."""
    rig = Dispatching()
    rig.register(id="a1", endpoint="http://h", confidence={"from": "agreement"})
    rig.transport.gate.clear()
    rig.take(0)
    await until(lambda: len(rig.transport.calls) == 5)
    rig.handler.cancel("t0")
    assert (await rig.result(0))["status"] == "cancelled"
    await until(lambda: rig.transport.cancelled == 5)


async def test_a_judge_gives_the_confidence() -> None:
    """The answer crosses to the judge's owner with the end of its record; the result is the answering agent's."""
    rig = dispatching()
    rig.transport.script.append(Answer("four", 0.0, {"statedConfidence": 1.0}))
    rig.transport.last = Answer(0.7, 0.9, {"reasoning": "plausible"})
    rig.take(0, payload={"task": "2+2"}, metadata={"mine": 1})
    output = await hop(rig, 0)
    assert output.partition == owner_partition("j", 1)
    assert not rig.kinds().count("task:completed")
    end = await judged(rig, 1, output)
    result = end["results"]
    assert (result["taskId"], result["status"], result["result"], result["confidence"]) == (
        "t0",
        "success",
        "four",
        0.7,
    )
    assert result["agentId"] == "a1"
    assert result["metadata"] == {
        "mine": 1,
        "answer": {"statedConfidence": 1.0, "judge": {"agentId": "j", "reasoning": "plausible"}},
    }
    assert (end["data-points"]["agentId"], end["data-points"]["confidence"]) == ("a1", 0.7)
    [(_, first), (_, second)] = rig.transport.calls
    assert first.idempotency_key != second.idempotency_key
    asked = orjson.loads(second.body)
    assert asked["data"] == {"question": {"task": "2+2"}, "answer": "four"}
    assert rig.kinds().count("task:started") == 1


async def test_the_id_of_a_judged_task_is_answered_once() -> None:
    """In both partitions; a task for the judge with the same id is another one."""
    rig = dispatching()
    rig.transport.script.append(Answer("four", 0.0))
    rig.transport.last = Answer(0.7, 0.9)
    rig.take(0)
    output = await hop(rig, 0)
    rig.take(1, id="t0")
    assert (await rig.end(1))["events"]["type"] == "task:duplicate"
    await judged(rig, 2, output)
    assert (await judged(rig, 3, output))["events"]["type"] == "task:duplicate"
    rig.take(4, id="t0", target="j")
    assert (await rig.result(4))["agentId"] == "j"


async def test_judged_answers_are_not_cached_and_equal_tasks_do_not_wait_for_each_other() -> None:
    """What a judge said of one answer is not known of the next."""
    rig = dispatching()
    rig.transport.gate.clear()
    rig.take(0)
    rig.take(1)
    await until(lambda: len(rig.transport.calls) == 2)
    rig.transport.last = Answer("four", 0.0)
    rig.transport.gate.set()
    await hop(rig, 0)
    await hop(rig, 1)
    rig.transport.last = Answer("five", 0.0)
    rig.take(2)
    await hop(rig, 2)


@pytest.mark.parametrize("default", [None, 0.4])
@pytest.mark.parametrize("end", [ServerError("no"), ClientError("no"), Answer("nonsense", 1.0)])
async def test_a_judge_that_fails(end: Any, default: float | None) -> None:
    """The task fails, and names the judge; or has the registration's `defaultConfidence`."""
    rig = dispatching(JUDGED | ({} if default is None else {"metadata": {"defaultConfidence": default}}))
    rig.transport.script.append(Answer("four", 0.0))
    rig.transport.last = end
    rig.take(0, metadata={"retries": 1})
    outcome = await judged(rig, 1, await hop(rig, 0))
    result = outcome["results"]
    if default is not None:
        assert (result["status"], result["result"], result["confidence"]) == ("success", "four", default)
        return
    assert result["status"] == "failure"
    assert result["error"]["message"].startswith("judge 'j': ")
    assert result["error"]["agentId"] == "j"
    if isinstance(end, ServerError):
        assert len(rig.transport.calls) == 3  # the judge was asked again
        assert (outcome["data-points"]["agentId"], outcome["data-points"]["success"]) == ("j", False)


async def test_a_judge_that_is_not_registered() -> None:
    """Looked up once, then the task fails."""
    rig = dispatching()
    del rig.agents.known["j"]
    rig.transport.last = Answer("four", 0.0)
    rig.take(0)
    result = (await judged(rig, 1, await hop(rig, 0)))["results"]
    assert (result["error"]["code"], result["error"]["message"]) == ("no_agent", "judge 'j': it is not registered")
    assert rig.agents.lookups == 1


async def test_cancelled_while_its_judge_is_asked() -> None:
    """Also with a default: who cancels a task wants no answer."""
    rig = dispatching(JUDGED | {"metadata": {"defaultConfidence": 0.5}})
    rig.transport.script.append(Answer("four", 0.0))
    rig.take(0)
    output = await hop(rig, 0)
    rig.transport.gate.clear()
    rig.take(1, output.value, source="dispatch", headers=tuple(output.headers))
    await until(lambda: len(rig.transport.calls) == 2)
    rig.handler.cancel("t0")
    assert (await rig.result(1))["status"] == "cancelled"
    assert rig.transport.cancelled == 1


async def test_the_answer_goes_along_when_its_record_is_relocated() -> None:
    """Another owner of the judge's partition must find it; a user's record cannot bring one."""
    rig = dispatching()
    rig.transport.script.append(Answer("four", 0.0))
    rig.take(0)
    output = await hop(rig, 0)
    rig.transport.gate.clear()
    rig.take(1, output.value, source="dispatch", headers=tuple(output.headers))
    await until(lambda: len(rig.transport.calls) == 2)
    rig.handler.unblock("dispatch", (1,))
    [[moved]] = [outputs for source, at, outputs in rig.partition.ended if (source, at) == ("dispatch", 1)]
    assert moved.topic == "parked"
    assert dict(moved.headers)[JUDGED_HEADER] == dict(output.headers)[JUDGED_HEADER]
    other = dispatching()
    other.transport.last = Answer(0.6, 1.0)
    assert (await judged(other, 5, moved))["results"]["confidence"] == 0.6
    forger = Dispatching(partitions=4, number=(owner_partition("a1", 4) + 1) % 4)
    forger.take(0, headers=((JUDGED_HEADER, dict(output.headers)[JUDGED_HEADER]),))
    assert JUDGED_HEADER not in dict((await hop(forger, 0)).headers)


@pytest.mark.parametrize(
    ("verdict", "confidence"),
    [(Answer(0, 1.0), 0.0), (Answer(1, 0.2), 1.0), (Answer("0.25", 1.0), 0.25), (Answer(True, 0.8), 0.8)],
)
def test_what_a_judge_may_say(verdict: Answer, confidence: float) -> None:
    """A number, however it is written; or yes or no."""
    assert rated(verdict) == confidence
    for nonsense in ("right", None, {"score": 1}, -0.5, 1.5):
        with pytest.raises(BadResponse, match="a judge's value must be"):
            rated(Answer(nonsense, 1.0))


def test_an_answer_travels_whole() -> None:
    """Every digit and every member."""
    answer = Success(b'{"n":123456789012345678901234567890}', 0.0, b'{"why":"so"}')
    sent = Judged("a", "j", answer, 1_790_000_000_000, 1.5, 2, 0.5)
    assert read_judged(sent.header()) == sent
    assert b"123456789012345678901234567890" in judge_body({}, answer)
    with pytest.raises(Rejected, match="cannot be read"):
        read_judged(b'{"agentId":"a"}')
