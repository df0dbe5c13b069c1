"""A plan under way: what starts, what stops, how it ends, and that a restart changes nothing. Endings in full: `plan_cases`."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from schemas.codec import validate
from schemas.messages import PlanResult, Task
from schemas.times import format_time
from streams.rules.plans.blueprint import UNBOUNDED_MS
from streams.rules.plans.run import MAX_KEPT_BYTES, PlanRun
from streams.rules.plans.step_graph import StepGraph
from streams.rules.plans.step_ids import path_of, stem, task_id
from streams.rules.plans.strategies import strategy_of
from tests.support.plans import NOW, bad, finish, good, over, pattern, plan, result, run_of, starts, stops, task

TWICE = {"name": "twice", "plan": {"kind": "sequential", "timeout": 100, "tasks": [task("one"), task("two")]}}
TEMPLATES = {"twice": TWICE}


def test_no_more_run_at_once_than_may_and_each_end_starts_the_next() -> None:
    """Ten steps, three at a time, in the order of the plan."""
    run = run_of(plan(*[f"t{n}" for n in range(10)], maxConcurrency=3))
    assert starts(run.begin()) == [(0,), (1,), (2,)]
    assert starts(run.ended((1,), good(), NOW)) == [(3,)]
    assert run.graph.in_flight == 3


def test_weighted_goes_by_priority_and_stops_when_one_is_sure_enough() -> None:
    """The others are stopped, the ones never started are not."""
    tasks = [task("a"), task("b", priority=5), task("c", priority=5), task("d", priority=9)]
    run = run_of(plan(*tasks, strategy="weighted", maxConcurrency=2, metadata={"confidenceThreshold": 0.7}))
    assert starts(run.begin()) == [(3,), (1,)]
    assert starts(run.ended((1,), good("b", 0.69), NOW)) == [(2,)]
    actions = run.ended((3,), good("d", 0.7), NOW)
    assert stops(actions) == [(2,)]
    assert (result(run)["result"], result(run)["confidence"]) == ("d", 0.7)
    assert [step["status"] for step in result(run)["results"]] == ["cancelled", "success", "cancelled", "success"]


def test_a_race_that_all_lose_gives_every_reason() -> None:
    """In the order of the plan, whatever the order of the failures."""
    run = run_of(plan("a", "b", strategy="race"))
    run.begin()
    run.ended((1,), bad("timeout", "timeout", "late"), NOW)
    run.ended((0,), bad("http_4xx", message="ill"), NOW)
    error = result(run)["error"]
    assert error == {
        "code": "http_4xx",
        "message": "every step failed: a: http_4xx: ill; b: timeout: late",
        "retryable": True,
    }


def test_what_comes_twice_or_too_late_or_was_never_begun_changes_nothing() -> None:
    """No action and nothing to remember."""
    run = run_of(plan("a", "b", "c", maxConcurrency=2))
    run.begin()
    run.ended((0,), good(), NOW)
    before = list(run.entries)
    for path in ((0,), (7,), (1, 0), ()):
        assert run.ended(path, bad(), NOW) == []
    assert run.entries == before
    assert over(run.ended((1,), bad(), NOW))
    assert run.ended((2,), good(), NOW) == run.cancel("x", NOW) == run.time(NOW + 10**9) == []


def test_a_level_by_itself_takes_each_end_once() -> None:
    """The second one counts for nothing: neither for what may start nor for the verdict."""
    blueprint = run_of(plan("a", "b", "c", maxConcurrency=1)).plan
    graph = StepGraph(blueprint, strategy_of(blueprint))
    assert graph.begin().starts == [0]
    assert graph.ended(0, good()).starts == [1]
    for index in (0, 2):
        moves = graph.ended(index, bad())
        assert (moves.starts, moves.verdict, graph.done, graph.in_flight) == ([], None, 1, 1)


def test_time_and_requests_end_a_plan_and_stop_what_runs() -> None:
    """Neither before its time."""
    run = run_of(plan("a", "b", timeout=1000))
    run.begin()
    assert run.time(NOW + 999) == []
    assert stops(run.time(NOW + 1000)) == [(0,), (1,)]
    assert result(run)["status"] == "timeout"
    run = run_of(plan("a", "b", kind="sequential"))
    run.begin()
    actions = run.cancel("enough", NOW)
    assert (stops(actions), result(run)["error"]["code"]) == ([(0,)], "cancelled")


@pytest.mark.parametrize("why", ["cancel", "time"])
@pytest.mark.parametrize("strategy", ["all", "race", "allSettled", "weighted"])
def test_steps_that_the_plan_itself_cancelled_do_not_fail_it(why: str, strategy: str) -> None:
    """An earlier owner was lost after it had stopped the steps, and before it had committed the plan's end."""
    run = run_of(plan("a", "b", strategy=strategy, timeout=100))
    run.begin()
    run.ended(
        (0,), bad("cancelled", "cancelled", "the plan was stopped"), NOW + 200, "unwanted" if why == "cancel" else None
    )
    run.ended(
        (1,), bad("cancelled", "cancelled", "the plan was stopped"), NOW + 200, "unwanted" if why == "cancel" else None
    )
    error = result(run)["error"]
    assert (result(run)["status"], error["code"]) == (("cancelled",) * 2 if why == "cancel" else ("timeout",) * 2)
    assert error["message"] == ("unwanted" if why == "cancel" else "the plan did not end within 100 ms")


