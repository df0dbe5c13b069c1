"""The coordinator of one partition: what it writes for each record, wish and moment, and what it knows after a restart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any, cast

import orjson
import pytest
from prometheus_client import CollectorRegistry

from schemas.codec import decode
from schemas.exact_json import loads
from schemas.messages import ConfidenceDataPoint, Control, Event, PlanMemory, PlanResult, Result, Task
from schemas.partitioning import owner_partition
from streams.engine.partition_processor import PartitionProcessor
from streams.metrics import PlanMetrics
from streams.plans import handler
from streams.plans.handler import PlanHandler
from streams.plans.memory import anything_under_way
from streams.plans.outcomes import PlanOutcomes
from streams.plans.parts import PlanParts
from streams.rules.dispatch.routing import MAX_HOPS
from streams.rules.plans.records import PlanRecorder
from streams.rules.plans.run import PlanRun
from streams.rules.plans.step_ids import path_of
from streams.rules.records import Output
from streams.rules.source_record import STEP_HEADER
from streams.settings import Settings
from streams.tracing.spans import Tracing
from tests.support.dispatching import FakePartition
from tests.support.partition_fakes import intake
from tests.support.plans import plan, task
from tests.support.wait import until

pytestmark = pytest.mark.virtual_time

MODELS: dict[str, Any] = {
    "tasks": Task, "controls": Control, "events": Event, "plan-results": PlanResult, "plan-state": PlanMemory,
    "results": Result, "data-points": ConfidenceDataPoint,
}  # fmt: skip


class SkippingPartition(FakePartition):
    """Also keeps what was skipped."""

    def __init__(self) -> None:
        super().__init__()
        self.skipped: list[tuple[str, int]] = []

    def skip(self, source: str, offset: int) -> None:
        """Keep it."""
        self.skipped.append((source, offset))


class Coordinating:
    """A handler and everything around it; `state` is what its partition of the state topic would hold."""

    def __init__(self, state: dict[bytes, bytes] | None = None, partitions: int | list[int] = 1,
        tracing: Tracing | None = None, **fields: Any,
    ) -> None:  # fmt: skip
        self.settings = Settings.model_validate(fields)
        self.state = state if state is not None else {}
        self.partition = SkippingPartition()
        self.emitted: list[Output] = []
        self.cancel_requests: dict[str, str] = {}
        self.asked_of: list[tuple[str, int]] = []
        """Plans whose wish was asked for, and when they were submitted."""
        self.task_wishes: dict[str, str] = {}
        self.skew_ms = 0
        loop = asyncio.get_running_loop()
        wall_s = time.time() - loop.time()
        self.registry = CollectorRegistry()
        self.templates: dict[str, Any] = {}
        parts = PlanParts(
            settings=self.settings,
            recorder=PlanRecorder("app", "t.", "app-plans"),
            emit=self.emitted.append,
            metrics=PlanMetrics(self.registry),
            wall_ms=lambda: int((wall_s + loop.time()) * 1000) + self.skew_ms,
            cancelled=self._wish,
            partition_count=lambda: partitions if isinstance(partitions, int) else partitions[0],
            templates=self.templates,
            max_plan_bytes=self.settings.plans.max_plan_bytes,
            task_cancelled=lambda task_id, submitted_ms: self.task_wishes.get(task_id),
            tracing=tracing,
        )
        self.offset = 0
        self.make = lambda: PlanHandler(cast("PartitionProcessor", self.partition), parts, list(self.state.values()))
        self.handler = self.make()

    def _wish(self, plan_id: str, submitted_ms: int) -> str | None:
        self.asked_of.append((plan_id, submitted_ms))
        return self.cancel_requests.get(plan_id)

    def restart(self) -> None:
        """The next owner of the partition."""
        self.handler.close()
        self.handler = self.make()

    def take(
        self, source: str, value: Any, key: str | None = None, offset: int | None = None, headers: Any = ()
    ) -> list[dict[str, Any]]:
        """A record, and the commit after it: what was written, each a valid message."""
        self.offset += 1
        at = self.offset if offset is None else offset
        raw = value if isinstance(value, bytes) else orjson.dumps(value)
        before = len(self.partition.ended)
        self.handler.process(
            source, intake(at, raw, source=source, key=None if key is None else key.encode(), headers=headers)
        )
        outputs = [output for _, _, found in self.partition.ended[before:] for output in found]
        return self.commit(outputs)

    def commit(self, outputs: Iterable[Output] = ()) -> list[dict[str, Any]]:
        """What a commit now would write; the state is kept."""
        told = []
        for output in [*outputs, *self.handler.changes()]:
            if output.topic == "plan-state":
                assert output.key is not None
                self.state.pop(output.key, None)
                if output.value is not None:
                    self.state[output.key] = output.value
            if output.value is not None and output.topic in MODELS:
                decode(MODELS[output.topic], output.value, output.headers)
            row = {"topic": output.topic, "key": output.key, "value": loads(output.value or b"null")}
            told.append(row | {"headers": dict(output.headers)})
        return told

    def plan(self, data: Any, **more: Any) -> list[dict[str, Any]]:
        """A plan comes in."""
        return self.take("plans", data, **more)

    def step(self, plan_id: str, number: int, status: str = "success", **fields: Any) -> list[dict[str, Any]]:
        """A step's result comes in."""
        value = (
            {"result": number}
            if status == "success"
            else {"error": {"code": "internal", "message": "no", "retryable": True}}
        )
        wire = {
            "taskId": f"{plan_id}#{number}", "planId": plan_id, "status": status, "confidence": 0.5, "executionTime": 1,
            "retries": 0, "cached": False, "timestamp": "2027-01-15T08:00:00.000Z", "metadata": {},
        }  # fmt: skip
        return self.take("results", wire | value | fields, key=plan_id)

    def count(self, name: str, **labels: str) -> float:
        """A metric's value."""
        return self.registry.get_sample_value(name, labels) or 0.0


