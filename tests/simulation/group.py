"""The coordinator of one consumer group: eager rebalances, ranges, members dropped when their heartbeats stop.

In: joins, heartbeats, leaves. Out: for each member of a generation what the leader's assignor deals out, by what the leader knows
of the cluster. A static member (KIP-345) that joins takes the
place of the one that had its instance id: while the group is stable it is given the same share in the same generation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

from tests.simulation.world import World

SWEEP_S = 0.5
Deal = Callable[
    [Mapping[str, ConsumerProtocolMemberMetadata]],
    Mapping[str, ConsumerProtocolMemberAssignment],
]
"""What a member does as leader: from what the members say to their assignments."""


@dataclass(slots=True)
class _Member:
    said: ConsumerProtocolMemberMetadata
    deal: Deal
    heard_at: float
    join: Callable[[tuple[int, Any]], None] | None = None
    """Answers its join request; None once it is answered."""


class Group:
    """Times in seconds."""

    def __init__(self, world: World, session_s: float, rebalance_s: float) -> None:
        self.generation = 0
        self.owners: dict[tuple[str, int], tuple[str, float]] = {}
        """Who owns each partition, and since when."""
        self.numbers: list[tuple[float, int]] = []
        """How many partition numbers each generation dealt out, and when it began."""
        self._world = world
        self._session_s = session_s
        self._rebalance_s = rebalance_s
        self._members: dict[str, _Member] = {}
        self._shares: dict[str, Any] = {}
        self._instances: dict[str, str] = {}
        """The member of each instance id."""
        self._leader = ""
        self._preparing = False
        self._round = 0
        self._sweep()

    def join(
        self,
        member: str,
        said: ConsumerProtocolMemberMetadata,
        deal: Deal,
        reply: Callable[[tuple[int, Any]], None],
        instance: str | None = None,
    ) -> None:
        """Ask to be in the next generation; `reply` is called once it begins. `instance`: of a static member."""
        if instance is not None:
            earlier, self._instances[instance] = self._instances.get(instance, member), member
            if earlier != member and self._members.pop(earlier, None) is not None and not self._preparing:
                self._take_over(earlier, member, said, deal)
                reply((self.generation, self._shares[member]))
                return
        known = self._members.get(member)
        if known is not None and known.said == said and member != self._leader and not self._preparing:
            known.heard_at = self._world.now
            reply((self.generation, self._shares[member]))
            return
        self._members[member] = _Member(said, deal, self._world.now, reply)
        self.rebalance()
        self._complete()

    def _take_over(self, earlier: str, member: str, said: ConsumerProtocolMemberMetadata, deal: Deal) -> None:
        self._members[member] = _Member(said, deal, self._world.now)
        self._shares[member] = self._shares.pop(earlier)
        if earlier == self._leader:
            self._leader = member
        for partition in map(tuple, self._shares[member].partitions()):
            self.owners[partition] = member, self._world.now

    def rebalance(self) -> None:
        """Begin a round, unless one is under way."""
        if not self._preparing:
            self._preparing = True
            self._round += 1
            number = self._round
            self._world.at(self._rebalance_s, lambda: self._give_up_waiting(number))

    def heartbeat(self, member: str, generation: int) -> str:
        """`ok`, `rebalance` or `unknown`."""
        found = self._members.get(member)
        if found is None:
            return "unknown"
        found.heard_at = self._world.now
        return "ok" if not self._preparing and generation == self.generation else "rebalance"

    def is_taken(self, instance: str, member: str) -> bool:
        """Whether another member has this instance id."""
        other = self._instances.get(instance)
        return other is not None and other != member and other in self._members

    def knows(self, member: str, generation: int) -> bool:
        """Whether offsets of that member, sent with that generation, are taken."""
        return member in self._members and generation == self.generation

    def leave(self, member: str) -> None:
        """Drop a member; the others share what it had."""
        if self._members.pop(member, None) is not None and self._members:
            self.rebalance()
            self._complete()

    def _give_up_waiting(self, number: int) -> None:
        if self._preparing and number == self._round:
            self._members = {name: member for name, member in self._members.items() if member.join is not None}
            self._complete()

    def _complete(self) -> None:
        """Begin the generation once every member has asked for it."""
        members = self._members
        if not (self._preparing and members and all(member.join is not None for member in members.values())):
            return
        self._preparing = False
        self.generation += 1
        self._leader = min(members)
        shares = self._shares = dict(
            members[self._leader].deal({name: member.said for name, member in members.items()})
        )
        dealt = {tp.partition for share in shares.values() for tp in share.partitions()}
        self.numbers.append((self._world.now, len(dealt)))
        for name, share in shares.items():
            for partition in map(tuple, share.partitions()):
                if self.owners.get(partition, ("", 0.0))[0] != name:
                    self.owners[partition] = name, self._world.now
        for name, member in members.items():
            reply, member.join, member.heard_at = member.join, None, self._world.now
            if reply is not None:
                reply((self.generation, shares[name]))

    def _sweep(self) -> None:
        now = self._world.now
        for name, member in list(self._members.items()):
            if member.join is None and now - member.heard_at > self._session_s:
                self.leave(name)
        self._world.at(SWEEP_S, self._sweep)
