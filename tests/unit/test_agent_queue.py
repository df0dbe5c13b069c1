"""The promises of an agent's queue one by one; `tests/properties` compares it with a model."""

from __future__ import annotations

import pytest

from agents_io.calling.rules.agent_queue import BUDGET_RECHECK_S, PROBE_SLACK_S, AgentQueue, Attempt
from agents_io.calling.rules.breaker import Breaker, BreakerConfig
from agents_io.calling.rules.budget import BudgetConfig, RetryBudget
from agents_io.calling.rules.limiter import SlidingWindow

pytestmark = pytest.mark.virtual_time


def make(
    concurrency: int = 2, *, limit: int = 100, threshold: int = 2, budget: BudgetConfig | None = None, probes: int = 3
) -> AgentQueue[str]:
    """A queue of strings."""
    breaker = Breaker(BreakerConfig(failure_threshold=threshold, probes=probes))
    return AgentQueue(
        max_concurrency=concurrency, limiter=SlidingWindow(limit, 60.0), breaker=breaker, budget=RetryBudget(budget)
    )


def items(attempts: list[Attempt[str]]) -> list[str]:
    """What begins."""
    return [attempt.item for attempt in attempts]


def fail(queue: AgentQueue[str], times: int, now: float = 0.0) -> None:
    """So many calls that fail."""
    for number in range(times):
        queue.push(f"fails {number}", now=now)
        queue.finish(queue.poll(now)[0], "failure", now)


def test_highest_priority_first_then_order_of_arrival() -> None:
    """Equal priorities are served first come, first served."""
    a = make(9)
    for item, priority in (("low", -1), ("a", 0), ("b", 0), ("high", 5), ("c", 0)):
        a.push(item, now=0.0, deadline=9.0, priority=priority)
    assert items(a.poll(0.0)) == ["high", "a", "b", "c", "low"]


def test_same_item_twice_is_a_mistake() -> None:
    """It could not be told which of the two to remove."""
    a = make()
    a.push("a", now=0.0, deadline=9.0)
    with pytest.raises(ValueError, match="waits in this queue already"):
        a.push("a", now=0.0, deadline=9.0)


def test_backoff_waits_without_holding_up_others() -> None:
    """The item in backoff comes when its time has come, ahead of what arrived after it."""
    a = make(1)
    a.push("retry", now=0.0, deadline=30.0, not_before=5.0)
    assert (a.poll(0.0), a.blocked_by(0.0), a.next_wakeup(0.0)) == ([], "backoff", 5.0)
    a.push("new", now=1.0, deadline=30.0)
    [attempt] = a.poll(1.0)
    assert attempt.item == "new"
    a.push("newer", now=2.0, deadline=30.0)
    a.finish(attempt, "success", 5.0)
    assert items(a.poll(5.0)) == ["retry"]
    assert a.blocked_by(5.0) == "concurrency"


def test_expired_while_queued_is_given_up_and_never_started() -> None:
    """Also when nobody asked for the expired first."""
    a = make(1)
    a.push("late", now=0.0, deadline=1.0)
    a.push("fine", now=0.0, deadline=9.0)
    assert items(a.poll(1.0)) == ["fine"]
    assert a.expired(1.0) == [("late", None)]
    assert a.waiting == 0


def test_without_a_deadline_nothing_ever_expires() -> None:
    """Behind an open circuit, a full window, a busy agent: for as long as it takes."""
    a = make(1, limit=2)
    fail(a, 2)
    a.push("patient", now=0.0)
    for now in (0.0, 29.0, 59.0):
        assert (a.poll(now), a.expired(now)) == ([], [])
    [attempt] = a.poll(60.0)
    assert (attempt.item, attempt.timeout_s, attempt.cut) == ("patient", 30.0, False)
    a.push("behind", now=60.0)
    assert (a.poll(1e9), a.expired(1e9), a.next_wakeup(1e9)) == ([], [], float("inf"))


def test_the_timeout_of_an_attempt_does_not_run_while_it_waits() -> None:
    """It is whole when the call begins, unless the deadline leaves less: then it says so."""
    a = make(9)
    a.push("whole", now=0.0, timeout_s=5.0, deadline=100.0)
    a.push("cut", now=0.0, timeout_s=5.0, deadline=93.0)
    a.push("endless", now=0.0, timeout_s=5.0)
    found = {attempt.item: (attempt.timeout_s, attempt.cut) for attempt in a.poll(90.0)}
    assert found == {"whole": (5.0, False), "cut": (3.0, True), "endless": (5.0, False)}


def test_an_open_circuit_ends_only_what_cannot_outlast_it() -> None:
    """The rest waits for the probes."""
    a = make(1)
    fail(a, 2)
    for name, deadline in (("short", 20.0), ("edge", 30.0), ("long", 60.0)):
        a.push(name, now=1.0, deadline=deadline)
    assert a.next_wakeup(1.0) == 1.0
    assert a.expired(1.0) == [("short", "circuit_open"), ("edge", "circuit_open")]
    assert (a.poll(1.0), a.blocked_by(1.0), a.next_wakeup(1.0)) == ([], "circuit_open", 30.0)
    assert items(a.poll(30.0)) == ["long"]
    assert [transition.kind for transition in a.take_transitions()] == ["open", "half-open"]


