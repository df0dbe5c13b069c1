"""Faust's assignor, for static members that return at another address.

In: the assignment of the group's leader. Out: the same, with this worker's present address. The broker gives a static
member (`--instance-id`) the assignment it had before it went away, made for its old address. Faust takes that for a
fault, which ends its coordinator for good. `asks_again` is called then: the group must rebalance, or others keep the
old address.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from faust.assignor.client_assignment import ClientMetadata
from faust.assignor.partition_assignor import PartitionAssignor


class StatsAssignor(PartitionAssignor):
    """The assignor of one app. `asks_again`: set by the owner of the consumer."""

    asks_again: Callable[[], None] | None = None

    def on_assignment(self, assignment: Any) -> None:
        """Accept the assignment, for whichever address it was made."""
        metadata = ClientMetadata.loads(self._decompress(assignment.user_data))
        own = str(self._url)
        if metadata.url == own:
            super().on_assignment(assignment)
            return
        shared = {own if url == metadata.url else url: parts for url, parts in metadata.changelog_distribution.items()}
        here = ClientMetadata(
            assignment=metadata.assignment,
            url=own,
            changelog_distribution=shared,
            external_topic_distribution=metadata.external_topic_distribution,
            topic_groups=metadata.topic_groups,
        )
        data = self._compress(here.dumps())
        super().on_assignment(ConsumerProtocolMemberAssignment(assignment.version, assignment.assignment, data))
        if self.asks_again is not None:
            self.asks_again()
