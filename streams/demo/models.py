"""Three classifiers that recognise phishing sites, and the degradation of one of them.

In: rows of river's Phishing data set (1,250 sites, nine features of 0, 0.5 or 1, a label). Out: a label and the model's
own probability for it. The first rows are learnt, the others are the demo's tasks. Nothing is scripted: a degraded
agent loses its inputs, and its model decides what that does to label and confidence.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from river import datasets, forest, linear_model, naive_bayes, preprocessing

_GAUSSIAN_NB: Any = naive_bayes.GaussianNB  # untyped

Features = dict[str, float]
Row = tuple[Features, bool]
Condition = Literal["healthy", "degraded", "failing"]

TRAINING_ROWS = 400
NEUTRAL = 0.5
"""The data set's own value for "unknown": a failed lookup leaves it in place of the feature."""
RAMP = 80
"""A degraded agent has lost all its lookups after this many answers."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One of the models. `key`: on the command line; `agent_id`: on the topics."""

    key: str
    agent_id: str
    title: str
    build: Callable[[], Any]


KINDS: dict[str, Kind] = {
    kind.key: kind
    for kind in (
        Kind(
            "LR",
            "logistic-regression",
            "logistic regression",
            lambda: preprocessing.StandardScaler() | linear_model.LogisticRegression(),
        ),
        Kind("NB", "naive-bayes", "Gaussian naive Bayes", lambda: _GAUSSIAN_NB()),
        Kind("RF", "random-forest", "adaptive random forest", lambda: forest.ARFClassifier(n_models=10, seed=1)),
    )
}
BAD_AGENT = KINDS["NB"].agent_id


def rows() -> list[Row]:
    """The whole data set, in its own order: features and whether the site is phishing."""
    return [({name: float(value) for name, value in x.items()}, bool(y)) for x, y in datasets.Phishing()]


def split(data: Sequence[Row], training: int = TRAINING_ROWS) -> tuple[list[Row], list[Row]]:
    """The rows to learn from, and the unseen ones."""
    return list(data[:training]), list(data[training:])


class Classifier:
    """A trained model."""

    def __init__(self, kind: Kind, training: Sequence[Row]) -> None:
        self.kind = kind
        self._model = kind.build()
        for features, label in training:
            self._model.learn_one(features, label)

    def answer(self, features: Mapping[str, float]) -> tuple[bool, float]:
        """The likelier label and the model's probability for it, in [0.5, 1]."""
        chances = self._model.predict_proba_one(dict(features))
        yes = min(max(float(chances.get(True, 0.0)), 0.0), 1.0)
        return (True, yes) if yes >= 0.5 else (False, 1.0 - yes)


@dataclass(slots=True)
class Sight:
    """What an agent sees of its input. Degraded, each feature's lookup fails with a probability that grows to 1.

    >>> sight = Sight(random.Random(1))
    >>> sight.see({"https": 1.0})
    {'https': 1.0}
    >>> sight.turn("degraded")
    >>> [sight.see({"https": 1.0})["https"] for _ in range(RAMP + 1)][-1]
    0.5
    """

    rng: random.Random
    condition: Condition = "healthy"
    ramp: int = RAMP
    _seen: int = field(default=0, init=False)

    def turn(self, condition: Condition) -> None:
        """Set the condition; a degradation starts from its beginning."""
        self.condition = condition
        self._seen = 0

    def see(self, features: Mapping[str, float]) -> Features:
        """The features that the model gets."""
        if self.condition == "healthy":
            return dict(features)
        self._seen += 1
        lost = min(1.0, self._seen / self.ramp)
        return {name: NEUTRAL if self.rng.random() < lost else value for name, value in features.items()}
