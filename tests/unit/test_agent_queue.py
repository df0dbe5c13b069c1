"""The lane's promises one by one; `tests/properties` compares it with a model."""

from __future__ import annotations

import pytest

from agents_io.rules.breaker import Breaker, BreakerConfig
from agents_io.rules.agent_queue import AgentQueue, Attempt
from agents_io.rules.limiter import SlidingWindow


def lane(concurrency: int = 2, *, limit: int = 100, depth: int = 10, threshold: int = 2) -> AgentQueue[str]:
    """A lane of strings."""
    return AgentQueue(concurrency, SlidingWindow(limit, 60.0), Breaker(BreakerConfig(failure_threshold=threshold)), depth)


def items(starts: list[Attempt[str]]) -> list[str]:
    """What starts."""
    return [start.item for start in starts]


def test_highest_priority_first_then_order_of_arrival() -> None:
    """Equal priorities are served first come, first served."""
    a = lane(9)
    for item, priority in (("low", -1), ("a", 0), ("b", 0), ("high", 5), ("c", 0)):
        a.push(item, now=0.0, deadline=9.0, priority=priority)
    assert items(a.poll(0.0)) == ["high", "a", "b", "c", "low"]


def test_full_lane_refuses_but_takes_a_retry() -> None:
    """A retry was accepted before."""
    a = lane(depth=1)
    assert a.push("a", now=0.0, deadline=9.0)
    assert not a.push("b", now=0.0, deadline=9.0)
    assert a.push("c", now=0.0, deadline=9.0, force=True)
    assert a.waiting == 2


def test_same_item_twice_is_a_mistake() -> None:
    """It could not be told which of the two to remove."""
    a = lane()
    a.push("a", now=0.0, deadline=9.0)
    with pytest.raises(ValueError, match="waits in this lane already"):
        a.push("a", now=0.0, deadline=9.0)


def test_backoff_waits_without_holding_up_others() -> None:
    """The item in backoff comes when its time has come, ahead of what arrived after it."""
    a = lane(1)
    a.push("retry", now=0.0, deadline=30.0, not_before=5.0)
    assert (a.poll(0.0), a.blocked_by(0.0), a.next_wakeup(0.0)) == ([], "backoff", 5.0)
    a.push("new", now=1.0, deadline=30.0)
    [start] = a.poll(1.0)
    assert start.item == "new"
    a.push("newer", now=2.0, deadline=30.0)
    a.finish(start, "success", 5.0)
    assert items(a.poll(5.0)) == ["retry"]
    assert a.blocked_by(5.0) == "concurrency"


def test_expired_while_queued_is_given_up_and_never_started() -> None:
    """Also when nobody asked for the doomed first."""
    a = lane(1)
    a.push("late", now=0.0, deadline=1.0)
    a.push("fine", now=0.0, deadline=9.0)
    assert items(a.poll(1.0)) == ["fine"]
    assert a.doomed(1.0) == [("late", "expired")]
    assert a.waiting == 0


def test_open_circuit_dooms_only_what_cannot_outlast_it() -> None:
    """The rest waits for the probes."""
    a = lane(1)
    for name in ("x", "y"):
        a.push(name, now=0.0, deadline=90.0)
        a.finish(a.poll(0.0)[0], "failure", 0.0)
    a.push("short", now=1.0, deadline=20.0)
    a.push("edge", now=1.0, deadline=30.0)
    a.push("long", now=1.0, deadline=60.0)
    assert a.next_wakeup(1.0) == 1.0
    assert a.doomed(1.0) == [("short", "circuit_open"), ("edge", "circuit_open")]
    assert (a.poll(1.0), a.blocked_by(1.0), a.next_wakeup(1.0)) == ([], "circuit_open", 30.0)
    assert items(a.poll(30.0)) == ["long"]
    assert [transition.kind for transition in a.take_transitions()] == ["open", "half-open"]


def test_full_window_dooms_what_gets_no_turn_in_time() -> None:
    """The next slot is at 60 s."""
    a = lane(5, limit=1)
    a.push("a", now=0.0, deadline=30.0)
    a.push("b", now=0.0, deadline=30.0)
    a.push("c", now=0.0, deadline=61.0)
    assert items(a.poll(0.0)) == ["a"]
    assert a.doomed(0.0) == [("b", "rate_limited")]
    assert (a.blocked_by(0.0), a.next_wakeup(0.0)) == ("rate_limited", 60.0)


