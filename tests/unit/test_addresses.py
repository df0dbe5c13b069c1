"""The group's own protocol carries who owns what and where they answer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

from streams.engine.addresses import Addresses, looked_up

TOPICS = ("parallax.plans", "parallax.results")
CLUSTER: Any = SimpleNamespace(partitions_for_topic=lambda topic: {0, 1, 2, 3, 4})


class Admin:
    """A client whose broker describes the group so."""

    def __init__(self, group: dict[str, Any]) -> None:
        self.group = group
        self.closed = 0

    async def start(self) -> None:
        """Nothing to connect to."""

    async def describe_consumer_groups(self, groups: list[str]) -> list[Any]:
        """One answer, of the one coordinator."""
        assert groups == ["app-plans"]
        return [SimpleNamespace(to_object=lambda: {"groups": [self.group]})]

    async def close(self) -> None:
        """Count it."""
        self.closed += 1


def over_the_wire(assignor: Any) -> ConsumerProtocolMemberMetadata:
    """What the leader reads of a member."""
    return ConsumerProtocolMemberMetadata.decode(assignor.metadata(TOPICS).encode())


def generation(leader: Any, members: dict[str, Any]) -> dict[str, ConsumerProtocolMemberAssignment]:
    """One rebalance; everybody is told."""
    told = leader.assign(CLUSTER, {name: over_the_wire(member) for name, member in members.items()})
    decoded = {name: ConsumerProtocolMemberAssignment.decode(one.encode()) for name, one in told.items()}
    for name, member in members.items():
        member.on_assignment(decoded[name])
    return decoded


def test_every_member_is_told_where_each_owner_answers_and_partitions_fall_as_before() -> None:
    """Also the followers; the range assignor of older workers deals out the same."""
    one, two = Addresses("http://one:1"), Addresses("http://two:2")
    told = generation(two, {"a": one, "b": two})
    plain = RangePartitionAssignor.assign(CLUSTER, {"a": over_the_wire(one), "b": over_the_wire(two)})
    assert {name: found.assignment for name, found in told.items()} == {
        name: [(topic, numbers) for topic, numbers in found.assignment] for name, found in plain.items()
    }
    for member in (one, two):
        assert [member.owner(n) for n in range(6)] == ["http://one:1"] * 3 + ["http://two:2"] * 2 + [None]


def test_each_generation_forgets_the_one_before() -> None:
    """A worker that left owns nothing any more."""
    one, two = Addresses("http://one:1"), Addresses("http://two:2")
    generation(one, {"a": one, "b": two})
    generation(two, {"b": two})
    assert {two.owner(n) for n in range(5)} == {"http://two:2"}


def test_older_members_say_nothing_and_an_older_leader_tells_nothing() -> None:
    """During a rolling upgrade the owner is not known then; nothing else changes."""
    new = Addresses("http://new:1")
    generation(new, {"a": RangePartitionAssignor, "b": new})
    assert [new.owner(n) for n in range(5)] == [None, None, None, "http://new:1", "http://new:1"]
    generation(RangePartitionAssignor, {"a": RangePartitionAssignor, "b": new})
    assert {new.owner(n) for n in range(5)} == {None}


@pytest.mark.parametrize("given", [b"\xff", b"{", b"7", b'[["http://x"]]', b'[["http://x",["one"]]]', b"null"])
def test_what_is_not_readable_is_not_known(given: bytes) -> None:
    """Somebody else's user data costs the table, not the partitions."""
    one = Addresses("http://one:1")
    one.on_assignment(ConsumerProtocolMemberAssignment(0, [("parallax.plans", [0])], given))
    assert one.owner(0) is None


def test_an_address_that_is_no_text_is_left_out() -> None:
    """Too long or not UTF-8: the others are told all the same."""
    one = Addresses("http://one:1")
    members = {
        "a": over_the_wire(one),
        "b": ConsumerProtocolMemberMetadata(0, list(TOPICS), b"\xff\xfe"),
        "c": ConsumerProtocolMemberMetadata(0, list(TOPICS), b"x" * 600),
    }
    one.on_assignment(cast("Any", one.assign(CLUSTER, members))["a"])
    assert [one.owner(n) for n in range(5)] == ["http://one:1"] * 2 + [None] * 3


async def test_what_the_coordinator_tells_of_a_group_is_read_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """A member's newest address with what it was dealt; nothing while the group moves, nor of members that are not shown."""
    one, two = Addresses("http://one:1"), Addresses("http://two:2")
    told = generation(one, {"a": one, "b": two})
    two.address = "http://two:3"
    members = [
        {"member_id": name, "member_metadata": over_the_wire(member).encode(), "member_assignment": told[name].encode()}
        for name, member in (("a", one), ("b", two))
    ]
    hidden = {"member_id": "c", "member_metadata": b"", "member_assignment": b""}
    admin = Admin({"state": "Stable", "members": [*members, hidden]})
    monkeypatch.setattr("streams.engine.addresses.AIOKafkaAdminClient", lambda **_: admin)
    found = await looked_up({}, "app-plans", 5.0)
    assert [found.get(n) for n in range(5)] == ["http://one:1"] * 3 + ["http://two:3"] * 2
    admin.group = {"state": "PreparingRebalance", "members": members}
    assert await looked_up({}, "app-plans", 5.0) == {}
    assert admin.closed == 2
