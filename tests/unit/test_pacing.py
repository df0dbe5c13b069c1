"""When the next commit begins: at once after a rest, at a distance under load."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.rules.engine.pacing import DISTANCE, wait_s

seconds = st.floats(0, 100)


@given(idle=seconds, commit=seconds, records=st.floats(0, 1000), most=seconds)
def test_the_distance_is_that_of_the_commits_length_and_bounded(
    idle: float, commit: float, records: float, most: float
) -> None:
    """Counted from the end of the last commit; time that has passed is not waited for again."""
    wait = wait_s(idle, commit, records, most)
    distance = min(min(DISTANCE, max(0.0, records - 1)) * commit, most)
    assert 0 <= wait <= distance
    assert idle + wait >= distance - 1e-9


@given(idle=seconds, commit=seconds, records=st.floats(0, 1), most=seconds)
def test_tasks_that_come_one_by_one_do_not_wait(idle: float, commit: float, records: float, most: float) -> None:
    """A client that sends a task once the last is answered would wait for nobody."""
    assert wait_s(idle, commit, records, most) == 0
