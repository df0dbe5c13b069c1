"""How lanes share a worker's memory, whatever they are and in whatever order they fill up."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from streams.rules.shares import AHEAD_S, RESERVE, lane_limit, wanted_back

BUDGET = 1000
LANES = st.lists(st.integers(1, 600), min_size=1, max_size=12)


def fill(concurrencies: list[int], order: list[int], pace: float = 0.0) -> list[int]:
    """Each lane in turn takes up to `n` tasks as far as its limit lets it, then all until none may take more."""
    holding = [0] * len(concurrencies)

    def take(lane: int, most: int) -> int:
        taken = 0
        while taken < most:
            free, lanes = BUDGET - sum(holding), sum(held > 0 for held in holding)
            if free <= 0 or holding[lane] >= lane_limit(BUDGET, free, lanes, holding[lane], concurrencies[lane], pace):
                break
            holding[lane] += 1
            taken += 1
        return taken

    for number, most in enumerate(order):
        take(number % len(concurrencies), most)
    while sum(take(lane, 50) for lane in range(len(concurrencies))):
        pass
    return holding


@settings(deadline=None, max_examples=60)
@given(LANES, st.lists(st.integers(0, 400), max_size=60))
def test_however_many_agents_hang_a_newcomer_finds_its_place(concurrencies: list[int], order: list[int]) -> None:
    """Lanes that begin nothing leave room, and one more agent may take it, up to its share of the reserve."""
    holding = fill(concurrencies, order)
    free, lanes = BUDGET - sum(holding), len(holding)
    share = min(BUDGET // RESERVE, free) // (lanes + 1)
    assert free >= 1
    assert lane_limit(BUDGET, free, lanes, 0, 10, 0.0) >= min(10, share)


@settings(deadline=None)
@given(st.integers(1, 250), st.lists(st.integers(0, 400), max_size=5))
def test_one_agent_that_hangs_leaves_most_of_the_worker(concurrency: int, order: list[int]) -> None:
    """It gets its slots, or a fifth of the budget."""
    [held] = fill([concurrency], order)
    assert held <= max(concurrency, BUDGET // 5)
    assert held >= concurrency


@settings(deadline=None)
@given(st.integers(2, 40))
def test_quick_lanes_may_use_the_whole_budget_together(lanes: int) -> None:
    """A worker at full speed is held back by its budget, not by the lanes."""
    assert sum(fill([10] * lanes, [], pace=4000 / lanes)) == BUDGET


@given(st.integers(1, 1000), st.integers(0, 1000), st.integers(0, 50), st.integers(0, 1000), st.floats(0, 1e5))
def test_a_limit_never_shrinks_when_more_is_left_or_an_agent_is_faster(
    budget: int, free: int, lanes: int, holding: int, pace: float
) -> None:
    """And it is never nothing."""
    free = min(free, budget)
    limit = lane_limit(budget, free, lanes, holding, 10, pace)
    assert 1 <= limit <= max(budget, 10)
    assert lane_limit(budget, min(free + 1, budget), lanes, holding, 10, pace) >= limit
    assert lane_limit(budget, free, lanes, holding, 10, pace + 1 / AHEAD_S) >= limit


@given(st.integers(0, 500), st.integers(1, 500))
def test_what_comes_back_fits(holding: int, limit: int) -> None:
    """A lane that calls tasks back has room for them, and has run low."""
    count = wanted_back(holding, limit)
    assert count >= 0
    assert holding + count <= limit or count == 0
    assert count > 0 or 2 * holding >= limit
