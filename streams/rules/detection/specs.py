"""Which detectors a user has chosen besides the default ones: parsed and checked without importing river. Pure.

In: settings (`stats.detectors`) or a registration's `metadata.detectors`. Out: `DetectorSpec`s, or ValueError naming the field.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from streams.rules.detection.port import Kind

MAX_DETECTORS = 16
"""Detectors of one registration, or of the settings."""
MAX_NAME = 100
Value = float | int | str

Range = tuple[float, float] | tuple[str, ...]
"""For a number: lowest and highest; for a text: every allowed one."""


@dataclass(frozen=True, slots=True)
class Known:
    """A detector that can be chosen: parameters with their ranges, and its filter's defaults."""

    kind: Kind
    parameters: Mapping[str, Range]
    integers: frozenset[str] = frozenset()
    quantile: float | None = None
    multivariate: bool = False


_NATURAL = (1, 1000)
CATALOGUE: dict[str, Known] = {
    "river.drift.ADWIN": Known(
        "drift",
        {
            "delta": (1e-12, 1),
            "clock": _NATURAL,
            "max_buckets": (1, 50),
            "min_window_length": _NATURAL,
            "grace_period": (0, 1000),
        },
        frozenset({"clock", "max_buckets", "min_window_length", "grace_period"}),
    ),
    "river.drift.PageHinkley": Known(
        "drift",
        {
            "min_instances": (1, 250),
            "delta": (0, 1),
            "threshold": (1e-6, 1e6),
            "alpha": (0.5, 1),
            "mode": ("up", "down", "both"),
        },
        frozenset({"min_instances"}),
    ),
    "river.drift.KSWIN": Known(
        "drift",
        {"alpha": (1e-12, 0.5), "window_size": (20, 250), "stat_size": (5, 100), "seed": (0, 2**31)},
        frozenset({"window_size", "stat_size", "seed"}),
    ),
    "river.anomaly.GaussianScorer": Known(
        "anomaly",
        {"window_size": (10, 250), "grace_period": (1, 250)},
        frozenset({"window_size", "grace_period"}),
        0.999,
    ),
    "river.anomaly.StandardAbsoluteDeviation": Known("anomaly", {}, quantile=0.999),
    "river.anomaly.HalfSpaceTrees": Known(
        "anomaly",
        {"n_trees": (1, 25), "height": (2, 8), "window_size": (20, 250), "seed": (0, 2**31)},
        frozenset({"n_trees", "height", "window_size", "seed"}),
        0.995,
        multivariate=True,
    ),
    "river.anomaly.OneClassSVM": Known(
        "anomaly", {"nu": (1e-3, 0.99), "intercept_lr": (1e-6, 1)}, quantile=0.999, multivariate=True
    ),
    "parallax.RankTest": Known("drift", {"run_length": (100, 1e9)}),
}
"""LocalOutlierFactor is missing: 1.4 ms a point, 90 times the budget of the whole default set. The ranges bound the state."""


@dataclass(frozen=True, slots=True)
class DetectorSpec:
    """One detector that a user chose. `agent`, `pattern`: whose points it sees; None: all.

    `threshold`, `quantile`: of river's ThresholdFilter or QuantileFilter, for detectors that only give scores.
    """

    name: str
    use: str
    parameters: tuple[tuple[str, Value], ...] = ()
    agent: str | None = None
    pattern: str | None = None
    threshold: float | None = None
    quantile: float | None = None

    @property
    def known(self) -> Known:
        """Its entry in the catalogue."""
        return CATALOGUE[self.use]

    def concerns(self, agent_id: str, pattern_name: str) -> bool:
        """Whether it is for this series."""
        return self.agent in (None, agent_id) and self.pattern in (None, pattern_name)

    def shown(self) -> dict[str, Value]:
        """The parameters that an anomaly shows."""
        found: dict[str, Value] = {"name": self.name, **dict(self.parameters)}
        if self.threshold is not None:
            found["threshold"] = self.threshold
        if self.quantile is not None:
            found["quantile"] = self.quantile
        return found

    def to_json(self) -> list[Any]:
        """A JSON-able form that differs for different specs."""
        return [self.name, self.use, [list(pair) for pair in self.parameters], self.threshold, self.quantile]