def topics(told: list[dict[str, Any]]) -> list[str]:
    """Where it was written, the state aside; events by their type."""
    return [t["value"]["type"] if t["topic"] == "events" else t["topic"] for t in told if t["topic"] != "plan-state"]


def one(told: list[dict[str, Any]], topic: str) -> dict[str, Any]:
    """The one record of a topic."""
    [found] = [t["value"] for t in told if t["topic"] == topic]
    return cast("dict[str, Any]", found)


async def test_results_are_missed_by_nobody_only_if_no_plan_is_remembered() -> None:
    """Ids of plans that are over wait for none; another application's plans are its own; what is not readable may wait."""
    it, other = Coordinating(), Coordinating()
    assert not anything_under_way(it.state.values(), "app")
    it.plan(plan("a", "b"))
    assert anything_under_way(it.state.values(), "app")
    assert not anything_under_way(it.state.values(), "other")
    it.step("p", 0)
    it.step("p", 1)
    assert it.state
    assert not anything_under_way(it.state.values(), "app")
    assert anything_under_way([*it.state.values(), b"{"], "app")
    other.plan(plan("a", id="q"))
    other.step("q", 0)
    assert not anything_under_way([*it.state.values(), *other.state.values()], "app")


async def test_the_steps_of_a_plan_belong_to_its_trace_also_after_a_restart() -> None:
    """Each with an id of its own, the same ones whenever they are sent; without a trace they say nothing of one."""
    chain = plan("a", "b", "c", kind="sequential")
    traced = ((("traceparent", f"00-{'ab' * 16}-{'12' * 8}-01".encode())), ("tracestate", b"x=1"))

    def traces(it: Coordinating, restarts: bool, headers: Any) -> list[tuple[bytes | None, bytes | None]]:
        found = it.plan(chain, headers=headers)
        for number in range(3):
            if restarts:
                it.restart()
            found += it.step("p", number)
        sent = [told["headers"] for told in found if told["topic"] == "tasks"]
        return [(headers.get("traceparent"), headers.get("tracestate")) for headers in sent]

    whole, broken = traces(Coordinating(), False, traced), traces(Coordinating(), True, traced)
    assert whole == broken
    assert len({parent for parent, _ in whole}) == 3
    assert {(parent[:36], parent[-3:], state) for parent, state in whole if parent} == {
        (b"00-" + b"ab" * 16 + b"-", b"-01", b"x=1")
    }
    assert traces(Coordinating(), True, ()) == [(None, None)] * 3
    assert traces(Coordinating(), True, (("traceparent", b"00-1-2-01"),)) == [(None, None)] * 3


