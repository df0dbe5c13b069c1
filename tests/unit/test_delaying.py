"""How agents share a worker's memory: whoever floods, there is room left for the next; and who holds nothing always may."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from streams.rules.dispatch.delaying import SHARE, may_hold

BUDGET = 100_000


def fill(used: int, concurrency: int, size: int) -> tuple[int, int]:
    """An agent that floods takes what it may: its bytes and tasks."""
    held_bytes = held = 0
    while may_hold(BUDGET, used + held_bytes, held_bytes, held, concurrency, size):
        held_bytes, held = held_bytes + size, held + 1
    return held_bytes, held


@settings(deadline=None)
@given(
    st.integers(0, 2 * BUDGET), st.integers(0, BUDGET), st.integers(0, 500), st.integers(1, 100), st.integers(1, BUDGET)
)
def test_what_is_allowed_is_within_the_budget(
    used: int, held_bytes: int, held: int, concurrency: int, size: int
) -> None:
    """But for the one task of an agent that holds nothing. More in use never allows what less did not."""
    allowed = may_hold(BUDGET, used, held_bytes, held, concurrency, size)
    if held == 0:
        assert allowed
    elif allowed:
        assert used + size <= BUDGET
        assert may_hold(BUDGET, max(0, used - 1), held_bytes, held, concurrency, size)


def test_floods_leave_room_for_one_another() -> None:
    """The first takes a fifth of all, each further one as much of what is left; the last quarter is for those that can call."""
    used, shares = 0, []
    for _ in range(12):
        held_bytes, _held = fill(used, 1, 100)
        shares.append(held_bytes)
        used += held_bytes
    assert shares[0] == BUDGET // (SHARE + 1)
    assert shares == sorted(shares, reverse=True)
    assert shares[1] > BUDGET // 8
    assert used <= BUDGET * (SHARE - 1) // SHARE + 100 * len(shares)


def test_an_agent_that_can_call_may_use_the_last_quarter() -> None:
    """Beyond its share: as many tasks as it can be called with, while there is any memory at all."""
    used = BUDGET * 9 // 10
    assert fill(used, 20, 100) == (2000, 20)
    assert fill(used, 1, 100) == (100, 1)
    assert fill(BUDGET, 20, 100) == (100, 1)


def test_a_task_larger_than_everything_is_called_all_the_same() -> None:
    """One at a time."""
    assert fill(0, 10, 5 * BUDGET) == (5 * BUDGET, 1)
