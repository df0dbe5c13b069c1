"""Concurrency found by trying: within its bounds, down with overload, up again when used."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from agents_io.calling.rules.adaptive import AimdLimit
from agents_io.calling.rules.agent_queue import AgentQueue, Attempt
from agents_io.calling.rules.breaker import Breaker
from agents_io.calling.rules.limiter import SlidingWindow


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.floats(0, 10), st.integers(1, 40)), max_size=60), st.integers(1, 30))
def test_always_between_one_and_the_ceiling(ends: list[tuple[bool, float, int]], ceiling: int) -> None:
    """Whatever happens, and after every change by one step at most."""
    limit, now = AimdLimit(ceiling), 0.0
    for overload, took, in_flight in ends:
        now += 0.5
        before = limit.exact
        limit.ended(overload=overload, began=now - took, now=now, in_flight=in_flight)
        assert 1 <= limit.now <= ceiling
        assert limit.exact <= before or not overload
        assert limit.exact - before <= 1 / before + 1e-9


def test_a_wave_cuts_once_and_the_next_one_again() -> None:
    """Ten calls begun together fail: one cut. Ten begun after it fail: another."""
    limit = AimdLimit(100)
    for n in range(10):
        limit.ended(overload=True, began=0.0, now=1.0 + n / 100, in_flight=10)
    assert limit.exact == 90.0
    for n in range(10):
        limit.ended(overload=True, began=2.0, now=3.0 + n / 100, in_flight=10)
    assert limit.exact == 81.0


def test_it_grows_only_while_it_is_used() -> None:
    """Answers with little under way say nothing about more."""
    limit = AimdLimit(100, 10.0)
    limit.ended(overload=False, began=0.0, now=1.0, in_flight=4)
    assert limit.exact == 10.0
    limit.ended(overload=False, began=0.0, now=1.0, in_flight=5)
    assert limit.exact == 10.1
    limit.reconfigure(6)
    assert (limit.now, limit.ceiling) == (6, 6)


def test_the_queue_keeps_to_what_was_found() -> None:
    """An agent that copes with four at a time settles around that, far below its ceiling, and is used throughout."""
    queue: AgentQueue[int] = AgentQueue(max_concurrency=32, limiter=SlidingWindow(1_000_000, 60.0), breaker=Breaker())
    queue.adaptive = AimdLimit(32)
    queue.breaker.reconfigure(queue.breaker.config.__class__(mode="disabled"))
    for item in range(5_000):
        queue.push(item, now=0.0, deadline=1e9)
    now, most = 0.0, []
    for _ in range(300):
        attempts = queue.poll(now)
        assert attempts
        most.append(len(attempts))
        now += 1.0
        for attempt in attempts:
            queue.finish(attempt, "success" if len(attempts) <= 4 else "failure", now)
    assert max(most[-100:]) <= 6
    assert min(most[-100:]) >= 3


def test_a_429_is_overload_and_a_refusal_of_the_task_is_not() -> None:
    """Neutral ends matter only if the agent asks to be left alone."""
    queue: AgentQueue[str] = AgentQueue(max_concurrency=10, limiter=SlidingWindow(1000, 60.0), breaker=Breaker())
    queue.adaptive = AimdLimit(10)
    for item, pause_s in (("refused", None), ("told to wait", 1.0)):
        queue.push(item, now=0.0, deadline=60.0)
        attempt: Attempt[str]
        [attempt] = queue.poll(0.0)
        queue.finish(attempt, "neutral", 0.5, pause_s)
        assert queue.concurrency == (10 if pause_s is None else 9)
