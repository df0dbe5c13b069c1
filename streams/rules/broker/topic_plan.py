"""What topics the pipeline wants on a broker, and the changes that lead there. Pure.

In: the table of topics, what exists, the number of partitions asked for. Out: one change a topic, and settings that
differ from the table. No change shrinks or deletes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from schemas.topics import (
    ALIGNED,
    DEFAULT_PARTITIONS,
    TOPICS,
    dead_letter_config,
    dead_letter_topics,
    full_name,
)


@dataclass(frozen=True, slots=True)
class WantedTopic:
    """The intended form of one topic. `name`: on the broker. `partitions`: None = as many as the aligned topics."""

    name: str
    partitions: int | None
    aligned: bool
    config: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class TopicChange:
    """What `apply` did. `was`: partitions before; None if the topic did not exist."""

    name: str
    action: Literal["created", "grown", "unchanged"]
    partitions: int
    was: int | None = None
    adapted: Mapping[str, tuple[str, str | None]] = field(default_factory=dict)
    """Setting -> value in the table, value that the cluster accepted (None: its default)."""


def wanted(prefix: str) -> list[WantedTopic]:
    """Every topic the pipeline needs, in the order of the table, dead letters last."""
    rows = [WantedTopic(full_name(t.name, prefix), t.partitions, t.name in ALIGNED, t.config()) for t in TOPICS]
    return rows + [
        WantedTopic(full_name(name, prefix), None, False, dead_letter_config()) for name in dead_letter_topics()
    ]


def plan(topics: list[WantedTopic], existing: Mapping[str, int], partitions: int | None) -> list[TopicChange]:
    """The changes to make; `existing`: topic -> partitions now, `partitions`: the number the user asked for.

    The aligned topics end equal, at the largest of their numbers and the one asked for. Other topics grow only when
    asked: growing moves keys to other partitions.

    >>> rows = (("p.tasks", None, True, {}), ("p.results", None, False, {}), ("p.agents", 1, False, {}))
    >>> one = [WantedTopic(*row) for row in rows]
    >>> [(c.name, c.action, c.partitions) for c in plan(one, {"p.tasks": 3}, None)]
    [('p.tasks', 'unchanged', 3), ('p.results', 'created', 3), ('p.agents', 'created', 1)]
    """
    aligned_now = [existing[topic.name] for topic in topics if topic.aligned and topic.name in existing]
    target = max([partitions or 0, *aligned_now]) or DEFAULT_PARTITIONS
    changes = []
    for topic in topics:
        want = target if topic.partitions is None else topic.partitions
        have = existing.get(topic.name)
        if have is None:
            changes.append(TopicChange(topic.name, "created", want))
        elif have < want and topic.partitions is None and (topic.aligned or partitions is not None):
            changes.append(TopicChange(topic.name, "grown", want, have))
        else:
            changes.append(TopicChange(topic.name, "unchanged", have, have))
    return changes


def differences(want: Mapping[str, str], have: Mapping[str, str]) -> dict[str, tuple[str, str | None]]:
    """The settings that differ from the wanted ones; lists such as `compact,delete` have no order.

    >>> differences({"cleanup.policy": "compact,delete", "retention.ms": "5"}, {"cleanup.policy": "delete, compact"})
    {'retention.ms': ('5', None)}
    """
    return {name: (value, have.get(name)) for name, value in want.items() if _items(value) != _items(have.get(name))}


def _items(value: str | None) -> set[str]:
    return {item.strip() for item in (value or "").split(",")}