async def test_a_plan_is_begun_and_ended_in_the_commits_of_its_records() -> None:
    """Tasks keyed by their agent; then one result, and no trace on the state topic but that it was there."""
    it = Coordinating()
    told = it.plan(plan("a", "b"))
    assert topics(told) == ["plan:started", "tasks", "tasks"]
    assert [t["key"] for t in told if t["topic"] == "tasks"] == [b"a1", b"a1"]
    assert len(it.state) == 1
    assert topics(it.step("p", 0)) == []
    assert len(it.state) == 2
    told = it.step("p", 1)
    assert topics(told) == ["plan-results", "plan:completed"]
    assert [step["result"] for step in one(told, "plan-results")["results"]] == [0, 1]
    assert [b"/seen/" in key for key in it.state] == [True]
    assert [loads(output.value or b"")["data"]["done"] for output in it.emitted] == [1]
    assert it.count("parallax_plans_total", status="success") == 1
    assert it.count("parallax_plans_active") == 0


async def test_losers_are_cancelled_in_the_commit_of_the_result() -> None:
    """Keyed by their task id, which is how dispatch knows them."""
    it = Coordinating()
    it.plan(plan("a", "b", "c", strategy="race", maxConcurrency=2))
    told = it.step("p", 1)
    assert topics(told) == ["controls", "plan-results", "plan:completed"]
    assert one(told, "controls") == {"type": "cancel", "taskId": "p#0", "reason": "its plan has its answer"}
    assert [output.topic for output in it.emitted] == ["controls"], "the wish goes out at once too"


async def test_what_is_no_step_of_a_plan_here_is_skipped_and_changes_nothing() -> None:
    """Other tasks' results, strangers', doubles, garbage, late ones: no output, no state, one skip each."""
    it = Coordinating()
    it.plan(plan("a", "b"))
    it.step("p", 0)
    state = dict(it.state)
    assert it.take("results", {"taskId": "x"}, key="x") == []
    assert it.take("results", b"garbage", key="p") == []
    assert it.step("p", 0) == []
    assert it.step("p", 9) == []
    assert it.take("results", {"taskId": "p", "status": "success"}, key="p") == []
    assert it.step("q", 0) == []
    assert it.take("results", b"{}", key=None) == []
    assert len(it.partition.skipped) == 7
    assert it.state == state
    it.step("p", 1)
    assert it.step("p", 1) == []


async def test_a_plan_id_is_answered_once_also_after_a_restart() -> None:
    """Under way or over; the record that began it may be read again, though."""
    it = Coordinating()
    it.plan(plan("a"), offset=5)
    it.restart()
    assert it.plan(plan("a"), offset=5) == []
    assert topics(it.plan(plan("a"), offset=6)) == ["plan:duplicate"]
    it.step("p", 0)
    it.restart()
    assert topics(it.plan(plan("a"), offset=7)) == ["plan:duplicate"]
    assert it.count("parallax_plans_duplicate_total") == 2


async def test_a_plan_id_is_a_duplicate_for_as_long_as_its_steps_are_and_no_longer() -> None:
    """Sent again after 30 hours its steps might still be duplicates without an answer; after 49 it runs."""
    it = Coordinating()
    it.plan(plan("a"), offset=5)
    it.step("p", 0)
    for hours, duplicate in ((30, True), (49, False)):
        it.skew_ms = hours * 3_600_000
        assert ("plan:duplicate" in topics(it.plan(plan("a"), offset=hours))) is duplicate


