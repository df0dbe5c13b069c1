"""Our partitioner chooses as Kafka's default one does."""

from __future__ import annotations

import pytest
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.partitioner import murmur2 as reference_murmur2
from hypothesis import given
from hypothesis import strategies as st

from schemas.partitioning import murmur2, owner_partition, partition_for

REFERENCE = DefaultPartitioner()


@given(st.binary(min_size=1, max_size=600), st.integers(1, 200))
def test_it_equals_aiokafkas_default_partitioner(key: bytes, partitions: int) -> None:
    """For any key and any number of partitions."""
    everything = list(range(partitions))
    assert partition_for(key, partitions) == REFERENCE(key, everything, everything)
    assert murmur2(key) & 0xFFFFFFFF == reference_murmur2(key) & 0xFFFFFFFF


@pytest.mark.parametrize(
    ("key", "value"),
    [
        # The vectors of Kafka's own UtilsTest.testMurmur2, as signed 32-bit numbers.
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_it_equals_the_java_client(key: bytes, value: int) -> None:
    """Known answers from the Java client."""
    assert murmur2(key) == value & 0xFFFFFFFF


@given(st.text(min_size=1, max_size=50), st.integers(1, 64))
def test_an_agents_owner_partition_is_that_of_its_id(agent_id: str, partitions: int) -> None:
    """Ids are hashed as UTF-8; surrogates cannot be in an id."""
    try:
        key = agent_id.encode()
    except UnicodeEncodeError:
        return
    assert owner_partition(agent_id, partitions) == partition_for(key, partitions)
