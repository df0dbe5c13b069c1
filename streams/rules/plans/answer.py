"""The answer of a plan and how sure it is: one step's, or what several agree on. Pure.

In: the ends of the steps and the verdict. Out: a value (JSON), a confidence, or an error when the answers cannot be put together.
Only steps that succeeded count; c is a step's confidence (1 where it has none), n how many succeeded.

| asked for | result | confidence |
|---|---|---|
| nothing: race, weighted | the winner's | the winner's |
| nothing: sequential | the last answer | min c: a chain is as sure as its weakest link |
| nothing: dag | the one last step's, where there is one only | min c |
| nothing: all, allSettled | none (see `results`) | mean of c |
| `vote` | the answer with the largest sum of c; of equals the one given first | that sum / n |
| `best` | the answer with the highest c | that c |
| `mean` | of numbers: sum(c x value) / sum(c) | mean of c |
| `merge` | objects: every field, from the surest step that has it; else the list of answers | mean of c |
"""

from __future__ import annotations

from math import fsum
from typing import Any, NamedTuple

import orjson

from schemas.exact_json import dumps, loads
from streams.rules.plans.step_graph import PlanVerdict, StepGraph


class PlanAnswer(NamedTuple):
    """A plan's own answer. `value`: JSON, None without one. `error`: why the answers could not be combined. `dropped`: it is
    the answer of a step, which was dropped from memory.
    """

    value: bytes | None = None
    confidence: float | None = None
    error: dict[str, Any] | None = None
    dropped: bool = False


class Voice(NamedTuple):
    id: str
    value: Any
    confidence: float


def outcome(graph: StepGraph, verdict: PlanVerdict) -> PlanAnswer:
    """The answer of a step graph with this verdict."""
    good = graph.successes()
    if verdict.status != "success" or not good:
        return PlanAnswer()
    confidences = [graph.confidence(n) for n in good]
    if graph.blueprint.consensus is not None:
        return _agreed(graph, good, confidences)
    if verdict.confidence == "mean":
        return PlanAnswer(None, _mean(confidences))
    if verdict.winner is None:
        return PlanAnswer(None, min(confidences))
    confidence = graph.confidence(verdict.winner) if verdict.confidence == "winner" else min(confidences)
    return _answer_of(graph, verdict.winner, confidence)


def _answer_of(graph: StepGraph, index: int, confidence: float) -> PlanAnswer:
    end = graph.ends[index]
    return PlanAnswer(confidence=confidence) if end is None else PlanAnswer(end.value, confidence, dropped=end.dropped)


def _mean(confidences: list[float]) -> float:
    return _share(fsum(confidences), len(confidences))


def _share(total: float, count: int) -> float:
    """The quotient, rounded to hide floating-point noise."""
    return round(min(1.0, total / count), 9)


def _agreed(graph: StepGraph, good: list[int], confidences: list[float]) -> PlanAnswer:
    how = graph.blueprint.consensus
    if how == "best":
        winner = graph.surest(good)
        return _answer_of(graph, winner, graph.confidence(winner))
    voices = []
    for index, confidence in zip(good, confidences, strict=True):
        end = graph.ends[index]
        if end is None or end.dropped:
            return too_large(f"metadata.consensus: {how}")
        value = None if end.value is None else loads(end.value)
        voices.append(Voice(graph.blueprint.steps[index].id, value, confidence))
    if how == "vote":
        return vote(voices)
    return mean(voices) if how == "mean" else merge(voices)


def too_large(what: str) -> PlanAnswer:
    """The answers needed for this one were dropped from memory."""
    message = f"{what}: the answers together are larger than a plan may hold"
    return PlanAnswer(error={"code": "too_large", "message": message, "retryable": False})


def _refused(code: str, message: str) -> PlanAnswer:
    return PlanAnswer(error={"code": code, "message": f"metadata.consensus: {message}", "retryable": False})


def vote(voices: list[Voice]) -> PlanAnswer:
    """The majority, each vote weighted by its confidence.

    >>> vote([Voice("a", "x", 0.9), Voice("b", "y", 0.95), Voice("c", "x", 0.3)])
    PlanAnswer(value=b'"x"', confidence=0.4, error=None)
    """
    weights: dict[bytes, list[float]] = {}
    for voice in voices:
        weights.setdefault(dumps(voice.value, orjson.OPT_SORT_KEYS), []).append(voice.confidence)
    winner = max(weights, key=lambda value: fsum(weights[value]))  # of equals the first
    given = next(v.value for v in voices if dumps(v.value, orjson.OPT_SORT_KEYS) == winner)
    return PlanAnswer(dumps(given), _share(fsum(weights[winner]), len(voices)))


def mean(voices: list[Voice]) -> PlanAnswer:
    """The mean of numbers, weighted by confidence; equally if every confidence is 0.

    >>> mean([Voice("a", 10, 0.75), Voice("b", 20, 0.25)])
    PlanAnswer(value=b'12.5', confidence=0.5, error=None)
    """
    for voice in voices:
        if isinstance(voice.value, bool) or not isinstance(voice.value, (int, float)):
            return _refused("bad_response", f"mean: the answer of {voice.id!r} is not a number")
    total = fsum(voice.confidence for voice in voices)
    weights = [voice.confidence / total if total else 1 / len(voices) for voice in voices]
    value = fsum(weight * voice.value for weight, voice in zip(weights, voices, strict=True))
    return PlanAnswer(dumps(value), _mean([voice.confidence for voice in voices]))


def merge(voices: list[Voice]) -> PlanAnswer:
    """Objects become one object, anything else a list.

    >>> merge([Voice("a", {"x": 1, "y": 1}, 0.5), Voice("b", {"y": 2}, 0.9)]).value
    b'{"x":1,"y":2}'
    """
    confidence = _mean([voice.confidence for voice in voices])
    if not all(isinstance(voice.value, dict) for voice in voices):
        return PlanAnswer(dumps([voice.value for voice in voices]), confidence)
    merged: dict[str, Any] = {}
    sure: dict[str, float] = {}
    for voice in voices:
        for name, value in voice.value.items():
            if voice.confidence > sure.get(name, -1.0):
                merged[name], sure[name] = value, voice.confidence
    return PlanAnswer(dumps(merged), confidence)
