"""Messages between a worker and its statistics process; see `child.py` and `process.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from streams.settings import Settings

PARENT_HEADER = "X-Parallax-Parent"
STATUS = "/internal/status"
STOP_TIMEOUT_S = 20.0
"""Longer than the processor takes at most; after that the process ends as it is."""
PAIRS = ("reported", "firing")
"""Counters by (type, severity)."""


@dataclass(frozen=True, slots=True)
class ProcessConfig:
    """The configuration of the process. `address`: the parent's, which forwards other workers' queries."""

    settings: Settings
    idempotent: bool
    address: str
    token: str


def to_json(counters: Mapping[str, Any]) -> dict[str, Any]:
    """Counters by pairs as rows.

    >>> to_json({"points": 2, "reported": {("trend", "low"): 1}})
    {'points': 2, 'reported': [['trend', 'low', 1]]}
    """
    return {
        name: [[*pair, count] for pair, count in value.items()] if name in PAIRS else value
        for name, value in counters.items()
    }


def from_json(counters: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The inverse of `to_json`.

    >>> from_json({"points": 2, "reported": [["trend", "low", 1]]})
    {'points': 2, 'reported': {('trend', 'low'): 1}}
    """
    if counters is None:
        return None
    return {
        name: {(kind, severity): count for kind, severity, count in value} if name in PAIRS else value
        for name, value in counters.items()
    }