def test_a_circuit_held_open_by_hand_ends_nothing_before_its_deadline() -> None:
    """It says nothing about when it closes."""
    a = make(1)
    a.breaker.reconfigure(BreakerConfig(mode="open"))
    a.push("waits", now=0.0, deadline=50.0)
    assert (a.expired(49.0), a.poll(49.0), a.blocked_by(49.0)) == ([], [], "circuit_open")
    assert a.next_wakeup(49.0) == 50.0
    assert a.expired(50.0) == [("waits", None)]


def test_a_full_window_ends_what_gets_no_turn_in_time() -> None:
    """The next turn is at 60 s."""
    a = make(5, limit=1)
    a.push("a", now=0.0, deadline=30.0)
    a.push("b", now=0.0, deadline=30.0)
    a.push("c", now=0.0, deadline=61.0)
    assert items(a.poll(0.0)) == ["a"]
    assert a.expired(0.0) == [("b", "rate_limited")]
    assert (a.blocked_by(0.0), a.next_wakeup(0.0)) == ("rate_limited", 60.0)


def test_a_probe_keeps_its_place_as_long_as_its_attempt_may_take() -> None:
    """A slow agent's probe is not replaced by another one before its own timeout."""
    a = make(9, probes=1)
    fail(a, 2)
    a.push("slow", now=30.0, timeout_s=100.0)
    a.push("next", now=30.0, timeout_s=100.0)
    [attempt] = a.poll(30.0)
    assert attempt.permit.probe
    assert a.poll(129.0) == []
    assert a.next_wakeup(30.0) == 30.0 + 100.0 + PROBE_SLACK_S
    a.finish(attempt, "success", 130.0)
    assert items(a.poll(130.0)) == ["next"]


def test_a_retry_keeps_its_place() -> None:
    """Once its backoff is over it goes before what came after it, and before nothing else."""
    a = make(1)
    for name in "abc":
        a.push(name, now=0.0)
    [first] = a.poll(0.0)
    a.finish(first, "failure", 0.0)
    a.push("a", now=0.0, not_before=1.0, retry=True, place=first.place)
    [second] = a.poll(0.0)
    assert second.item == "b"
    a.finish(second, "success", 2.0)
    assert items(a.poll(2.0)) == ["a"]
    assert a.items() == ["c"]


def test_retries_wait_for_their_budget_while_first_attempts_go_on() -> None:
    """They look again after a while; behind a circuit that is not closed they cost nothing."""
    a = make(9, budget=BudgetConfig(share=0.0, floor=1, window_s=10.0))
    for name in ("r1", "r2"):
        a.push(name, now=0.0, retry=True)
    a.push("first", now=0.0)
    assert items(a.poll(0.0)) == ["r1", "first"]
    assert (a.blocked_by(0.0, "r2"), a.next_wakeup(0.0)) == ("backoff", BUDGET_RECHECK_S)
    assert a.poll(BUDGET_RECHECK_S) == []
    assert items(a.poll(12.0)) == ["r2"]
    b = make(9, budget=BudgetConfig(share=0.0, floor=0))
    b.push("waits", now=0.0, retry=True)
    assert b.poll(0.0) == []
    fail(b, 2, 1.0)
    b.push("probes", now=1.0, retry=True)
    assert items(b.poll(31.0)) == ["waits", "probes"]


def test_no_permit_leaks_while_the_limiter_says_no() -> None:
    """Half open with an exhausted window: polling again and again must not use up the probes."""
    a = make(9, limit=2, threshold=2)
    fail(a, 2)
    for name in "abc":
        a.push(name, now=30.0, deadline=90.0)
    for tick in range(300):
        assert a.poll(30.0 + tick / 10) == []
    assert items(a.poll(60.0)) == ["a", "b"]


def test_retry_after_pauses_the_whole_queue_and_is_clamped() -> None:
    """An hour becomes `max_pause_s`; garbage is nothing."""
    a = make(1)
    for pause_s in (-1.0, 0.0, float("nan")):
        a.push("x", now=0.0, deadline=900.0)
        a.finish(a.poll(0.0)[0], "neutral", 0.0, pause_s)
    a.push("x", now=0.0, deadline=900.0)
    a.finish(a.poll(0.0)[0], "neutral", 0.0, 3600.0)
    a.push("y", now=0.0, deadline=900.0)
    assert (a.poll(0.0), a.blocked_by(0.0), a.next_wakeup(0.0)) == ([], "retry_after", 300.0)