async def test_a_restart_after_every_commit_changes_nothing_of_the_result() -> None:
    """Sequential with a failure in it: what each step is handed, and the end, are as without restarts."""
    outcomes = []
    for restarts in (False, True):
        it = Coordinating()
        told = it.plan(plan("a", "b", "c", kind="sequential", continueOnError=True))
        handed = []
        for number, status in enumerate(("success", "failure", "success")):
            handed.append(one(told, "tasks").get("context"))
            if restarts:
                it.restart()
            told = it.step("p", number, status)
        result = one(told, "plan-results")
        del result["timestamp"], result["executionTime"]
        outcomes.append((handed, result))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][0] == [None, {"previous": 0, "results": {"a": 0}}, {"previous": 0, "results": {"a": 0}}]


async def test_many_steps_are_remembered_in_few_records() -> None:
    """And all are forgotten at the end."""
    it = Coordinating()
    it.plan(plan(*[f"t{n}" for n in range(300)], maxConcurrency=300))
    for number in range(299):
        it.step("p", number)
    assert 5 < len(it.state) < 40
    it.restart()
    assert it.handler.view("p")["done"] == 299  # type: ignore[index,call-overload]
    it.step("p", 299)
    assert len(it.state) == 1


async def test_what_is_remembered_in_several_records_is_put_together_in_its_order() -> None:
    """A sequence whose steps fill many chunks goes on where it was."""
    it = Coordinating()
    it.plan(plan(*[f"t{n}" for n in range(60)], kind="sequential"))
    for number in range(59):
        told = it.step("p", number, result="x" * 300)
    assert len(it.state) > 3
    it.state = dict(reversed(it.state.items()))
    it.restart()
    view = cast("dict[str, Any]", it.handler.view("p"))
    assert (view["done"], view["inFlight"], one(told, "tasks")["id"]) == (59, 1, "p#59")
    assert topics(it.step("p", 59)) == ["plan-results", "plan:completed"]


async def test_plans_end_in_time_also_when_the_time_passed_between_two_owners() -> None:
    """The deadline is of the plan's acceptance."""
    it = Coordinating()
    it.plan(plan("a", "b", timeout=60) | {"id": "soon"})
    await until(lambda: it.partition.touched == 1)
    told = it.commit()
    assert topics(told) == ["controls", "controls", "plan-results", "plan:failed"]
    assert one(told, "plan-results")["status"] == "timeout"
    it.plan(plan("a", timeout=5000) | {"id": "later"})
    it.skew_ms = 5001
    it.restart()
    await until(lambda: it.partition.touched == 2)
    assert one(it.commit(), "plan-results")["planId"] == "later"


async def test_a_pattern_is_out_of_time_before_its_plan_whatever_other_plans_wait_for() -> None:
    """Its deadline comes to be while another plan's is the next one."""
    it = Coordinating()
    it.templates["t"] = {"name": "t", "plan": {"timeout": 150, "tasks": [task("one")]}}
    nested = plan("a", {"id": "x", "type": "pattern", "target": "t", "payload": None}, kind="sequential")
    it.plan(plan("a", timeout=50) | {"id": "other"})
    it.plan(nested)
    it.step("p", 0)
    await until(lambda: it.partition.touched == 2)
    told = it.commit()
    assert {t["value"]["planId"] for t in told if t["topic"] == "plan-results"} == {"other", "p"}


async def test_a_plan_that_waited_on_its_topic_was_submitted_when_its_record_was_written() -> None:
    """Not when it was accepted: a wish of meanwhile would not concern it."""
    it = Coordinating()
    it.plan(plan("a") | {"id": "one"})
    assert it.asked_of == [("one", 0)], "the record's timestamp"
    it.restart()
    [(_, submitted_ms)] = it.asked_of[1:]
    assert 0 < submitted_ms <= time.time_ns() // 1_000_000, "by then it is no matter any more"


def owned_again(ends_by: str) -> Coordinating:
    """Plan `one` at its next owner, who has not read the results yet: its time, or a cancel, came while it had none."""
    it = Coordinating()
    it.plan(plan("a", "b", timeout=1000) | {"id": "one"})
    if ends_by == "time":
        it.skew_ms += 5000
    else:
        it.cancel_requests["one"] = "unwanted"
    it.partition.is_caught_up = False
    it.restart()
    return it


