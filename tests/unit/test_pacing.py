"""When the next commit begins: at once after a rest, at a distance under load."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.rules.engine.pacing import DISTANCE, wait_s

seconds = st.floats(0, 100)


@given(idle=seconds, commit=seconds, most=seconds)
def test_the_distance_is_that_of_the_commits_length_and_bounded(idle: float, commit: float, most: float) -> None:
    """Counted from the end of the last commit; time that has passed is not waited for again."""
    wait = wait_s(idle, commit, most)
    assert 0 <= wait <= most
    assert wait <= DISTANCE * commit
    assert idle + wait >= min(DISTANCE * commit, most) - 1e-9
