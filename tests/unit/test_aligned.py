"""Topics with different numbers of partitions: who is given what, and what is said of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata
from structlog.testing import capture_logs

from streams.engine.addresses import Addresses
from streams.engine.aligned import REPORT_S, AlignedAssignor, PartitionCounts

TOPICS = ["dispatch", "parked", "tasks"]


def cluster(**counts: int) -> Any:
    """One that knows these topics."""
    return SimpleNamespace(partitions_for_topic=lambda topic: set(range(counts[topic])) if topic in counts else None)


def dealt(assignor: Any, known: Any, **members: list[str]) -> dict[str, dict[str, list[int]]]:
    """Member to topic to numbers."""
    said = {name: ConsumerProtocolMemberMetadata(0, topics, b"") for name, topics in members.items()}
    return {name: dict(one.assignment) for name, one in assignor.assign(known, said).items()}


@pytest.mark.parametrize("assignor", [AlignedAssignor(), Addresses("http://a")])
@pytest.mark.parametrize("members", [1, 2, 3, 5])
def test_equal_numbers_of_all_topics_go_to_one_member(assignor: Any, members: int) -> None:
    """While `tasks` alone has grown; what the others lack is nobody's."""
    names = [f"m{n}" for n in range(members)]
    found = dealt(assignor, cluster(tasks=8, dispatch=4, parked=4), **dict.fromkeys(names, TOPICS))
    for one in found.values():
        assert len({tuple(one.get(topic, ())) for topic in TOPICS}) == 1
    assert sorted(n for one in found.values() for n in one.get("tasks", ())) == [0, 1, 2, 3]


def test_with_equal_counts_it_deals_as_the_range_assignor() -> None:
    """Members of older versions see no difference."""
    found = dealt(AlignedAssignor(), cluster(tasks=5, dispatch=5, parked=5), a=TOPICS, b=TOPICS)
    assert found["a"] == {topic: [0, 1, 2] for topic in TOPICS}
    assert found["b"] == {topic: [3, 4] for topic in TOPICS}


def test_topics_of_others_and_unknown_ones_take_nothing_away() -> None:
    """Only what is subscribed to together must be equal."""
    found = dealt(AlignedAssignor(), cluster(tasks=4, dispatch=4, other=1), a=TOPICS, b=["other"])
    assert found["a"]["tasks"] == [0, 1, 2, 3]
    assert found["b"] == {"other": [0]}


def generation(leader: Any, known: Any, **members: Any) -> list[int | None]:
    """One rebalance over the wire; what each member takes the count for."""
    said = {name: ConsumerProtocolMemberMetadata.decode(one.metadata(TOPICS).encode()) for name, one in members.items()}
    for name, told in leader.assign(known, said).items():
        members[name].on_assignment(ConsumerProtocolMemberAssignment.decode(told.encode()))
    return [getattr(one, "partitions", None) for one in members.values()]


def test_all_members_go_by_the_count_that_the_leader_deals_out() -> None:
    """Also one without a partition; of uneven topics it is what all have. An older leader does not say."""
    one, two, three = AlignedAssignor(), Addresses("http://b"), AlignedAssignor()
    assert generation(two, cluster(tasks=2, dispatch=4, parked=4), a=one, b=two, c=three) == [2, 2, 2]
    assert generation(RangePartitionAssignor, cluster(tasks=2, dispatch=2, parked=2), a=one, b=two) == [None, None]


def test_a_leader_with_old_metadata_does_not_go_back_to_fewer_partitions() -> None:
    """The others report what has grown, for as long as metadata may be old; afterwards the topics may have been made anew."""
    now = [0.0]
    one, two = (AlignedAssignor(now=lambda: now[0]) for _ in range(2))
    old, grown = (cluster(tasks=n, dispatch=n, parked=n) for n in (4, 8))
    assert generation(one, old, a=one, b=two) == [4, 4]
    assert one.metadata(TOPICS).user_data == b"", "a group that never grew says nothing"
    assert generation(one, grown, a=one, b=two) == [8, 8]
    late = AlignedAssignor(now=lambda: now[0])
    found = late.assign(old, {"b": two.metadata(TOPICS), "c": late.metadata(TOPICS)})
    assert sorted(n for share in found.values() for n in dict(share.assignment)["tasks"]) == list(range(8))
    assert generation(late, old, b=two, c=late) == [8, 8]
    now[0] = REPORT_S + 1
    assert generation(late, old, b=two, c=late) == [4, 4]


async def test_a_member_that_sees_more_partitions_says_so() -> None:
    """Beside its address; older members take no notice of it."""
    one = Addresses("http://a")
    one.report(16)
    one.report(8)
    assert one.metadata(TOPICS).user_data == b"http://a\n16"
    assert generation(one, cluster(tasks=4, dispatch=4, parked=4), a=one) == [16]
    assert one.owner(15) == "http://a"


def test_different_counts_are_told_once_with_the_remedy() -> None:
    """Again when they change; nothing when they are equal."""
    counts = PartitionCounts(TOPICS)
    uneven, more, even = (cluster(tasks=n, dispatch=m, parked=m) for n, m in ((8, 4), (9, 4), (9, 9)))
    with capture_logs() as logs:
        said = [counts.look(cast("Any", one)) for one in (uneven, uneven, more, even, cluster(tasks=3))]
    assert said == [False, False, False, True, True]
    assert [counts.common(cast("Any", one)) for one in (uneven, even, cluster(tasks=3))] == [4, 9, 0]
    assert [(row["partitions"]["tasks"], row["read"]) for row in logs] == [(8, 4), (9, 4)]
    assert all("parallax topics grow --partitions" in row["event"] for row in logs)