@pytest.mark.parametrize("ends_by", ["time", "cancel"])
async def test_a_step_that_ended_while_nobody_owned_the_partition_is_heard_before_the_plan_ends(ends_by: str) -> None:
    """Its result lies there; the plan's time, or a request to cancel it, came before the next owner did."""
    for heard in (True, False):
        it = owned_again(ends_by)
        it.handler.cancel("one")
        await asyncio.sleep(handler.READ_BACK_S - 1.0)
        assert it.commit() == []
        if heard:
            it.step("one", 0)
            it.partition.is_caught_up = True
        await asyncio.sleep(1.1)
        result = one(it.commit(), "plan-results")
        assert result["status"] == ("timeout" if ends_by == "time" else "cancelled")
        assert [step["status"] for step in result["results"]] == ["success" if heard else "cancelled", "cancelled"]


@pytest.mark.parametrize("ends_by", ["time", "cancel"])
async def test_a_plan_whose_lost_owner_had_cancelled_the_steps_ends_as_it_would_have(ends_by: str) -> None:
    """The cancels went out at once, the plan's own end was never committed: the steps' ends come first."""
    it = owned_again(ends_by)
    told = it.step("one", 1, "cancelled")
    result = one(told, "plan-results")
    assert result["status"] == ("timeout" if ends_by == "time" else "cancelled")


async def test_a_wish_ends_a_plan_wherever_it_is() -> None:
    """Under way, before it came, and while nobody owned the partition."""
    it = Coordinating()
    it.plan(plan("a") | {"id": "one"})
    it.plan(plan("a") | {"id": "two"})
    it.cancel_requests |= {
        "one": "the plan was cancelled",
        "two": "the plan was cancelled",
        "three": "the plan was cancelled: no",
    }
    it.handler.cancel("one")
    assert one(it.commit(), "plan-results")["planId"] == "one"
    it.handler.cancel("nobody")
    it.restart()
    await asyncio.sleep(0.01)
    assert one(it.commit(), "plan-results")["planId"] == "two"
    told = it.plan(plan("a") | {"id": "three"})
    assert topics(told) == ["plan:started", "plan-results", "plan:failed"]
    assert one(told, "plan-results")["error"]["message"] == "the plan was cancelled: no"


@pytest.mark.parametrize(
    ("value", "outcome", "reason"),
    [
        (b"{no json", "dlq.plans", "is not JSON"),
        (b"[]", "dlq.plans", "must be a JSON object"),
        ({"tasks": []}, "dlq.plans", "id: must be a string"),
        (plan("a", "a"), "plan-results", "tasks.1.id"),
        (plan("a", task("b") | {"payload": "x" * 3000}), "plan-results", "bytes; at most 2000 are accepted"),
    ],
)
async def test_what_cannot_be_run_is_answered_or_put_aside(value: Any, outcome: str, reason: str) -> None:
    """Answered where there is an id to answer to."""
    it = Coordinating(plans={"max_plan_bytes": 2000})
    raw = value if isinstance(value, bytes) else orjson.dumps(value)
    it.handler.process("plans", intake(1, raw, source="plans"))
    [(_, _, outputs)] = it.partition.ended
    found = next(output for output in outputs if output.topic == outcome)
    if outcome == "plan-results":
        result = decode(PlanResult, found.value, found.headers)
        assert (result.status, result.results) == ("failure", [])
        assert result.error is not None
        assert reason in result.error.message
    else:
        assert found.value == raw
        assert reason in dict(found.headers)["__dlq.errors.message"].decode()


@pytest.mark.parametrize("broken_part", [(PlanOutcomes, "began"), (PlanRun, "begin"), (handler, "opened")])
async def test_a_bug_of_our_own_costs_one_plan_its_answer(
    monkeypatch: pytest.MonkeyPatch, broken_part: tuple[Any, str]
) -> None:
    """As it begins: it is answered as failed and nothing of it goes on, also after a restart; the next one is run."""
    it = Coordinating()

    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(*broken_part, broken)
        told = it.plan(plan("x"))
    assert topics(told) == ["plan-results", "plan:failed"]
    assert one(told, "plan-results")["error"]["code"] == "internal"
    assert it.count("parallax_plans_active") == 0
    it.restart()
    assert topics(it.plan(plan("x"))) == ["plan:duplicate"]
    assert topics(it.plan(plan("x", id="b"))) == ["plan:started", "tasks"]


