"""Reports when the consumer's position was removed from the log, and where it continues.

In: an assigned topic partition with a position. Out: a call with both offsets. aiokafka reacts to "offset out of range"
by moving to the log's beginning and only logs that itself. A gap between two records does not show it: compaction and
transactions leave gaps too. By then aiokafka has returned everything it had fetched of the partition.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition


def watch_resets(consumer: AIOKafkaConsumer, tp: TopicPartition, on_removed: Callable[[int, int], None]) -> None:
    """`on_removed(first, end)`: the log begins at `end` now, and the position was at `first`, before it.

    Valid until the partition is assigned again. Two methods of aiokafka's own partition state are wrapped, since it
    offers no callback.
    """
    subscription = getattr(consumer, "_subscription", None)
    if subscription is None:  # not an aiokafka consumer
        return
    state: Any = subscription.subscription.assignment.state_value(tp)
    kind = type(state)
    left: int | None = None

    def await_reset(strategy: int) -> None:
        nonlocal left
        left = state.position if state.has_valid_position else None
        kind.await_reset(state, strategy)

    def reset_to(position: int) -> None:
        nonlocal left
        kind.reset_to(state, position)
        first, left = left, None
        if first is not None and first < position:
            on_removed(first, position)

    state.await_reset, state.reset_to = await_reset, reset_to
