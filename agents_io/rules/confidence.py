"""Confidence in [0, 1] from token log-probabilities, agreement of answers, or class probabilities. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from math import exp, fsum, isfinite
from typing import Any, Literal, TypeVar

import orjson

from schemas.exact_json import dumps

A = TypeVar("A")


def from_logprobs(logprobs: Iterable[Any], *, how: Literal["mean", "min"] = "mean") -> float:
    """Confidence of generated text: the geometric mean probability of its tokens, or that of its least likely token.

    `logprobs`: natural logarithms, or items with a `logprob` as OpenAI-compatible APIs return them. Raises ValueError when empty
    or not a log-probability.

    >>> round(from_logprobs([-0.1, -0.3]), 3), round(from_logprobs([{"logprob": -0.1}, {"logprob": -0.3}], how="min"), 3)
    (0.819, 0.741)
    """
    found = [_logprob(one) for one in logprobs]
    if not found:
        raise ValueError("logprobs: is empty; ask the model for them (logprobs=True)")
    return _ratio(exp(min(found) if how == "min" else fsum(found) / len(found)))


def _logprob(one: Any) -> float:
    value = one.get("logprob") if isinstance(one, dict) else getattr(one, "logprob", one)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value or value > 1e-6:
        raise ValueError(f"logprobs: {value!r} is not a log-probability")
    return max(float(value), -1e6)  # some APIs send -inf, or -9999, for impossible tokens


def from_agreement(answers: Sequence[A]) -> tuple[A, float]:
    """The most frequent of k sample answers, with confidence (n + 1) / (k + 2), n of them equal: one sample proves
    little, ten that agree much.

    Answers are compared as JSON; text without case and outer blanks. Raises ValueError when empty.

    >>> from_agreement(["Paris", "paris ", "Lyon"])
    ('Paris', 0.6)
    """
    if not answers:
        raise ValueError("answers: is empty")
    place, votes = agreed(answers)
    return answers[place], (votes + 1) / (len(answers) + 2)


def agreed(answers: Sequence[Any]) -> tuple[int, int]:
    """Index of the most frequent answer, and how many equal it; of several such, the first. `answers` must not be
    empty.

    >>> agreed(["Lyon", "Paris", "paris"])
    (1, 2)
    """
    keys = [_key(answer) for answer in answers]
    winner, votes = Counter(keys).most_common(1)[0]
    return keys.index(winner), votes


def _key(answer: Any) -> Hashable:
    if isinstance(answer, str):
        return answer.strip().casefold()
    return dumps(answer, orjson.OPT_SORT_KEYS, repr)


def from_proba(probabilities: Any, classes: Sequence[A] | Any = None) -> tuple[A | int, float]:
    """The most likely class and its probability, from one row of a classifier's `predict_proba`.

    `classes`: the classifier's `classes_`; without them a class is its index. Raises ValueError: not one row of
    probabilities.

    >>> from_proba([[0.2, 0.8]], ["ham", "spam"]), from_proba([0.7, 0.3])
    (('spam', 0.8), (0, 0.7))
    """
    row = probabilities.tolist() if hasattr(probabilities, "tolist") else list(probabilities)
    if row and isinstance(row[0], (list, tuple)):
        if len(row) != 1:
            raise ValueError(f"probabilities: must be one row, not {len(row)}")
        row = list(row[0])
    if not row or any(
        not isinstance(one, (int, float)) or not isfinite(one) or not -1e-6 <= one <= 1 + 1e-6 for one in row
    ):
        raise ValueError("probabilities: must be numbers between 0 and 1")
    place = max(range(len(row)), key=row.__getitem__)
    if classes is None:
        return place, _ratio(row[place])
    names = classes.tolist() if hasattr(classes, "tolist") else list(classes)
    if len(names) != len(row):
        raise ValueError(f"classes: there are {len(names)}, but {len(row)} probabilities")
    return names[place], _ratio(row[place])


def _ratio(value: float) -> float:
    return min(1.0, max(0.0, float(value)))
