"""What a partition knows when it opens: its own rows; or, where partitions were added, those of the one its keys came from."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.structs import TopicPartition
from structlog.testing import capture_logs

from schemas.codec import pack
from schemas.messages import HomeState
from schemas.partitioning import owner_partition
from streams.engine import inherited_state
from streams.engine.config import EngineConfig
from streams.engine.inherited_state import InheritedState, PartitionsMissing, Remembered
from streams.engine.kept_offsets import KeptOffsets
from streams.rules.dispatch.state_rows import belongs
from streams.rules.engine.start_offsets import KeptOffset

AT = "2026-11-30T00:00:00.000Z"
KEPT = KeptOffsets("app-dispatch", "state", lambda: 1_700_000_000_000)


def heads(*counts: int) -> dict[bytes, bytes]:
    """The row of a partition that was open under these counts; none: under one that an older version did not record."""
    output = KEPT.record(0, {"tasks": KeptOffset(4)}, counts)
    return {output.key or b"": output.value or b""}


def guard(agent: str, mark: int = 0) -> dict[bytes, bytes]:
    """What is known of an agent; `mark` tells rows apart."""
    known = {"agentId": agent, "breaker": {"state": "closed", "successes": mark}, "limiter": {"log": []}}
    return {f"app/agent/{agent}".encode(): pack({"app": "app", "at": AT, "guard": known})}


def answer(agent: str, slot: int) -> dict[bytes, bytes]:
    """A cached answer of an agent."""
    kept = {"slot": slot, "key": "k", "agentId": agent, "confidence": 1.0, "value": 1, "expires": AT}
    return {f"app/answer/{slot}".encode(): pack({"app": "app", "at": AT, "answer": kept})}


SEEN = {b"app/seen/0": pack({"app": "app", "at": AT, "seen": {"sequence": 0, "digests": ""}})}
FOREIGN = {b"other/seen/0": b"{}", b"app/unknown/0": b"{}"}


def agent_of(number: int, count: int) -> str:
    """An agent that belongs there."""
    return next(name for name in (f"a{n}" for n in range(10_000)) if owner_partition(name, count) == number)


class Rig:
    """The state topic as it is, and what was asked, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, rows: Mapping[int, dict[bytes, bytes]], known: int = 0) -> None:
        """`known`: how many partitions the brokers say there are."""
        self.rows = rows
        self.asked: list[str] = []
        config = EngineConfig({}, "t.", "app-dispatch", ("tasks",), None, 6.0, 100, 1.0, 1.0, "state", True,
                              belongs=partial(belongs, "app"))  # fmt: skip
        self.state = InheritedState(config=config, state="state", reader=self, kept=KEPT)
        cluster = SimpleNamespace(partitions_for_topic=lambda topic: set(range(known)))

        async def fetched() -> Any:
            return cluster

        self.consumer: Any = SimpleNamespace(
            end_offsets=self._ends, _client=SimpleNamespace(fetch_all_metadata=fetched)
        )
        monkeypatch.setattr(inherited_state, "committed_offsets", self._committed)

    async def _committed(self, consumer: Any, tps: list[TopicPartition]) -> dict[Any, Any]:
        self.asked.append(f"offsets of {sorted({tp.partition for tp in tps})}")
        return {}

    async def _ends(self, tps: list[TopicPartition]) -> dict[TopicPartition, int]:
        return {tp: len(self.rows.get(tp.partition, ())) for tp in tps}

    async def read(self, number: int) -> list[bytes]:
        """Own rows."""
        self.asked.append(f"own rows of {number}")
        return list(self.rows.get(number, {}).values())

    async def read_rows(self, number: int) -> dict[bytes, bytes]:
        """Another's."""
        self.asked.append(f"rows of {number}")
        return dict(self.rows.get(number, {}))

    async def of(self, number: int, count: int) -> Remembered:
        """What a number knows under a count."""
        return await self.state.read(number, count, self.consumer)