async def test_a_plan_that_lies_elsewhere_than_its_results_will_is_sent_on() -> None:
    """With its bytes as they are; a loop ends."""
    it = Coordinating(partitions=8)
    name = next(f"p{n}" for n in range(100) if owner_partition(f"p{n}", 8) == 3)
    it.handler.process("plans", intake(1, raw := orjson.dumps(plan("a") | {"id": name}), source="plans"))
    [(_, _, [forward])] = it.partition.ended
    assert (forward.topic, forward.partition, forward.value, forward.key) == ("plans", 3, raw, name.encode())
    headers = tuple((key, str(MAX_HOPS).encode()) for key, _ in forward.headers)
    it.handler.process("plans", intake(2, raw, source="plans", headers=headers))
    assert len(it.partition.ended[1][2]) == 2


def result(name: str, **fields: Any) -> dict[str, Any]:
    """A result, of a step or another task."""
    wire = {"taskId": name, "status": "success", "result": 1, "confidence": 0.5, "executionTime": 1, "retries": 0}
    return wire | {"cached": False, "timestamp": "2027-01-15T08:00:00.000Z", "metadata": {}} | fields


async def test_a_steps_result_goes_where_its_plan_is_since_partitions_were_added() -> None:
    """With the place of its record; there it counts as any other. Results of plain tasks, and of ended plans, go nowhere."""
    it = Coordinating(partitions=8)
    there = next(name for name in (f"p{n}" for n in range(100)) if owner_partition(name, 8) == 3)
    here = next(name for name in (f"p{n}" for n in range(100)) if owner_partition(name, 8) == 0)
    value = orjson.dumps(result(f"{there}#0", planId=there))
    it.handler.process("results", intake(7, value, source="results", key=there.encode()))
    [(_, _, [forward])] = it.partition.ended
    assert (forward.topic, forward.partition, forward.key, forward.value) == ("plans", 3, there.encode(), value)
    assert dict(forward.headers)[STEP_HEADER] == b"0/7"
    for name, fields in (("t1", {}), (f"{here}#0", {"planId": here}), ("mine", {"planId": there})):
        key = fields.get("planId", name).encode()
        it.handler.process("results", intake(8, orjson.dumps(result(name, **fields)), source="results", key=key))
    assert len(it.partition.ended) == 1
    it.plan(plan("a") | {"id": here})
    told = it.take("plans", result(f"{here}#0", planId=here), here, headers=((STEP_HEADER, b"5/9"),))
    assert one(told, "plan-results")["status"] == "success"
    assert topics(it.take("plans", result(f"{here}#0", planId=here), here, headers=((STEP_HEADER, b"5/9"),))) == []


async def test_a_plan_that_went_to_an_added_partition_is_not_resumed_where_it_was() -> None:
    """Its rows stay there: the new partition may not have read them yet."""
    count = [1]
    it = Coordinating(partitions=count)
    gone = next(name for name in (f"p{n}" for n in range(100)) if owner_partition(name, 2) == 1)
    stays = next(name for name in (f"p{n}" for n in range(100)) if owner_partition(name, 2) == 0)
    for name in (gone, stays):
        it.plan(plan("a") | {"id": name})
    rows = len(it.state)
    count[0] = 2
    it.restart()
    assert it.commit() == []
    assert len(it.state) == rows
    assert (it.handler.view(gone), it.handler.view(stays) is None) == (None, False)


async def test_a_step_too_large_to_be_sent_fails_without_being_sent() -> None:
    """Its task would be refused by dispatch; as would one that a sequence's answers blew up."""
    it = Coordinating(dispatch={"max_task_bytes": 1500})
    told = it.plan(plan("a", "b", kind="sequential"))
    told = it.step("p", 0, result="x" * 1000)
    assert topics(told) == ["plan-results", "plan:failed"]
    assert one(told, "plan-results")["error"]["code"] == "too_large"


