"""Adds up what the demo reads from the topics. No clock, no I/O.

In: decoded records of `results`, `data-points`, `aggregates`, `anomalies` and `events`, and the labels of the rows.
Out: a line for each agent, totals, and noteworthy moments. All figures come from the topics, except whether an answer
was right: no topic has the labels.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from schemas.times import parse_time

TOPICS = ("results", "data-points", "aggregates", "anomalies", "events")
RECENT = 100
MAX_SEEN = 200_000
MAX_KEPT = 1000
CIRCUITS = {"circuit:open": "open", "circuit:half-open": "half-open", "circuit:close": "closed"}


def task_id(run: str, round_number: int, row: int, agent_id: str) -> str:
    """The id of a task for this row; `row_of` is the inverse.

    >>> row_of(task_id("demo", 0, 17, "naive-bayes"))
    17
    """
    return f"{run}.{round_number}.{row}.{agent_id}"


def row_of(name: str) -> int | None:
    """The row of one of our task ids; None for others."""
    parts = name.split(".", 3)
    return int(parts[2]) if len(parts) == 4 and parts[2].isdigit() else None


@dataclass(frozen=True, slots=True)
class BoardEvent:
    """An event to show. `at_ms`: epoch ms by the record's own time. `kind`: the event's type."""

    at_ms: int
    kind: str
    agent_id: str
    text: str


@dataclass(slots=True)
class AgentLine:
    """One agent's figures. `recent`: (right, confidence) of the newest answers."""

    answered: int = 0
    failed: int = 0
    right: int = 0
    confidence_sum: float = 0.0
    points: int = 0
    circuit: str = "closed"
    p50_ms: float | None = None
    errors: Counter[str] = field(default_factory=Counter)
    recent: deque[tuple[bool, float]] = field(default_factory=lambda: deque(maxlen=RECENT))

    @property
    def accuracy(self) -> float | None:
        """Share of answers that match the label."""
        return self.right / self.answered if self.answered else None

    @property
    def confidence(self) -> float | None:
        """Mean confidence of the answers."""
        return self.confidence_sum / self.answered if self.answered else None

    @property
    def recent_accuracy(self) -> float | None:
        """As `accuracy`, of the newest answers."""
        return fmean(right for right, _ in self.recent) if self.recent else None

    @property
    def recent_confidence(self) -> float | None:
        """As `confidence`, of the newest answers."""
        return fmean(confidence for _, confidence in self.recent) if self.recent else None


class Board:
    """All figures. `labels`: the right answer of each row; `agent_ids`: in the order of display."""

    def __init__(self, labels: Sequence[bool], agent_ids: Sequence[str]) -> None:
        self.agents = {agent_id: AgentLine() for agent_id in agent_ids}
        self.sent = 0
        self.results = 0
        self.duplicates = 0
        self.statuses: Counter[str] = Counter()
        self.records: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.anomalies: deque[dict[str, Any]] = deque(maxlen=MAX_KEPT)
        self.moments: deque[BoardEvent] = deque(maxlen=MAX_KEPT)
        self.labels = labels
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._windows: OrderedDict[tuple[Any, ...], dict[str, Any]] = OrderedDict()

    def take(self, topic: str, value: dict[str, Any]) -> BoardEvent | None:
        """Add one record; returns the moment it stands for, if any."""
        self.records[topic] += 1
        if topic == "results":
            self._result(value)
        elif topic == "data-points":
            if (line := self.agents.get(value["agentId"])) is not None:
                line.points += 1
        elif topic == "aggregates":
            self._aggregate(value)
        elif topic == "anomalies":
            self.anomalies.append(value)
        elif topic == "events":
            return self._event(value)
        return None

    def fired(self, agent_id: str) -> list[dict[str, Any]]:
        """Anomalies of an agent that fired, in order."""
        return [a for a in self.anomalies if a["agentId"] == agent_id and a["state"] == "firing"]

    @property
    def points(self) -> int:
        return sum(line.points for line in self.agents.values())

    @property
    def counted(self) -> int:
        """Data points in the minute windows."""
        return sum(window["count"] for window in self._windows.values())

    def add_moment(self, moment: BoardEvent) -> BoardEvent:
        """Add a moment of the demo's own."""
        self.moments.append(moment)
        return moment

    def _result(self, value: dict[str, Any]) -> None:
        name = value["taskId"]
        row = row_of(name)
        if row is None or row >= len(self.labels):
            return  # another user's task, on a shared Kafka
        if name in self._seen:
            self.duplicates += 1
            return
        self._seen[name] = None
        if len(self._seen) > MAX_SEEN:
            self._seen.popitem(last=False)
        self.results += 1
        self.statuses[value["status"]] += 1
        line = self.agents.get(name.split(".", 3)[3])
        if line is None:
            return
        if value["status"] != "success":
            line.failed += 1
            line.errors[value["error"]["code"]] += 1
            return
        right = value["result"]["phishing"] is self.labels[row]
        line.answered += 1
        line.right += right
        line.confidence_sum += value["confidence"]
        line.recent.append((right, value["confidence"]))

    def _aggregate(self, value: dict[str, Any]) -> None:
        line = self.agents.get(value["agentId"])
        if value["interval"] != "minute" or line is None:
            return
        key = (value["agentId"], value.get("patternName"), value["taskType"], value["windowStart"])
        known = self._windows.get(key)
        if known is None or value["count"] >= known["count"]:
            self._windows[key] = value
            line.p50_ms = value["p50ExecutionTime"]
        if len(self._windows) > MAX_KEPT:
            self._windows.popitem(last=False)

    def _event(self, value: dict[str, Any]) -> BoardEvent | None:
        kind, data = value["type"], value["data"]
        self.events[kind] += 1
        agent_id = data.get("agentId", "")
        if kind not in CIRCUITS and not kind.startswith("anomaly:"):
            return None
        if agent_id not in self.agents:
            return None
        if kind in CIRCUITS:
            self.agents[agent_id].circuit = CIRCUITS[kind]
            text = _CIRCUIT_TEXTS[kind].format(data.get("failures"))
        else:
            text = anomaly_text(data["type"], data["severity"], data["details"], over=kind == "anomaly:resolved")
        return self.add_moment(BoardEvent(parse_time(value["timestamp"]), kind, agent_id, text))


_CIRCUIT_TEXTS = {
    "circuit:open": "{} failures: no more calls, its tasks wait",
    "circuit:half-open": "the wait is over, a few calls try it",
    "circuit:close": "the calls went well: in service again",
}


def anomaly_text(kind: str, severity: str, details: dict[str, Any], over: bool = False) -> str:
    """An anomaly in one line. `over`: it is resolved.

    >>> why = {"currentConfidence": 0.5, "historicalAverage": 0.9, "detector": "recent5", "window": "last 5 points",
    ...     "threshold": 0.3}
    >>> anomaly_text("sudden_drop", "high", why)
    'sudden_drop (high): confidence 0.50, was 0.90 (recent5: last 5 points, threshold 0.3)'
    >>> anomaly_text("sudden_drop", "high", why, over=True)
    'sudden_drop: over, settled at 0.50'
    """
    current = f"{details['currentConfidence']:.2f}"
    if over:
        return f"{kind}: over, settled at {current}"
    text = f"{kind} ({severity}): confidence {current}"
    if kind == "high_variance":
        text += f", standard deviation {details['deviation']:.2f}"
    elif details.get("historicalAverage") is not None:
        text += f", was {details['historicalAverage']:.2f}"
    text += f" ({details['detector']}: {details['window']}"
    if details.get("threshold") is not None:
        text += f", threshold {details['threshold']:g}"
    return text + ")"
