"""A broker that allows only short transactions: a worker says so at once, in one line."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from streams.broker.kafka import TransactionsDenied, supports_transactions
from tests.conftest import SettingsFor
from tests.support.kafka import KafkaCluster

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def hasty() -> Iterator[KafkaCluster]:
    """Transactions of 30 s at most."""
    with KafkaCluster(1, {"transaction.max.timeout.ms": "30000"}) as cluster:
        yield cluster


async def test_the_limit_is_named_with_the_remedy(hasty: KafkaCluster, settings_for: SettingsFor) -> None:
    """Before the first transaction, not 140 s later."""
    with pytest.raises(TransactionsDenied, match=r"transaction\.max\.timeout\.ms of its brokers to 60000"):
        await supports_transactions(settings_for(hasty))