def test_a_step_that_expired_with_its_plan_does_not_fail_it() -> None:
    """It inherits the deadline: read after a time without an owner, its end comes before the plan's clock. Earlier ends count."""
    for at_ms, status in ((NOW + 100, "timeout"), (NOW + 99, "failure")):
        run = run_of(plan("a", "b", timeout=100))
        run.begin()
        run.ended((0,), bad("expired", "timeout", "the deadline passed"), at_ms)
        assert result(run)["status"] == status
    run = run_of(plan("a", timeout=100))
    run.begin()
    run.ended((0,), bad("http_4xx", "failure", "the reason"), NOW + 100)
    assert result(run)["error"]["code"] == "http_4xx", "it failed before, and is heard"


def test_a_pattern_that_stopped_its_steps_ends_by_its_time_and_others_fail_the_plan() -> None:
    """The pattern's end is what the plan sees; a step that a user cancelled fails the plan before its time."""
    run = run_of(plan(pattern("x", "twice"), "b"), TEMPLATES)
    run.begin()
    run.ended((0, 0), bad("cancelled", "cancelled"), NOW + 150)
    assert result(run)["error"]["message"] == "step 'x' ended as timeout: the pattern did not end within 100 ms"
    run = run_of(plan("a", "b", timeout=100))
    run.begin()
    run.ended((0,), bad("cancelled", "cancelled"), NOW + 99)
    assert (result(run)["status"], result(run)["error"]["code"]) == ("failure", "cancelled")


def test_a_cancelled_plan_that_never_began_has_a_result_for_each_task() -> None:
    """The request may come first."""
    run = run_of(plan("a", "b"))
    run.cancel("the plan was cancelled", NOW)
    assert {step["error"]["message"] for step in result(run)["results"]} == {"not started: the plan was cancelled"}


def test_task_ids_of_plans_are_never_the_same() -> None:
    """Ids with marks in them, and long ones, included; a step's id leads back to the step."""
    ids = ["p", "p#1", "p#1#2", "p/1", "x" * 256, "x" * 255 + "y", "x" * 200]
    seen = {task_id(name, path) for name in ids for path in ((0,), (1,), (1, 2), (12,))}
    assert len(seen) == len(ids) * 4
    assert max(map(len, seen)) <= 256
    assert len({stem(name) for name in ids}) == len(ids)
    for name in ids:
        assert path_of(name, task_id(name, (1, 2))) == (1, 2)
    assert [path_of("p", name) for name in ("p#", "p#-1", "p#1.", "q#1", "p", "p#²")] == [None] * 6


def test_the_tasks_sent_are_valid_and_carry_what_came_before() -> None:
    """Everything of the user's but what is the plan's own business."""
    second = task("b", input="results.a", retries=0, mine=1) | {"context": {"kept": 1}, "unknown": 2}
    run = run_of(plan("a", second, kind="sequential"))
    run.begin()
    run.ended((0,), good({"n": 1}), NOW)
    sent = orjson.loads(orjson.dumps(run.task((1,))))
    validate(Task, sent)
    assert sent == {
        "id": "p#1", "planId": "p", "type": "agent", "target": "a1", "payload": "b",
        "context": {"kept": 1, "input": {"n": 1}}, "metadata": {"retries": 0, "mine": 1, "stepId": "b"},
    }  # fmt: skip
    assert "context" not in run_of(plan("a")).task((0,))


