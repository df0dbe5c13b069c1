"""Confidence from log-probabilities, agreement and class probabilities."""

from __future__ import annotations

from math import exp, log
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents_io import from_agreement, from_logprobs, from_proba


@given(st.lists(st.floats(min_value=1e-6, max_value=1.0), min_size=1, max_size=50))
def test_the_mean_lies_between_the_least_and_the_most_likely_token(probabilities: list[float]) -> None:
    logprobs = [log(p) for p in probabilities]
    mean, least = from_logprobs(logprobs), from_logprobs(logprobs, how="min")
    assert least == pytest.approx(min(probabilities))
    assert least - 1e-9 <= mean <= max(probabilities) + 1e-9


def test_tokens_as_apis_return_them() -> None:
    tokens = [SimpleNamespace(logprob=-0.5), {"logprob": -1.5}]
    assert from_logprobs(tokens) == pytest.approx(exp(-1))
    assert from_logprobs([float("-inf")]) == 0.0
    for bad in ([], [0.5], ["x"], [float("nan")], [True], [{"token": "x"}]):
        with pytest.raises(ValueError, match="logprobs"):
            from_logprobs(bad)


def test_agreement_counts_votes_and_few_samples_prove_little() -> None:
    assert from_agreement(["a"])[1] == pytest.approx(2 / 3)
    assert from_agreement([{"x": 1, "y": 2}, {"y": 2, "x": 1}, {"x": 2}]) == ({"x": 1, "y": 2}, 0.6)
    assert from_agreement(["yes"] * 10)[1] > from_agreement(["yes"] * 3)[1]
    with pytest.raises(ValueError, match="empty"):
        from_agreement([])


def test_a_classifier_row() -> None:
    class Array:
        def __init__(self, rows: object) -> None:
            self._rows = rows

        def tolist(self) -> object:
            return self._rows

    assert from_proba(Array([[0.1, 0.9]]), Array(["ham", "spam"])) == ("spam", 0.9)
    for bad in ([[0.1, 0.9], [0.5, 0.5]], [], [1.5], ["x"], [float("nan")]):
        with pytest.raises(ValueError, match="probabilities"):
            from_proba(bad)
    with pytest.raises(ValueError, match="classes"):
        from_proba([0.5, 0.5], ["one"])