async def test_no_more_plans_are_taken_than_may_be_under_way() -> None:
    """Results always are; an end makes room and says so."""
    it = Coordinating(plans={"max_active": 1})
    it.plan(plan("a"))
    assert (it.handler.room("plans"), it.handler.room("results")) == (False, True)
    it.step("p", 0)
    await asyncio.sleep(0)
    assert it.handler.room("plans")
    large = Coordinating(plans={"max_active_bytes": 2000})
    large.plan(plan("a", "b"))
    assert large.handler.room("plans")
    large.step("p", 0, result="x" * 2000)
    assert not large.handler.room("plans")
    large.restart()
    assert not large.handler.room("plans")
    large.step("p", 1)
    assert large.handler.room("plans")


async def test_a_memory_that_is_not_understood_costs_its_plan_not_the_partition() -> None:
    """The plan ends as failed; the others go on."""
    it = Coordinating()
    it.plan(plan("a") | {"id": "good"})
    it.plan(plan("a") | {"id": "ill"})
    key = next(key for key in it.state if key.endswith(b"ill"))
    it.state[key] = it.state[key].replace(b'"agent"', b'"agnt"')
    it.state[b"x"] = b"\xff"
    it.restart()
    told = it.commit()
    assert (one(told, "plan-results")["planId"], one(told, "plan-results")["error"]["code"]) == ("ill", "internal")
    assert topics(it.step("good", 0)) == ["plan-results", "plan:completed"]


async def test_patterns_run_as_they_were_when_the_plan_began() -> None:
    """A template that changes, or goes, meanwhile changes nothing."""
    it = Coordinating()
    it.templates["t"] = {"name": "t", "plan": {"kind": "sequential", "tasks": [task("one"), task("two")]}}
    it.plan(plan({"id": "x", "type": "pattern", "target": "t", "payload": None}))
    it.templates.clear()
    it.restart()
    told = it.step("p", 0, taskId="p#0.0")
    assert one(told, "tasks")["id"] == "p#0.1"
    assert path_of("p", "p#0.1") == (0, 1)


async def test_the_page_of_a_plan_shows_its_steps_then_its_result() -> None:
    """And nothing of plans that are not known."""
    it = Coordinating()
    it.plan(plan("a", task("b", dependencies=["a"])))
    it.step("p", 0)
    view = cast("dict[str, Any]", it.handler.view("p"))
    assert [(step["taskId"], step["status"]) for step in view["steps"]] == [("a", "success"), ("b", "running")]
    assert (view["done"], view["total"], view["inFlight"], view["steps"][1]["dependencies"]) == (1, 2, 1, ["a"])
    it.step("p", 1)
    assert loads(cast("bytes", it.handler.view("p")))["status"] == "success"
    assert it.handler.view("other") is None


async def test_a_refused_plan_names_what_was_given_and_what_is_allowed() -> None:
    """In its result; where there is no id to answer to, in the dead letter."""
    it = Coordinating()
    error = one(it.plan(plan("a", strategy="roulette")), "plan-results")["error"]
    assert error["code"] == "invalid_plan"
    assert error["message"] == "strategy: input should be 'all', 'race', 'allSettled' or 'weighted', not 'roulette'"
    for number, (data, reason) in enumerate(
        (
            (plan("a", id=7), "id: must be a string of 1 to 256 characters, not 7"),
            ([1], "value: must be a JSON object, not an array"),
        )
    ):
        it.plan(data)
        dead_letter, event = it.partition.ended[number + 1][2]
        assert dict(dead_letter.headers)["__dlq.errors.message"].decode() == reason
        assert loads(event.value or b"")["data"]["reason"] == reason


async def test_half_an_emoji_in_a_plan_costs_nothing() -> None:
    """Nor does a byte order mark."""
    it = Coordinating()
    raw = orjson.dumps(plan("a", "b", kind="sequential")).replace(b'"payload":"a"', b'"payload":"cut \\ud83d"')
    assert one(it.plan(b"\xef\xbb\xbf" + raw), "tasks")["payload"] == "cut \ufffd"
    it.step("p", 0)
    assert one(it.step("p", 1), "plan-results")["status"] == "success"