def test_a_long_sequence_hands_on_its_newest_answers_and_tells_how_many_it_left_out() -> None:
    """Tasks stay small however long the plan is."""
    run = run_of(plan(*[f"t{n}" for n in range(150)], kind="sequential"))
    run.begin()
    for n in range(149):
        run.ended((n,), good(n), NOW)
    context = orjson.loads(orjson.dumps(run.task((149,))))["context"]
    assert (context["previous"], context["omitted"], len(context["results"])) == (148, 49, 100)
    assert list(context["results"]) == [f"t{n}" for n in range(49, 149)]


def test_answers_beyond_what_a_plan_may_hold_are_let_go_and_referred_to() -> None:
    """The oldest go first; the record of each lies on `results`."""
    run = run_of(plan("a", "b", "c"))
    run.begin()
    for n in range(3):
        run.ended((n,), good("x" * (MAX_KEPT_BYTES // 2 - 10)), NOW)
    assert run.kept_bytes <= MAX_KEPT_BYTES
    first, *others = result(run)["results"]
    assert "result" not in first
    assert first["metadata"] == {"reference": {"topic": "results", "partition": 0, "offset": 7}}
    assert all(len(step["result"]) > 1000 for step in others)
    validate(PlanResult, result(run))


@pytest.mark.parametrize("how", [{"strategy": "weighted"}, {"strategy": "all", "metadata": {"consensus": "best"}}])
def test_a_pattern_whose_answer_was_let_go_fails_rather_than_answer_nothing(how: dict[str, Any]) -> None:
    """A plan's result refers to the record of the step; the result of a pattern has nowhere to."""
    within = plan("a", "b", "c", **how)
    large = "x" * (MAX_KEPT_BYTES // 2 - 10)
    alone = run_of(within)
    ends = [good(large, 0.7), good(large, 0.6), good(large, 0.5)]
    found = finish(alone, {(n,): end for n, end in enumerate(ends)})
    assert (found["status"], found["confidence"], "result" in found) == ("success", 0.7, False)
    assert found["results"][0]["metadata"]["reference"] == {"topic": "results", "partition": 0, "offset": 7}

    sure = {"name": "sure", "plan": {name: value for name, value in within.items() if name != "id"}}
    run = run_of(plan(pattern("q", "sure"), kind="sequential"), {"sure": sure})
    ends = [good(large, 0.7), good(large, 0.6), good(large, 0.5)]
    found = finish(run, {(0, n): end for n, end in enumerate(ends)})
    assert found["status"] == "failure"
    assert found["results"][0]["error"] == {
        "code": "too_large",
        "message": "pattern 'sure': the answers together are larger than a plan may hold",
        "retryable": False,
    }


def test_a_pattern_is_a_plan_within_the_plan() -> None:
    """Its steps have paths, its answer is its step's, and nobody is asked about it as a whole."""
    run = run_of(plan("a", pattern("b", "twice"), strategy="allSettled"), TEMPLATES)
    assert starts(run.begin()) == [(0,), (1, 0)]
    assert run.ended((1,), good(), NOW) == []
    assert starts(run.ended((1, 0), good("1"), NOW)) == [(1, 1)]
    assert run.task((1, 1))["id"] == "p#1.1"
    run.ended((1, 1), good("2", 0.4), NOW + 7)
    run.ended((0,), good(), NOW + 8)
    step = result(run)["results"][1]
    assert (step["result"], step["confidence"], step["executionTime"], step["taskId"]) == ("2", 0.4, 7, "b")


def test_a_pattern_that_need_not_go_on_is_stopped_with_all_in_it() -> None:
    """And what still comes from it is nobody's business."""
    run = run_of(plan("a", pattern("b", "twice"), strategy="race"), TEMPLATES)
    run.begin()
    assert stops(run.ended((0,), good(), NOW)) == [(1, 0)]
    assert run.ended((1, 0), good(), NOW) == []


def test_a_pattern_runs_out_of_time_by_itself_and_a_restart_knows() -> None:
    """Its own time limit ends the step as a timeout; the plan goes on."""
    run = run_of(plan(pattern("a", "twice"), "b", kind="sequential", continueOnError=True), TEMPLATES)
    run.begin()
    assert run.due_ms == NOW + 100
    actions = run.time(NOW + 100)
    assert (stops(actions), starts(actions)) == ([(0, 0)], [(1,)])
    again = replayed(run, [run.entries], TEMPLATES)
    assert again.due_ms == run.due_ms >= NOW + UNBOUNDED_MS, "the plan itself gives no time limit"
    for one in (run, again):
        one.ended((1,), good(), NOW + 200)
    assert result(again) == result(run)
    assert result(run)["results"][0]["status"] == "timeout"


@pytest.mark.parametrize("payload", [None, {"word": 1}])
def test_a_pattern_whose_parameters_do_not_fit_is_a_failed_step(payload: Any) -> None:
    """Missing, or not what the field wants."""
    templates = {"t": {"name": "t", "plan": {"tasks": [task("a") | {"target": "${word}"}]}}}
    run = run_of(plan(pattern("x", "t", payload)), templates)
    assert over(run.begin())
    assert result(run)["error"]["code"] == "invalid_plan"


def test_many_patterns_that_fail_at_once_are_no_recursion() -> None:
    """Each failure starts the next: ten thousand of them."""
    templates = {"t": {"name": "t", "plan": {"tasks": [task("a") | {"payload": "${missing}"}]}}}
    tasks = [pattern(f"x{n}", "t") for n in range(3000)]
    run = run_of(plan(*tasks, kind="sequential", continueOnError=True), templates)
    assert over(run.begin())
    assert result(run)["status"] == "failure"


def replayed(run: PlanRun, chunks: list[Any], templates: Any = None) -> PlanRun:
    """The same plan after a restart, from what was written of it."""
    again = PlanRun(plan=run.plan, accepted_ms=run.accepted_ms, templates=templates or {})
    again.begin()
    for chunk in chunks:
        again.replay(orjson.loads(orjson.dumps(chunk)))
    return again


def test_a_restart_in_the_middle_goes_on_as_if_it_had_not_been() -> None:
    """Same steps in flight, same end, nothing sent again; and `entries` begin anew."""
    tasks = ["a", task("b", dependencies=["a"]), task("c", dependencies=["a"]), task("d", dependencies=["b"]), "e"]
    data = plan(*tasks, maxConcurrency=2)
    run = run_of(data)
    run.begin()
    chunks = []
    for path in ((4,), (0,), (1,)):
        run.ended(path, good(list(path), 0.5), NOW + 1)
        chunks.append(list(run.entries))
        run.entries.clear()
    again = replayed(run, chunks)
    assert again.entries == []
    assert (again.graph.open(), again.graph.in_flight) == (run.graph.open(), 2)
    for one in (run, again):
        one.ended((3,), good(), NOW + 2)
        one.ended((2,), good(), NOW + 3)
    assert result(again) == result(run)


def test_the_whole_result_is_a_valid_message() -> None:
    """Skipped, failed and good steps in it."""
    tasks = ["a", task("b", dependencies=["a"]), task("c", dependencies=["b"]), "d"]
    found = finish(run_of(plan(*tasks)), {(0,): bad()})
    validate(PlanResult, found)
    assert [step["status"] for step in found["results"]] == ["failure", "cancelled", "cancelled", "success"]
    assert found["results"][2]["error"]["message"] == "skipped: it depends on 'a', which did not succeed"


def test_steps_inherit_the_deadline_of_their_plan() -> None:
    """Those within patterns too, unless their own comes first; when it passes the plan ends as expired."""
    ends = format_time(NOW + 5000)
    early = task("early") | {"metadata": {"deadline": NOW + 1000}}
    late = task("late") | {"metadata": {"deadline": NOW + 9000}}
    templates = {"t": {"name": "t", "plan": {"tasks": [task("in")]}}}
    run = run_of(plan("a", early, late, pattern("x", "t"), metadata={"deadline": ends}), templates)
    run.begin()
    found = [run.task(path)["metadata"]["deadline"] for path in ((0,), (1,), (2,), (3, 0))]
    assert found == [ends, format_time(NOW + 1000), ends, ends]
    assert run.due_ms == NOW + 5000
    run.time(NOW + 5000)
    assert (result(run)["status"], result(run)["error"]["code"]) == ("timeout", "expired")
    assert ends in result(run)["error"]["message"]


def test_without_a_deadline_steps_are_given_none() -> None:
    """`dispatch.max_wait` bounds each of them."""
    run = run_of(plan("a"))
    run.begin()
    assert "deadline" not in run.task((0,)).get("metadata", {})


def test_a_pattern_has_the_time_and_the_context_its_step_names() -> None:
    """No more than its template takes; what came before over what the step says itself."""
    asked = task("one") | {"payload": "${context}"}
    templates = {"t": {"name": "t", "plan": {"tasks": [asked]}}}
    run = run_of(plan("a", pattern("x", "t", timeout=50) | {"context": {"own": 1}}, kind="sequential"), templates)
    run.begin()
    run.ended((0,), good("before"), NOW)
    assert run.due_ms == NOW + 50
    assert run.task((1, 0))["payload"] == {"own": 1, "previous": "before", "results": {"a": "before"}}
