"""The retry budget holds in every window that ends with a retry, whatever the order of calls."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents_io.calling.rules.budget import BudgetConfig, RetryBudget
from tests.support.memory import held

steps = st.lists(st.tuples(st.floats(0, 4), st.sampled_from(["first", "second", "second"])), max_size=120)


@settings(deadline=None)
@given(steps, st.sampled_from([0.0, 0.2, 1.0]), st.integers(0, 3))
def test_never_more_than_the_share_and_the_floor(calls: list[tuple[float, str]], share: float, floor: int) -> None:
    """P11 over the log: second calls of any 10 s that end with one are at most the share of the first ones, and the floor."""
    budget, now = RetryBudget(BudgetConfig(share, floor)), 0.0
    firsts: list[float] = []
    seconds: list[float] = []
    for step, kind in calls:
        now += step
        if kind == "first":
            budget.first(now)
            firsts.append(now)
        elif budget.spend(now):
            seconds.append(now)
            recent = [at for at in seconds if at > now - 10.0]
            assert len(recent) <= share * sum(at > now - 10.0 for at in firsts) + floor


@settings(deadline=None)
@given(st.integers(0, 30), st.integers(0, 5))
def test_what_is_left_comes_back(firsts: int, floor: int) -> None:
    """At one moment exactly the share and the floor; long after, the floor alone."""
    budget = RetryBudget(BudgetConfig(0.2, floor))
    for _ in range(firsts):
        budget.first(5.0)
    assert sum(budget.spend(5.0) for _ in range(50)) == int(0.2 * firsts) + floor
    assert sum(budget.spend(17.0) for _ in range(50)) == floor


def test_asking_costs_nothing_and_memory_is_bounded() -> None:
    """`allows` counts nothing; a day of calls leaves a handful of buckets."""
    budget = RetryBudget(BudgetConfig(0.0, 1))
    assert all(budget.allows(0.0) for _ in range(5))
    for second in range(86_400 // 7):
        budget.first(second * 7.0)
    assert len(held(budget, list)) <= 12
    for bad in ((-0.1, 0, 1.0), (0.1, -1, 1.0), (0.1, 0, 0.0)):
        with pytest.raises(ValueError, match="must be"):
            BudgetConfig(*bad)
