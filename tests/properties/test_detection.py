"""The proofs and the promises of detection: payments average at most one, episodes are well-formed, restarts change nothing."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.messages import Anomaly
from streams.rules.detection.alarms import Moment, SeriesId
from streams.rules.detection.detectors import Detectors, Thresholds
from streams.rules.detection.overconfidence import BETS, Overconfidence
from streams.rules.detection.ranks import LEVEL, RISE, Bets, RankTest

SERIES = SeriesId("a", "p", "agent")
bins = st.integers(0, 200) | st.sampled_from((0, 180, 190, 200))


def paid(bets: Bets, others: list[int], last: int) -> float:
    """What one bet on `last` pays when nothing but `others` is known, averaged over the bets."""
    test = RankTest(bets, 1e9)
    test.restart(others)
    test.observe(last)
    weights = [weight for group in (bets.down, bets.up, bets.spread) for _, weight in group]
    return math.fsum(weight * held for weight, held in zip(weights, test.evidence, strict=True))


@settings(max_examples=60, deadline=None)
@given(st.lists(bins, min_size=25, max_size=60), st.sampled_from((LEVEL, RISE)))
def test_whichever_of_the_points_came_last_the_rank_test_pays_at_most_one_on_average(
    values: list[int], bets: Bets
) -> None:
    """This is the whole proof of the run length: of an exchangeable bag, each point is the last with equal chance."""
    mean = math.fsum(paid(bets, values[:i] + values[i + 1 :], values[i]) for i in range(len(values))) / len(values)
    assert mean <= 1 + 1e-9
    if len(set(values)) > 1:
        assert mean > 0.85  # and hardly less, or it would be slow


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.9))
def test_betting_pays_at_most_one_while_the_gap_is_within_the_slack(
    confidence: float, rate: float, slack: float
) -> None:
    """Whatever the confidence, if success comes with at least confidence - slack."""
    rate = max(rate, confidence - slack)
    for place in range(len(BETS)):
        outcomes = []
        for success in (True, False):
            test = Overconfidence(slack, 1e9)
            test.observe(confidence, success)
            outcomes.append(test.evidence[place])
            assert test.evidence[place] >= 0
        assert rate * outcomes[0] + (1 - rate) * outcomes[1] <= 1 + 1e-9


def points(rng: random.Random, count: int) -> list[tuple[float, bool, int]]:
    """Confidence, outcome, time bucket; the agent changes its ways now and then."""
    found = []
    mean, kappa, pace, honest = 0.85, 20.0, 400, True
    for _ in range(count):
        if rng.random() < 0.015:
            mean, kappa = rng.choice((0.3, 0.55, 0.85, 0.95)), rng.choice((4.0, 20.0, 200.0))
            pace, honest = rng.choice((350, 400, 500)), rng.random() < 0.7
        value = rng.betavariate(mean * kappa, (1 - mean) * kappa)
        if rng.random() < 0.003:
            value = rng.choice((0.0, 1.0))
        found.append((value, rng.random() < (value if honest else value / 2), pace + rng.randrange(40)))
    return found


def run(values: list[tuple[float, bool, int]], every: int) -> list[Anomaly]:
    """All transitions; through JSON every so many points (0: never)."""
    detectors = Detectors(SERIES, Thresholds())
    found: list[Anomaly] = []
    for index, (value, success, bucket) in enumerate(values):
        if every and index % every == 0:
            detectors = Detectors.from_json(json.loads(json.dumps(detectors.to_json())), SERIES, Thresholds())
        found += detectors.observe(value, Moment(0, index, index * 1000), success, bucket)
    return found


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from((1, 7, 90)))
def test_episodes_are_well_formed_and_restarts_change_nothing(seed: int, every: int) -> None:
    """One firing and at most one resolved per id, in that order; one episode of a type at a time; the same after any restart."""
    values = points(random.Random(seed), 700)
    found = run(values, 0)
    assert run(values, every) == found
    seen = Counter((anomaly.id, anomaly.state) for anomaly in found)
    assert max(seen.values(), default=1) == 1
    firing: dict[str, str] = {}
    for anomaly in found:
        if anomaly.state == "firing":
            assert anomaly.type not in firing
            firing[anomaly.type] = anomaly.id
        else:
            assert firing.pop(anomaly.type) == anomaly.id
        assert anomaly.details.detector
        assert anomaly.details.window


@given(st.floats(0, 1, allow_nan=False), st.booleans(), st.integers(0, 1152))
@settings(max_examples=25, deadline=None)
def test_constant_streams_bring_no_change_alarm(value: float, success: bool, bucket: int) -> None:
    """Whatever the constant: only what is wrong in itself may fire."""
    kinds = {anomaly.type for anomaly in run([(value, success, bucket)] * 1500, 0)}
    allowed: set[Any] = {"low_confidence"} if value < 0.5 else set()
    assert kinds <= (allowed if success else allowed | {"miscalibrated"})
