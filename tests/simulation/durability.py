"""What a partition's next owner can know of an earlier one: an act is durable once a commit that began after it succeeded.

In: commits, failed commits, kills and fences as they happen. Out: whether an act may be forgotten. The product promises that only
what was under way when a worker was killed or fenced is; nothing that it did before a clean move, and nothing after a fence.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict

Partition = tuple[str, int]


class Durability:
    """Of one role's partitions. Times are simulated seconds."""

    def __init__(self) -> None:
        self._fences: dict[int, list[tuple[float, str]]] = defaultdict(list)
        self._begun: dict[Partition, list[float]] = defaultdict(list)
        self._losses: dict[Partition, list[float]] = defaultdict(list)
        self._killed: dict[str, float] = {}

    def committed(self, node: str, number: int, begun_at: float) -> None:
        """The broker has committed what a node began to commit then."""
        self._begun[node, number].append(begun_at)

    def lost(self, node: str, number: int, at: float) -> None:
        """A commit failed, or did not end in time."""
        self._losses[node, number].append(at)

    def killed(self, node: str, at: float) -> None:
        """A node ended without a word."""
        self._killed[node] = at

    def fenced(self, node: str, number: int, at: float) -> None:
        """A node has become the owner: no earlier one can commit any more."""
        self._fences[number].append((at, node))

    def owns(self, node: str, number: int, at: float) -> bool:
        """Whether the newest fence was this node's."""
        fences = self._fences[number]
        place = bisect_left(fences, (at, ""))
        return bool(place) and fences[place - 1][1] == node

    def forgotten(self, node: str, number: int, at: float) -> float | None:
        """When what a node did then was lost, if it may have been; None: its next owner must know of it."""
        fences = self._fences[number]
        place = bisect_left(fences, (at, ""))
        if not place or fences[place - 1][1] != node:
            return None  # it was no owner any more
        own_next = next((when for when, who in fences[place:] if who == node), float("inf"))
        losses = self._losses[node, number]
        lost = bisect_left(losses, at)
        end = min(losses[lost] if lost < len(losses) else float("inf"), self._killed.get(node, float("inf")))
        if end == float("inf") or end > own_next:
            return None  # it moved cleanly
        begun = self._begun[node, number]
        saved = bisect_right(begun, at)  # at one time both may have come first
        return None if saved < len(begun) and begun[saved] <= end else end