def test_finishing_twice_frees_one_slot_only() -> None:
    """And the second outcome is not counted."""
    a = make(1)
    a.push("a", now=0.0, deadline=9.0)
    [attempt] = a.poll(0.0)
    a.finish(attempt, "failure", 0.0)
    a.finish(attempt, "failure", 0.0)
    assert (a.in_flight, a.breaker.failures(0.0)) == (0, 1)


def test_removed_items_are_gone_from_every_heap() -> None:
    """Lazily, but within a bound."""
    a = make(1)
    for number in range(10_000):
        a.push(str(number), now=0.0, deadline=30.0, not_before=number % 2 * 5.0)
        assert a.remove(str(number))
    assert not a.remove("1")
    assert (a.waiting, a.next_wakeup(0.0), a.poll(9.0), a.expired(99.0)) == (0, None, [], [])
    assert a.kept < 300


def test_reconfigure_live() -> None:
    """More room begins more; less room begins nothing until calls end."""
    a = make(1)
    for name in "abcd":
        a.push(name, now=0.0, deadline=9.0)
    attempts = a.poll(0.0)
    a.reconfigure(max_concurrency=3, max_requests=50, breaker=BreakerConfig(failure_threshold=9))
    attempts += a.poll(0.0)
    assert items(attempts) == ["a", "b", "c"]
    assert (a.limiter.max_requests, a.limiter.window_s, a.breaker.config.failure_threshold) == (50, 60.0, 9)
    a.reconfigure(max_concurrency=1)
    a.finish(attempts[0], "success", 1.0)
    assert a.poll(1.0) == []


def test_closed_by_and_open_at_say_when_the_agent_takes_calls_again() -> None:
    """Whatever waits; a busy agent is open."""
    a = make(1, limit=3)
    assert (a.closed_by(0.0), a.open_at(0.0)) == (None, 0.0)
    fail(a, 2)
    assert (a.closed_by(1.0), a.open_at(1.0)) == ("circuit_open", 30.0)
    a.limiter.pause_until(100.0)
    assert (a.closed_by(30.0), a.open_at(30.0)) == ("retry_after", 100.0)
    b = make(1, limit=1)
    b.push("a", now=0.0)
    assert len(b.poll(0.0)) == 1
    assert (b.closed_by(0.0), b.open_at(0.0)) == ("rate_limited", 60.0)


def test_blocked_by_tells_about_one_item() -> None:
    """An item in backoff behind others that are blocked by something else."""
    a = make(1)
    a.push("a", now=0.0, deadline=9.0)
    a.poll(0.0)
    a.push("b", now=0.0, deadline=9.0)
    a.push("c", now=0.0, deadline=9.0, not_before=3.0)
    assert (a.blocked_by(0.0, "b"), a.blocked_by(0.0, "c"), a.blocked_by(0.0, "a")) == ("concurrency", "backoff", None)


def test_drain_gives_back_what_waits_in_order_of_arrival() -> None:
    """Calls in flight are not touched."""
    a = make(1)
    for name in "abc":
        a.push(name, now=0.0, deadline=9.0, priority=ord(name))
    a.poll(0.0)
    assert a.drain() == ["a", "b"]
    assert (a.waiting, a.in_flight, a.next_wakeup(0.0)) == (0, 1, None)


def test_items_that_failed_as_probes_let_others_probe_first() -> None:
    """Two that always fail would otherwise be all the probes there are: the circuit of a healthy agent would never close."""
    a = make(9, probes=2)
    fail(a, 2)
    now = 0.0
    for item in ("bad 1", "bad 2", "well 1", "well 2", "well 3"):
        a.push(item, now=now, priority=5 if item.startswith("bad") else 0)
    begun: list[list[str]] = []
    for _ in range(3):
        now += 31.0
        attempts = a.poll(now)
        begun.append(items(attempts))
        for attempt in attempts:
            bad = attempt.item.startswith("bad")
            a.finish(attempt, "failure" if bad else "success", now)
            if bad:
                probes = attempt.failed_probes + 1
                a.push(attempt.item, now=now, priority=5, place=attempt.place, failed_probes=probes)
    assert begun[:2] == [["bad 1", "bad 2"], ["well 1", "well 2"]]
    assert begun[2][0] == "well 3"


def test_a_circuit_that_closes_gives_failed_probes_their_turn_again() -> None:
    """An outage changes nothing of the order afterwards."""
    a = make(9, probes=3)
    fail(a, 2)
    for item in "abcdef":
        a.push(item, now=0.0)
    for attempt in a.poll(31.0):
        a.finish(attempt, "failure", 31.0)
        a.push(attempt.item, now=31.0, place=attempt.place, failed_probes=1)
    probes = a.poll(62.0)
    assert items(probes) == ["d", "e", "f"]
    for attempt in probes:
        a.finish(attempt, "success", 62.0)
        a.push(attempt.item, now=62.0, place=attempt.place)
    attempts = a.poll(62.0)
    assert items(attempts) == list("abcdef")
    assert {attempt.failed_probes for attempt in attempts} == {0}
