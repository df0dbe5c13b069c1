"""The rule of `make bench-check`: ratios measured within one run beside the committed ones. Times are never compared.

In: the committed table (`ratios.toml`) and measured ratios. Out: a verdict for each. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

Better = Literal["lower", "higher"]
Verdict = Literal["ok", "worse", "better", "missing", "unknown"]
FAILING: frozenset[Verdict] = frozenset({"worse", "missing", "unknown"})
"""`better` does not fail: it asks for a new committed value. `unknown`: measured, but not in the table."""


@dataclass(frozen=True)
class Bound:
    """A committed ratio. `noise`: how far equal code may be off, as a share of `value`."""

    value: float
    noise: float
    better: Better

    def judge(self, measured: float) -> Verdict:
        """Where a measured ratio lies; at the bound itself it is `ok`.

        >>> [Bound(2.0, 0.25, "lower").judge(ratio) for ratio in (1.4, 1.5, 2.5, 2.6)]
        ['better', 'ok', 'ok', 'worse']
        """
        if measured < self.value * (1 - self.noise):
            return "better" if self.better == "lower" else "worse"
        if measured > self.value * (1 + self.noise):
            return "worse" if self.better == "lower" else "better"
        return "ok"


@dataclass(frozen=True)
class Finding:
    """One ratio's verdict; `committed` or `measured` is None where there is none."""

    name: str
    verdict: Verdict
    committed: Bound | None
    measured: float | None

    @property
    def fails(self) -> bool:
        """Whether the check fails by it."""
        return self.verdict in FAILING


def read_bounds(table: Mapping[str, Any]) -> dict[str, Bound]:
    """The table of `ratios.toml`. Raises ValueError naming ratio, field and reason."""
    bounds = {}
    for name, row in table.items():
        if not isinstance(row, Mapping) or row.keys() != {"value", "noise", "better"}:
            raise ValueError(f"{name}: needs exactly value, noise and better")
        value, noise, better = row["value"], row["noise"], row["better"]
        if not _is_number(value) or value <= 0:
            raise ValueError(f"{name}: value must be a number above 0, is {value!r}")
        if not _is_number(noise) or not 0 < noise < 1:
            raise ValueError(f"{name}: noise must be a share between 0 and 1, is {noise!r}")
        if better not in ("lower", "higher"):
            raise ValueError(f"{name}: better must be lower or higher, is {better!r}")
        bounds[name] = Bound(float(value), float(noise), better)
    return bounds


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def compare(committed: Mapping[str, Bound], measured: Mapping[str, Sequence[float]]) -> list[Finding]:
    """A finding for each ratio, committed ones first. Of several rounds the median counts: one disturbed round is no regression.

    Rounds without a finite ratio are left out; a ratio without any other is `missing`.
    """
    findings = []
    for name in [*committed, *(name for name in measured if name not in committed)]:
        ratios = [ratio for ratio in measured.get(name, ()) if math.isfinite(ratio)]
        ratio = median(ratios) if ratios else None
        bound = committed.get(name)
        if bound is None:
            verdict: Verdict = "unknown"
        elif ratio is None:
            verdict = "missing"
        else:
            verdict = bound.judge(ratio)
        findings.append(Finding(name, verdict, bound, ratio))
    return findings