def parse_spec(name: str, value: object) -> DetectorSpec:
    """One detector: the name of a class, or a table with `use`. Raises ValueError naming the field.

    >>> parse_spec("x", "river.drift.ADWIN").use, parse_spec("x", {"use": "river.drift.ADWIN", "agent": "a"}).agent
    ('river.drift.ADWIN', 'a')
    >>> parse_spec("x", {"use": "river.drift.ADWIN", "parameters": {"delta": -1}})
    Traceback (most recent call last):
    ...
    ValueError: x.parameters.delta: must be between 1e-12 and 1, not -1
    """
    if not 0 < len(name) <= MAX_NAME or "/" in name:
        raise ValueError(f"{name[:40]!r}: a detector's name has 1 to {MAX_NAME} characters, without '/'")
    table: Any = {"use": value} if isinstance(value, str) else value
    if not isinstance(table, Mapping):
        raise ValueError(f"{name}: must be a class name or a table with `use`")
    unknown = sorted(set(map(str, table)) - {"use", "parameters", "agent", "pattern", "threshold", "quantile"})
    if unknown:
        raise ValueError(
            f"{name}.{unknown[0]}: unknown field; known: use, parameters, agent, pattern, threshold, quantile"
        )
    use = table.get("use")
    known = CATALOGUE.get(use) if isinstance(use, str) else None
    if known is None:
        raise ValueError(f"{name}.use: {use!r} is not one of {', '.join(CATALOGUE)}")
    threshold, quantile = _filter(name, table, known)
    return DetectorSpec(
        name,
        str(use),
        tuple(sorted(_parameters(name, table.get("parameters", {}), known).items())),
        _text(name, table, "agent"),
        _text(name, table, "pattern"),
        threshold,
        quantile,
    )


def _filter(name: str, table: Mapping[str, Any], known: Known) -> tuple[float | None, float | None]:
    threshold, quantile = table.get("threshold"), table.get("quantile")
    if known.kind == "drift":
        if threshold is not None or quantile is not None:
            field = "threshold" if threshold is not None else "quantile"
            raise ValueError(f"{name}.{field}: only for detectors of river.anomaly; a drift detector decides itself")
        return None, None
    if threshold is not None and quantile is not None:
        raise ValueError(f"{name}.threshold: give either threshold or quantile")
    if threshold is not None:
        return float(_number(f"{name}.threshold", threshold, -1e9, 1e9)), None
    chosen = known.quantile if quantile is None else quantile
    return None, float(_number(f"{name}.quantile", chosen, 0.5, 0.99999))


def _parameters(name: str, given: object, known: Known) -> dict[str, Value]:
    if not isinstance(given, Mapping):
        raise ValueError(f"{name}.parameters: must be a table")
    found: dict[str, Value] = {}
    for key, value in given.items():
        field = f"{name}.parameters.{key}"
        limits = known.parameters.get(key)
        if limits is None:
            names = ", ".join(known.parameters) or "none"
            raise ValueError(f"{field}: unknown parameter; known: {names}")
        if isinstance(limits[0], str):
            if value not in limits:
                raise ValueError(f"{field}: must be one of {', '.join(map(str, limits))}")
            found[key] = value
            continue
        number = _number(field, value, float(limits[0]), float(limits[1]))
        if key in known.integers:
            if number != int(number):
                raise ValueError(f"{field}: must be a whole number")
            number = int(number)
        found[key] = number
    if known is CATALOGUE["river.drift.KSWIN"]:
        window, size = found.get("window_size", 100), found.get("stat_size", 30)
        if int(size) * 2 >= int(window):
            raise ValueError(f"{name}.parameters.stat_size: must be less than half of window_size ({window})")
    return found


def _number(field: str, value: object, low: float, high: float) -> float | int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"{field}: must be between {low:g} and {high:g}, not {value!r:.40}")
    return value


def _text(name: str, table: Mapping[str, Any], field: str) -> str | None:
    value = table.get(field)
    if value is not None and not (isinstance(value, str) and value):
        raise ValueError(f"{name}.{field}: must be a name")
    return value


def parse_specs(value: object) -> tuple[DetectorSpec, ...]:
    """Several: a table of names, or a list of class names and tables (named by position). Text is read as JSON.

    >>> [spec.name for spec in parse_specs(["river.drift.ADWIN", {"use": "river.drift.KSWIN"}])]
    ['river.drift.ADWIN', 'river.drift.KSWIN']
    """
    if value is None:
        return ()
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError('detectors: must be a table like {"NAME": {"use": "river.drift.ADWIN"}}') from None
    if isinstance(value, Mapping):
        pairs = [(str(name), table) for name, table in value.items()]
    elif isinstance(value, list | tuple):
        pairs = [(_listed_name(index, table), table) for index, table in enumerate(value)]
    else:
        raise ValueError("detectors: must be a table of detectors by name, or a list")
    if len(pairs) > MAX_DETECTORS:
        raise ValueError(f"detectors: {len(pairs)} of them, at most {MAX_DETECTORS}")
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError("detectors: two have the same name; write a table of names instead of a list")
    return tuple(parse_spec(name, table) for name, table in pairs)


def _listed_name(index: int, table: object) -> str:
    use = table.get("use") if isinstance(table, Mapping) else table
    return use if isinstance(use, str) and use else str(index)
