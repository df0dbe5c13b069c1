"""The requests that aiokafka lacks, as they go over the wire: each against bytes of the protocol's own form."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import IncompatibleBrokerVersion
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from streams.broker.access import _GroupRights, _TopicRights
from streams.engine.group_offsets import _StableOffsetsRequest
from streams.engine.instance_name import _NamedHeartbeat
from streams.engine.log_identity import _EpochEndRequest, _MetadataRequest
from streams.engine.member_offsets import MemberOffsets
from streams.engine.membership import Membership
from streams.engine.open_transactions import _DescribeTransactions, _ListTransactions

TP = TopicPartition("t", 1)
MANAGER = SimpleNamespace(transactional_id="x", producer_id=7, producer_epoch=2)

REQUESTS: dict[str, tuple[Any, int, int, bool, str]] = {
    "committed offsets": (_StableOffsetsRequest("g", [TP]), 9, 7, True, "02670202740200000001000100"),
    "offsets of a member": (
        MemberOffsets(
            manager=MANAGER, group="g", member=Membership(3, "m", "i"), offsets={TP: OffsetAndMetadata(5, "é")}
        ),
        28,
        3,
        True,
        "027802670000000000000007000200000003026d026902027402000000010000000000000005ffffffff03c3a9000000",
    ),
    "heartbeat": (
        _NamedHeartbeat(group="g", generation=1, member_id="m", instance_id="i"),
        12,
        3,
        False,
        "0001670000000100016d000169",
    ),
    "metadata": (_MetadataRequest(["t"]), 3, 12, True, "0200000000000000000000000000000000027400000000"),
    "end of an epoch": (_EpochEndRequest({TP: 4}), 23, 2, False, "000000010001740000000100000001ffffffff00000004"),
    "open transactions": (_ListTransactions(), 66, 0, True, "02084f6e676f696e670100"),
    "a transaction": (_DescribeTransactions(["x"]), 65, 0, True, "02027800"),
    "rights on topics": (_TopicRights(["t"]), 3, 8, False, "00000001000174000001"),
    "rights on a group": (_GroupRights("g"), 15, 3, False, "0000000100016701"),
}
"""Name: request, API key, version, whether the version is flexible, its body in hexadecimal."""


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_has_the_bytes_of_its_version(name: str) -> None:
    request, key, version, is_flexible, body = REQUESTS[name]
    struct = request.prepare({key: (0, 99)})
    assert (key, version, is_flexible) == (struct.API_KEY, struct.API_VERSION, struct.FLEXIBLE_VERSION)
    assert struct.encode().hex() == body
    answer = struct.RESPONSE_TYPE
    assert (key, version) == (answer.API_KEY, answer.API_VERSION)


def test_an_answer_is_read_row_by_row_with_its_tags() -> None:
    answer = REQUESTS["committed offsets"][0].prepare({9: (0, 7)}).RESPONSE_TYPE
    rows = [("t", [(1, 40, 3, "map", 0, {})], {})]
    found = answer.decode(answer(0, rows, 0, {}).encode())
    assert (found.topics, found.error_code) == (rows, 0)


def test_a_broker_without_the_request_is_not_asked() -> None:
    with pytest.raises(IncompatibleBrokerVersion):
        REQUESTS["open transactions"][0].prepare({})
    with pytest.raises(NotImplementedError):
        REQUESTS["metadata"][0].prepare({3: (0, 8)})
