"""Rolling sums of calls: between the exact window and one bucket less."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from agents_io.calling.rules.call_rates import BUCKETS, CallRates, Totals

calls = st.lists(st.tuples(st.floats(0, 20), st.booleans(), st.booleans()), max_size=80)


@settings(deadline=None)
@given(calls, st.floats(0, 80))
def test_sums_lie_between_the_window_and_a_bucket_less(ends: list[tuple[float, bool, bool]], idle_s: float) -> None:
    """Each of the three sums, at any moment."""
    rates, now = CallRates(60.0), 0.0
    log: list[tuple[float, bool, bool]] = []
    for step, failed, slow in [*ends, (idle_s, False, False)]:
        now += step
        totals = rates.totals(now)
        for field, select in enumerate((lambda e: True, lambda e: e[1], lambda e: e[2])):
            most = sum(select(end) for end in log if end[0] > now - 60.0)
            least = sum(select(end) for end in log if end[0] >= now - 60.0 + 60.0 / BUCKETS)
            assert least <= totals[field] <= most
        rates.add(now, failed, slow)
        log.append((now, failed, slow))


def test_the_number_of_buckets_is_bounded() -> None:
    """A thousand calls of one window."""
    rates = CallRates(60.0)
    for number in range(1000):
        rates.add(number * 0.05, False, False)
        assert len(rates.snapshot(number * 0.05)) <= BUCKETS + 1


@settings(deadline=None)
@given(calls, st.floats(0, 59))
def test_it_moves_with_its_partition(ends: list[tuple[float, bool, bool]], later_s: float) -> None:
    """The next owner has the same sums, now and later, to within the milliseconds of a snapshot."""
    rates, now = CallRates(60.0), 0.0
    for step, failed, slow in ends:
        now += step
        rates.add(now, failed, slow)
    other = CallRates(60.0)
    other.restore(rates.snapshot(now), 1000.0)
    assert other.totals(1000.0) == rates.totals(now)
    assert rates.totals(now + later_s + 0.002).calls <= other.totals(1000.0 + later_s + 0.001).calls
    other.clear()
    assert other.totals(1000.0) == Totals(0, 0, 0)
