"""Topics with different numbers of partitions: who is given what, and what is said of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata
from structlog.testing import capture_logs

from streams.engine.addresses import Addresses
from streams.engine.aligned import AlignedAssignor, PartitionCounts

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


def test_different_counts_are_told_once_with_the_remedy() -> None:
    """Again when they change; nothing when they are equal."""
    counts = PartitionCounts(TOPICS)
    uneven, more, even = (cluster(tasks=n, dispatch=m, parked=m) for n, m in ((8, 4), (9, 4), (9, 9)))
    with capture_logs() as logs:
        said = [counts.look(cast("Any", one)) for one in (uneven, uneven, more, even, cluster(tasks=3))]
    assert said == [False, False, False, True, True]
    assert [(row["partitions"]["tasks"], row["read"]) for row in logs] == [(8, 4), (9, 4)]
    assert all("parallax topics grow --partitions" in row["event"] for row in logs)
