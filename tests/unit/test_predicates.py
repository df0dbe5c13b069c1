"""The predicates over call logs: each holds on a good log, and fails on a log with the one fault it is there for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agents_io.fakes.http import Received
from tests.support import predicates
from tests.support.predicates import Call, Kill, Verdict


def call(at: float, task: str = "t", took: float = 0.1, **more: object) -> Call:
    """A call that ended well."""
    return replace(Call("a", task, at, at + took, key=task, worker="w0"), **more)  # type: ignore[arg-type]


def received(**more: object) -> Received:
    """One line of a fake agent's log."""
    headers = {"X-Request-Timeout-Ms": "30000", "Authorization": "Bearer w1"}
    given = Received(100.0, "key-1", headers, {"taskId": "t1"}, "answer", "answered", 100.5, 200)
    for name, value in more.items():
        setattr(given, name, value)
    return given


def test_a_log_line_becomes_a_call() -> None:
    """Task from the payload, worker from the secret, what was left from the header."""
    found = predicates.read_call("a", received())
    assert (found.task, found.key, found.worker, found.left_s, found.outcome) == ("t1", "key-1", "w1", 30.0, "success")
    assert predicates.read_call("a", received(payload="x", headers={})).task == "key-1"


@pytest.mark.parametrize(
    ("line", "outcome"),
    [
        ({"code": 503}, "failure"),
        ({"code": 408}, "failure"),
        ({"code": 429}, "neutral"),
        ({"code": 404}, "neutral"),
        ({"ended": "dropped", "code": 0}, "failure"),
        ({"ended": "closed", "code": 0}, "cut"),
        ({"ended": "closed", "code": 0, "ended_at": 130.0}, "failure"),
        ({"ended": "closed", "code": 0, "headers": {"X-Request-Timeout-Ms": "500"}}, "neutral"),
        ({"ended_at": 130.05}, "unsure"),
    ],
)
def test_what_the_breaker_has_to_make_of_a_call(line: dict[str, object], outcome: str) -> None:
    """5xx, cut connections and timeouts count; refusals, calls given up and rushed timeouts do not."""
    assert predicates.read_call("a", received(**line)).outcome == outcome


def test_rate_slides_over_every_window() -> None:
    """Three a second before and three a second after a border are too many although neither side is."""
    even = [call(second * 20.0) for second in range(10)]
    assert predicates.rate(even, 3, 60.0).held
    border = [call(at) for at in (58.0, 59.0, 59.5, 60.0, 61.0)]
    verdict = predicates.rate(border, 3, 60.0)
    assert not verdict.held
    assert "most in any 60 s: 5 of 3" in verdict.figures
    assert predicates.rate([call(0.0), call(60.0)], 1, 60.0).held


def test_rate_excuses_only_what_was_uncertain_at_a_kill_within_the_window() -> None:
    """Two in flight at the kill excuse two more calls, not three; a kill of another worker excuses nothing."""
    before = [call(0.0), call(9.9, took=5.0), call(9.95, took=5.0)]
    after = [call(11.0), call(12.0)]
    kill = Kill(10.0, "w0")
    assert predicates.rate(before + after, 3, 60.0, [kill]).held
    assert not predicates.rate([*before, *after, call(13.0)], 3, 60.0, [kill]).held
    assert not predicates.rate(before + after, 3, 60.0, [Kill(10.0, "w1")]).held
    assert not predicates.rate(before + after, 3, 60.0, [Kill(71.0, "w0")]).held
    ended = [call(0.0), call(9.5), call(9.6)]
    assert predicates.rate(ended + after, 3, 60.0, [kill], commit_s=1.0).held
    assert not predicates.rate(ended + after, 3, 60.0, [kill], commit_s=0.1).held


