"""Whoever renews in time is never ended; whoever stops is, soon; and nobody waits for ever."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.rules.agents.leases import GRACE_MS, MIN_TTL_MS, ended, grant, renewed, state, worth_writing

TTL = st.integers(MIN_TTL_MS, 600_000)


@given(TTL, st.lists(st.floats(0, 1), max_size=50))
def test_renewed_within_its_time_it_is_never_over(ttl_ms: int, gaps: list[float]) -> None:
    """Also when most renewals come too soon to be written: those are what a lease may lack."""
    now = 0
    lease = grant("a", "x", ttl_ms, False, now)
    for gap in gaps:
        now += int(gap * ttl_ms * 0.9)
        assert state(lease, now, 0) == "live"
        after = renewed(lease, 0, now)
        if worth_writing(lease, after):
            lease = after


@given(TTL, st.integers(0, 10**7), st.integers(0, 10**7))
def test_not_renewed_it_is_over_after_its_time_and_not_before(ttl_ms: int, later: int, since: int) -> None:
    """Counted from the grant, or from the worker's start."""
    lease = grant("a", "x", ttl_ms, False, 0)
    over = later > max(ttl_ms, since + ttl_ms) + GRACE_MS
    assert (state(lease, later, since) == "over") is over


@given(TTL, st.integers(0, 10**9), st.integers(0, 10**9))
def test_what_ended_comes_back_with_its_whole_time(ttl_ms: int, end: int, gap: int) -> None:
    """Whenever that is."""
    back = renewed(ended(grant("a", "x", ttl_ms, False, 0), end), 0, end + gap)
    assert state(back, end + gap + ttl_ms, 0) == "live"
