"""When a partition commits next: at once after a rest, at a distance under load."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.rules.engine.pacing import DISTANCE, FULL_BATCH, wait_s

seconds = st.floats(0, 100)


@given(idle=seconds, waiting=st.integers(0, FULL_BATCH - 1), commit=seconds, most=seconds)
def test_the_distance_is_that_of_the_commits_length_and_bounded(
    idle: float, waiting: int, commit: float, most: float
) -> None:
    """Counted from the end of the last commit; time that has passed is not waited for again."""
    wait = wait_s(idle, waiting, commit, most)
    assert 0 <= wait <= most
    assert wait <= DISTANCE * commit
    assert idle + wait >= min(DISTANCE * commit, most) - 1e-9


@given(idle=seconds, waiting=st.integers(FULL_BATCH, 10_000), commit=seconds, most=seconds)
def test_a_full_batch_does_not_wait(idle: float, waiting: int, commit: float, most: float) -> None:
    """A longer one saves nothing any more."""
    assert wait_s(idle, waiting, commit, most) == 0