def test_a_pause_is_kept() -> None:
    """Nothing begins within Retry-After; a pause told just before a kill may be forgotten."""
    told = call(0.0, code=429, outcome="neutral")
    assert predicates.pauses([told, call(3.2)], 3.0).held
    early = [told, call(2.0)]
    assert not predicates.pauses(early, 3.0).held
    assert predicates.pauses(early, 3.0, [Kill(0.5, "w0")]).held
    assert not predicates.pauses(early, 3.0, [Kill(1.5, "w0")]).held
    assert not predicates.pauses(early, 3.0, [Kill(0.5, "w1")]).held


def test_calls_of_one_task_are_bounded() -> None:
    """Three attempts, and three more for each redelivery; a task that was never sent may not be called."""
    calls = [call(float(at)) for at in range(4)]
    assert predicates.calls_per_task(calls[:3], {"t": 3}, {}).held
    assert not predicates.calls_per_task(calls, {"t": 3}, {}).held
    assert predicates.calls_per_task(calls, {"t": 3}, {"t": 1}).held
    assert not predicates.calls_per_task(calls[:1], {}, {}).held
    assert predicates.calls_per_task(calls, {"t": 3}, {}, {"t": 1}).held
    assert not predicates.calls_per_task([*calls, call(5.0)], {"t": 3}, {}, {"t": 1}).held
    assert not predicates.calls_per_task(calls[:1], {}, {}, {"t": 1}).held


def test_a_circuit_probes_from_the_end_of_its_hold_to_its_next_change() -> None:
    """One that opens again before, as a new owner may see it, was never half open."""
    changes = [(10.0, "circuit:open"), (40.0, "circuit:half-open"), (41.0, "circuit:open"), (71.5, "circuit:close")]
    assert predicates.half_open(reversed(changes), 30.0) == [(40.0, 41.0), (71.0, 71.5)]
    assert predicates.half_open([(10.0, "circuit:open"), (20.0, "circuit:open")], 30.0) == [(50.0, float("inf"))]
    assert predicates.half_open([(10.0, "circuit:close")], 30.0) == []


def test_failed_probes_and_calls_told_to_wait_use_up_no_attempt() -> None:
    """Neither a failure while the circuit is closed, nor a probe that went well, nor a failure of another agent."""
    probing = {"a": [(40.0, 41.0)]}
    for free in (call(40.5, outcome="failure"), call(39.95, outcome="failure"), call(41.05, outcome="failure")):
        assert predicates.without_attempt([free, call(40.5)], probing) == {"t": 1}
    told = call(1.0, code=429, outcome="neutral")
    assert predicates.without_attempt([told, call(40.5)], probing) == {"t": 1}
    failures = [call(39.0, outcome="failure"), call(41.2, outcome="failure"), call(40.5, outcome="cut")]
    failures += [call(40.5, agent="b", outcome="failure"), call(40.5, code=404, outcome="neutral")]
    assert predicates.without_attempt(failures, probing) == {}


def test_redeliveries_are_kills_of_its_worker_while_a_task_was_under_way() -> None:
    """Neither before its first call, nor long after its result, nor of another worker."""
    calls = [call(10.0), call(12.0)]
    ended = {"t": 20.0}
    assert predicates.redelivered(calls, [Kill(11.0, "w0"), Kill(19.0, "w0")], ended) == {"t": 2}
    for kill in (Kill(9.0, "w0"), Kill(22.0, "w0"), Kill(15.0, "w1")):
        assert predicates.redelivered(calls, [kill], ended) == {}
    rebalances = [(5.0, 8.0), (5.0, 12.0), (15.0, 16.0), (22.0, 23.0)]
    assert predicates.redelivered(calls, [], ended, rebalances=rebalances) == {"t": 2}


def test_a_kill_is_felt_where_it_cuts_off_calls() -> None:
    """Calls of the killed worker that ended at that moment without an answer."""
    calls = [call(9.0, took=1.0, outcome="cut"), call(9.0, took=1.0), call(9.0, took=0.2, outcome="cut")]
    assert predicates.cut_off(calls, Kill(10.0, "w0")) == 1
    assert predicates.cut_off(calls, Kill(10.0, "w1")) == 0