def test_no_permit_leaks_while_the_limiter_says_no() -> None:
    """Half open with an exhausted window: polling again and again must not use up the probes."""
    a = lane(9, limit=2, threshold=2)
    for name in ("x", "y"):
        a.push(name, now=0.0, deadline=90.0)
        a.finish(a.poll(0.0)[0], "failure", 0.0)
    for name in "abc":
        a.push(name, now=30.0, deadline=90.0)
    for tick in range(300):
        assert a.poll(30.0 + tick / 10) == []
    assert items(a.poll(60.0)) == ["a", "b"]


def test_retry_after_pauses_the_whole_lane_and_is_clamped() -> None:
    """An hour becomes `max_pause_s`; garbage is nothing."""
    a = lane(1)
    for pause_s in (-1.0, 0.0, float("nan")):
        a.push("x", now=0.0, deadline=900.0)
        a.finish(a.poll(0.0)[0], "neutral", 0.0, pause_s)
    a.push("x", now=0.0, deadline=900.0)
    a.finish(a.poll(0.0)[0], "neutral", 0.0, 3600.0)
    a.push("y", now=0.0, deadline=900.0)
    assert (a.poll(0.0), a.blocked_by(0.0), a.next_wakeup(0.0)) == ([], "rate_limited", 300.0)


def test_finishing_twice_frees_one_slot_only() -> None:
    """And the second outcome is not counted."""
    a = lane(1)
    a.push("a", now=0.0, deadline=9.0)
    [start] = a.poll(0.0)
    a.finish(start, "failure", 0.0)
    a.finish(start, "failure", 0.0)
    assert (a.in_flight, a.breaker.failures(0.0)) == (0, 1)


def test_removed_items_are_gone_from_every_heap() -> None:
    """Lazily, but within a bound."""
    a = lane(1, depth=100_000)
    for number in range(10_000):
        a.push(str(number), now=0.0, deadline=30.0, not_before=number % 2 * 5.0)
        assert a.remove(str(number))
    assert not a.remove("1")
    assert (a.waiting, a.next_wakeup(0.0), a.poll(9.0), a.doomed(99.0)) == (0, None, [], [])
    assert len(a._ready) + len(a._delayed) + len(a._deadlines) < 300


def test_reconfigure_live() -> None:
    """More room starts more; less room starts nothing until calls end."""
    a = lane(1)
    for name in "abcd":
        a.push(name, now=0.0, deadline=9.0)
    starts = a.poll(0.0)
    a.reconfigure(max_concurrency=3, depth=1, max_requests=50, breaker=BreakerConfig(failure_threshold=9))
    starts += a.poll(0.0)
    assert items(starts) == ["a", "b", "c"]
    assert (a.limiter.max_requests, a.limiter.window_s, a.breaker.config.failure_threshold) == (50, 60.0, 9)
    assert not a.push("e", now=0.0, deadline=9.0)
    a.reconfigure(max_concurrency=1)
    a.finish(starts[0], "success", 1.0)
    assert a.poll(1.0) == []


def test_blocked_by_tells_about_one_item() -> None:
    """An item in backoff behind others that are blocked by something else."""
    a = lane(1)
    a.push("a", now=0.0, deadline=9.0)
    a.poll(0.0)
    a.push("b", now=0.0, deadline=9.0)
    a.push("c", now=0.0, deadline=9.0, not_before=3.0)
    assert (a.blocked_by(0.0, "b"), a.blocked_by(0.0, "c"), a.blocked_by(0.0, "a")) == ("concurrency", "backoff", None)


def test_drain_gives_back_what_waits_in_order_of_arrival() -> None:
    """Calls in flight are not touched."""
    a = lane(1)
    for name in "abc":
        a.push(name, now=0.0, deadline=9.0, priority=ord(name))
    a.poll(0.0)
    assert a.drain() == ["a", "b"]
    assert (a.waiting, a.in_flight, a.next_wakeup(0.0)) == (0, 1, None)
