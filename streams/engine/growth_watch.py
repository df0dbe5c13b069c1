"""Notices partitions that were added to all topics of a group, and asks the group to rebalance.

In: what the consumer knows of its topics. Out: the number of partition numbers of a generation, and a request for the
next one. aiokafka's leader would ask by itself, unless it came back under its instance id: then no member watches.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from aiokafka import AIOKafkaConsumer

from streams.engine.aligned import AlignedAssignor, PartitionCounts

log = structlog.get_logger(__name__)

CHECK_S = 5.0
PATIENCE_S = 60.0
"""How long the group may take to assign added partitions before it is asked again."""


class GrowthWatch:
    """Watches the topics of one group. `dealt_out`: the number of partition numbers that the group's leader decided for
    this generation; 0: none was assigned yet.
    """

    def __init__(self, topics: Sequence[str], assignor: AlignedAssignor) -> None:
        """`topics`: their names on the broker."""
        self.dealt_out = 0
        self._assignor = assignor
        self._counts = PartitionCounts(topics)
        self._check_at = 0.0

    def assigned(self, consumer: AIOKafkaConsumer) -> None:
        """A new generation has begun."""
        self._counts.look(consumer)
        # A leader of an older version does not say how many there are.
        self.dealt_out = self._assignor.partitions or self._counts.common(consumer)
        self._check_at = 0.0

    def check(self, consumer: AIOKafkaConsumer, now: float) -> None:
        """Request a new generation once all topics have more partitions than were assigned. `now`: loop time,
        seconds.
        """
        if now < self._check_at:
            return
        self._check_at = now + CHECK_S
        count = self._counts.common(consumer)
        if count > self.dealt_out:
            log.info("partitions were added; asking the group to rebalance", partitions=count, before=self.dealt_out)
            self._check_at = now + PATIENCE_S
            self._assignor.report(count)
            consumer._coordinator.request_rejoin()