def test_a_task_keeps_its_key() -> None:
    """Its id, or the key its user gave it, over all calls."""
    assert predicates.one_key([call(0.0), call(1.0)], {}).held
    assert not predicates.one_key([call(0.0), call(1.0, key="other")], {}).held
    assert predicates.one_key([call(0.0, key="mine")], {"t": "mine"}).held
    assert not predicates.one_key([call(0.0)], {"t": "mine"}).held


def test_deadlines_hold() -> None:
    """An attempt has its whole timeout, each retry anew, and less only where the deadline, which nothing moves, is nearer."""

    def judged(*calls: Call) -> Verdict:
        return predicates.deadlines(calls, {"t": 10.0}, {"t": 4.0}, slack_s=0.5)

    good = judged(call(1.0, left_s=4.0), call(5.5, left_s=4.0), call(9.0, left_s=1.0))
    assert good.held
    assert "1 calls cut short" in good.figures
    for bad in (
        call(11.0, left_s=-1.0),
        call(11.0, left_s=4.0),
        call(9.0, left_s=4.0),
        call(1.0, left_s=5.0),
        call(5.0, left_s=1.0),
        call(1.0, took=5.0, left_s=4.0),
    ):
        assert not judged(call(0.0, left_s=4.0), bad).held


def test_results_come_by_the_deadline() -> None:
    """Later only by what a kill near it may add."""
    ended, deadline = {"t": 12.0}, {"t": 10.0, "u": 5.0}
    assert predicates.ended_in_time({"t": 10.5}, deadline).held
    assert not predicates.ended_in_time(ended, deadline).held
    assert predicates.ended_in_time(ended, deadline, [Kill(9.0)], restart_s=5.0).held
    for kill in (Kill(4.0), Kill(13.0)):
        assert not predicates.ended_in_time(ended, deadline, [kill], restart_s=5.0).held


@pytest.mark.parametrize(
    ("results", "said"), [(["a"], "lost: b"), (["a", "b", "b"], "doubled: b"), (["a", "b", "c"], "never sent: c")]
)
def test_each_task_has_one_result(results: list[str], said: str) -> None:
    """Lost, doubled and invented ones are named."""
    assert predicates.one_result(["a", "b"], ["b", "a"]).held
    assert predicates.one_result(["a", "b"], results).breaches == [said]


def test_nothing_is_called_after_its_result() -> None:
    """Beyond the slack."""
    assert predicates.not_called_again([call(5.0)], {"t": 4.5, "u": 0.0}, slack_s=1.0).held
    assert not predicates.not_called_again([call(5.6)], {"t": 4.5}, slack_s=1.0).held


def test_a_healed_agent_is_served_in_time() -> None:
    """Four good answers within the bound; a kill of its worker meanwhile may add to it."""
    calls = [call(at, outcome="success") for at in (130.0, 130.1, 130.2, 131.0)]
    assert predicates.served_again(calls, 100.0, 32.0).held
    assert not predicates.served_again(calls, 100.0, 31.0).held
    assert predicates.served_again(calls, 100.0, 31.0, [Kill(110.0, "w0")], restart_s=3.0).held
    assert not predicates.served_again(calls, 100.0, 31.0, [Kill(110.0, "w1")], restart_s=3.0).held
    assert not predicates.served_again(calls[:3], 100.0, 60.0).held
    assert not predicates.served_again([replace(c, outcome="failure") for c in calls], 100.0, 60.0).held


def test_a_verdict_in_words() -> None:
    """One line, then the first breaches."""
    assert Verdict("rate", "100 of 100").line() == "ok     rate: 100 of 100"
    broken = Verdict("rate", "9", [f"breach {n}" for n in range(7)]).line()
    assert broken.startswith("BROKEN rate: 9\n")
    assert broken.endswith("and 2 more")