async def test_an_added_partition_takes_over_what_belongs_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """All answered ids; of guards and answers its agents' alone. Copies go to its own partition, under the same keys."""
    mine, theirs = agent_of(9, 16), agent_of(1, 16)
    rows = heads(8) | SEEN | guard(mine) | guard(theirs) | answer(mine, 0) | answer(theirs, 1) | FOREIGN
    found = await Rig(monkeypatch, {1: rows}).of(9, 16)
    taken = SEEN | guard(mine) | answer(mine, 0)
    assert {output.key: output.value for output in found.inherited} == taken
    assert {(output.topic, output.partition) for output in found.inherited} == {("state", 9)}
    assert found.values == list(taken.values())
    assert (found.counts, found.is_new, found.is_added) == ([16], True, True)


async def test_what_an_earlier_owner_is_about_to_commit_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The offsets of a transaction that is not over are asked for before the rows it may still write are read."""
    rig = Rig(monkeypatch, {1: heads(8) | SEEN})
    await rig.of(9, 16)
    assert rig.asked == ["own rows of 9", "offsets of [0, 1]", "rows of 1"]


async def test_one_that_was_open_takes_nothing_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under this count, or under an earlier one of which it kept its own share; also where an older version wrote its rows."""
    rig = Rig(monkeypatch, {1: heads(8, 16), 2: heads(8), 3: heads()})
    assert [(await rig.of(number, 16))[1:] for number in (1, 2, 3)] == [
        ([8, 16], False, False, []),
        ([8, 16], True, False, []),
        ([0, 16], True, False, []),
    ]
    assert not any(asked.startswith(("rows", "offsets")) for asked in rig.asked)


async def test_of_several_growths_the_last_one_that_was_open_is_the_ancestor(monkeypatch: pytest.MonkeyPatch) -> None:
    """9 of 16 if it was open then; else 1 of 8, though 9 of 32 is open already."""
    mine = agent_of(25, 32)
    both = {1: heads(8) | guard(mine, 1), 9: heads(16, 32) | guard(mine, 2)}
    assert (await Rig(monkeypatch, both).of(25, 32)).values == list(guard(mine, 2).values())
    skipped = {1: heads(8, 32) | guard(mine, 1), 9: heads(32) | guard(mine, 2)}
    assert (await Rig(monkeypatch, skipped).of(25, 32)).values == list(guard(mine, 1).values())
    unrecorded = {1: heads() | guard(mine, 1), 9: heads() | guard(mine, 2)}
    assert (await Rig(monkeypatch, unrecorded).of(25, 32)).values == list(guard(mine, 2).values())


async def test_a_new_installation_reads_no_other_partition(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing was ever written."""
    rig = Rig(monkeypatch, {})
    assert await rig.of(7, 8) == Remembered([], [8], True, False, [])
    assert not any(asked.startswith("rows") for asked in rig.asked)


async def test_a_number_that_is_no_multiple_is_logged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By partition 0; nothing is taken over from a partition that held other keys."""
    rig = Rig(monkeypatch, {n: heads(8) | SEEN for n in range(8)})
    with capture_logs() as logs:
        found = [await rig.of(number, 12) for number in range(12)]
    assert [(row["partitions"], row["before"]) for row in logs] == [(12, 8)]
    assert not any(one.inherited for one in found)


async def test_fewer_partitions_than_before_wait_for_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its leader did not know better. If the brokers have no more either, the topics were made anew."""
    rows = {3: heads(8, 16)}
    with pytest.raises(PartitionsMissing, match="more than the 8 partitions"):
        await Rig(monkeypatch, rows, known=16).of(3, 8)
    assert (await Rig(monkeypatch, rows, known=8).of(3, 8)).counts == [16, 8]


def test_counts_are_a_message_of_the_topic() -> None:
    """And come back; an older version's row says that it was open."""
    [value] = heads(8, 16).values()
    assert HomeState.model_validate_json(value).heads is not None
    assert (KEPT.counts([value]), KEPT.counts(heads().values()), KEPT.counts(SEEN.values())) == ([8, 16], [0], [])
