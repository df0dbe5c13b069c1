"""The breaker's promises one by one; `tests/properties` compares it with a model."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from agents_io.calling.rules.breaker import Breaker, BreakerConfig, Permit

pytestmark = pytest.mark.virtual_time


def permit(breaker: Breaker, now: float) -> Permit:
    """A permit that must be had."""
    found = breaker.try_acquire(now)
    assert found is not None
    return found


def tripped(now: float = 0.0) -> Breaker:
    """A circuit opened by five failures at `now`."""
    breaker = Breaker()
    for _ in range(5):
        breaker.record(permit(breaker, now), "failure", now)
    breaker.take_transitions()
    return breaker


def test_opens_at_the_fifth_failure_within_the_period() -> None:
    """Four are borne, the fifth opens; the transition says how many there were."""
    breaker = Breaker()
    results = [breaker.record(permit(breaker, at), "failure", at) for at in (0.0, 10.0, 20.0, 30.0, 59.9)]
    assert results[:4] == [None] * 4
    assert results[4] is not None
    assert (results[4].kind, results[4].failures, results[4].at) == ("open", 5, 59.9)
    assert breaker.take_transitions() == [results[4]]
    assert breaker.take_transitions() == []


def test_failures_leave_the_window_after_the_period() -> None:
    """The first of five is exactly a period old: it no longer counts."""
    breaker = Breaker()
    for at in (0.0, 10.0, 20.0, 30.0, 60.0):
        assert breaker.record(permit(breaker, at), "failure", at) is None
    assert breaker.failures(60.0) == 4
    assert breaker.record(permit(breaker, 61.0), "failure", 61.0) is not None


def test_successes_in_between_do_not_forgive() -> None:
    """It counts failures in a window, not in a row."""
    breaker = Breaker(BreakerConfig(failure_threshold=2))
    for outcome in ("failure", "success", "success", "failure"):
        breaker.record(permit(breaker, 1.0), outcome, 1.0)  # type: ignore[arg-type]
    assert breaker.state(1.0) == "open"


def test_open_lets_nothing_through_until_the_reset_timeout() -> None:
    """Then the first permit makes it half open."""
    breaker = tripped()
    assert breaker.try_acquire(29.999) is None
    assert (breaker.available_at(1.0), breaker.shut_until(1.0)) == (30.0, 30.0)
    assert breaker.state(30.0) == "half_open"
    permit(breaker, 30.0)
    assert [transition.kind for transition in breaker.take_transitions()] == ["half-open"]


def test_three_successful_probes_close_and_no_fourth_is_out_at_once() -> None:
    """Half open admits three at once."""
    breaker = tripped()
    probes = [permit(breaker, 30.0) for _ in range(3)]
    assert breaker.try_acquire(30.0) is None
    results = [breaker.record(probe, "success", 31.0) for probe in probes]
    assert results[:2] == [None, None]
    assert results[2] is not None
    assert results[2].kind == "close"
    assert breaker.failures(31.0) == 0


def test_first_failed_probe_opens_again_and_the_others_are_ignored() -> None:
    """Answers of an older generation change nothing."""
    breaker = tripped()
    probes = [permit(breaker, 30.0) for _ in range(3)]
    opened = breaker.record(probes[0], "failure", 32.0)
    assert opened is not None
    assert opened.kind == "open"
    assert [breaker.record(probe, "success", 33.0) for probe in probes[1:]] == [None, None]
    assert breaker.available_at(33.0) == 62.0


def test_late_answer_of_a_call_begun_while_closed_cannot_close_or_reopen() -> None:
    """Neither while open nor while half open."""
    breaker = Breaker()
    late = permit(breaker, 0.0)
    for _ in range(5):
        breaker.record(permit(breaker, 0.0), "failure", 0.0)
    assert breaker.record(late, "success", 1.0) is None
    permit(breaker, 30.0)
    assert breaker.record(late, "failure", 31.0) is None
    assert breaker.state(31.0) == "half_open"


def test_neutral_outcome_gives_the_probe_back() -> None:
    """A cancelled probe neither closes nor opens."""
    breaker = tripped()
    probes = [permit(breaker, 30.0) for _ in range(3)]
    breaker.record(probes[0], "neutral", 31.0)
    assert breaker.state(31.0) == "half_open"
    assert breaker.try_acquire(31.0) is not None


def test_lost_probes_free_their_places_after_the_lease() -> None:
    """Half open never gets stuck, and a late answer still counts once."""
    breaker = tripped()
    lost = [permit(breaker, 30.0) for _ in range(3)]
    assert breaker.available_at(40.0) == 65.0
    assert breaker.shut_until(40.0) == 40.0
    assert breaker.try_acquire(64.9) is None
    fresh = [permit(breaker, 65.0) for _ in range(3)]
    assert breaker.record(lost[0], "success", 66.0) is None
    assert breaker.record(lost[0], "success", 66.0) is None
    assert breaker.record(fresh[0], "success", 66.0) is None
    closed = breaker.record(fresh[1], "success", 66.0)
    assert closed is not None
    assert closed.kind == "close"


@pytest.mark.parametrize("moment", [0.0, 20.0, 45.0])
def test_snapshot_survives_json_and_another_clock(moment: float) -> None:
    """An open circuit stays open for what was left, wherever its state moves."""
    moved = Breaker.restore(BreakerConfig(), orjson.loads(orjson.dumps(tripped().snapshot(moment))), 1000.0)
    assert moved.available_at(1000.0) == max(1000.0, 1000.0 + 30.0 - moment)
    assert moved.failures(1000.0) == 5


def test_half_open_snapshot_keeps_successes_and_forgets_probes() -> None:
    """The probes that were out died with their worker."""
    breaker = tripped()
    probes = [permit(breaker, 30.0) for _ in range(3)]
    breaker.record(probes[0], "success", 31.0)
    moved = Breaker.restore(BreakerConfig(), breaker.snapshot(31.0), 0.0)
    again = [permit(moved, 0.0) for _ in range(3)]
    moved.record(again[0], "success", 1.0)
    closed = moved.record(again[1], "success", 1.0)
    assert closed is not None
    assert closed.kind == "close"


def test_foreign_snapshot_is_refused() -> None:
    """Rather than a circuit in no state at all."""
    with pytest.raises(ValueError, match="not a breaker's snapshot"):
        Breaker.restore(BreakerConfig(), {"state": "ajar"}, 0.0)


def test_reconfigure_moves_the_end_of_an_open_circuit() -> None:
    """A shorter wait holds at once."""
    breaker = tripped()
    breaker.reconfigure(BreakerConfig(reset_timeout_s=10.0))
    assert breaker.available_at(1.0) == 10.0


@pytest.mark.parametrize(
    "bad", [{"failure_threshold": 0}, {"probes": 0}, {"reset_timeout_s": 0.0}, {"probe_lease_s": -1.0}]
)
def test_config_without_sense_is_refused(bad: dict[str, float]) -> None:
    """At once, not at the first failure."""
    with pytest.raises(ValueError, match="must be"):
        BreakerConfig(**bad)  # type: ignore[arg-type]


def test_a_circuit_that_closed_begins_its_shares_anew() -> None:
    """What was counted before it opened does not open it again."""
    breaker = Breaker(
        BreakerConfig(
            failure_rate=0.5, minimum_calls=4, reset_timeout_s=1.0, successes_to_close=1, monitoring_period_s=60.0
        )
    )
    for now in (0.0, 0.1, 0.2, 0.3):
        _end(breaker, "failure", now)
    assert breaker.state(0.4) == "open"
    _end(breaker, "success", 1.5)
    assert breaker.state(1.5) == "closed"
    for now, outcome in ((1.6, "success"), (1.7, "success"), (1.8, "failure"), (1.9, "success")):
        _end(breaker, outcome, now)
    assert breaker.state(2.0) == "closed", "one of four failed since"


def _end(breaker: Breaker, outcome: Any, now: float) -> None:
    permit = breaker.try_acquire(now)
    assert permit is not None
    breaker.record(permit, outcome, now)
