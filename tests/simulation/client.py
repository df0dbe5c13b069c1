"""The client below a consumer: metadata, topic ids and leader epochs, as `streams.engine.log_identity` asks for them.

In: requests of the product, by the names of their classes. Out: answers in the shape of the protocol's.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from aiokafka.errors import UnknownMemberIdError

from streams.engine.group_offsets import UNSTABLE
from streams.engine.membership import FENCED_INSTANCE_ID
from tests.simulation.broker import Broker
from tests.simulation.network import Endpoint, Network

LEADER = 0


class Client(Endpoint, Protocol):
    """What the simulated clients need of their node."""

    name: str
    network: Network
    broker: Broker
    metadata: dict[str, int]
    """Partitions by topic, as this node knows them."""


class Answer(NamedTuple):
    """An answer: its rows are all that anybody reads of it, beside an error."""

    topics: list[Any]
    error_code: int = 0


class Transactions(NamedTuple):
    """What a broker says of transactions."""

    transactions: list[Any]
    error_code: int = 0


class SimBroker(NamedTuple):
    """As the cluster's metadata name it."""

    nodeId: int


class SimCluster:
    """A node's view of the cluster."""

    def __init__(self, node: Client) -> None:
        self._node = node

    def topics(self) -> set[str]:
        """Every topic it knows."""
        return set(self._node.metadata)

    def partitions_for_topic(self, topic: str) -> set[int]:
        """Of a topic it knows; else none."""
        return set(range(self._node.metadata.get(topic, 0)))

    def brokers(self) -> set[SimBroker]:
        """There is one."""
        return {SimBroker(LEADER)}

    def leader_for_partition(self, _partition: object) -> int:
        """There is one broker."""
        return LEADER


class SimClient:
    """Of one consumer."""

    def __init__(self, node: Client) -> None:
        self._node = node
        self.cluster = SimCluster(node)

    def get_random_node(self) -> int:
        """There is one broker."""
        return LEADER

    def force_metadata_update(self) -> None:
        """They are refreshed when the world says."""

    async def add_topic(self, topic: str) -> None:
        """Every topic is known."""

    async def fetch_all_metadata(self) -> SimCluster:
        """Ask the broker."""
        counts = await self._node.network.request(self._node, lambda: dict(self._node.broker.counts))
        self._node.metadata.update(counts)
        return self.cluster

    async def send(self, _node_id: int, request: Any, group: int = 0) -> Any:
        """Raises `KafkaConnectionError`, `RequestTimedOutError`; `NotImplementedError` for what no broker here can do."""
        broker = self._node.broker
        name = type(request).__name__
        if name == "_MetadataRequest":
            topics = sorted(request.topics)
            found = await self._node.network.request(self._node, lambda: [_topic(broker, topic) for topic in topics])
        elif name == "_EpochEndRequest":
            epochs = dict(request.epochs)
            found = await self._node.network.request(
                self._node,
                lambda: [(tp.topic, [(0, tp.partition, -1, _epoch_end(broker, tp, n))]) for tp, n in epochs.items()],
            )
        elif name == "_StableOffsetsRequest":
            rows = [(topic, number) for topic, numbers in request.partitions.items() for number in numbers]
            found = await self._node.network.request(
                self._node, lambda: [(topic, [_offset(broker, request.group, topic, n)], {}) for topic, n in rows]
            )
        elif name == "_NamedHeartbeat":
            group, _, member, instance = request.fields
            taken = await self._node.network.request(
                self._node, lambda: broker.groups[group].is_taken(instance, member)
            )
            return Answer([], FENCED_INSTANCE_ID if taken else UnknownMemberIdError.errno)
        elif name == "_ListTransactions":
            found = await self._node.network.request(
                self._node, lambda: [(one, 0, "Ongoing", {}) for one in broker.ongoing()]
            )
            return Transactions(found)
        elif name == "_DescribeTransactions":
            ids = frozenset(request.ids)
            return Transactions(
                await self._node.network.request(
                    self._node, lambda: [_described(one, logs) for one, logs in broker.ongoing().items() if one in ids]
                )
            )
        elif name == "InitProducerIdRequest":  # aiokafka's, which keeps its fields private
            await self._node.network.request(self._node, lambda: broker.init_producer(request._transactional_id))
            return Answer([])
        else:
            raise NotImplementedError(name)
        return Answer(found)

    async def close(self) -> None:
        """Nothing is open."""


def _offset(broker: Broker, group: str, topic: str, number: int) -> Any:
    if broker.commits_offset(group, topic, number):
        return (number, -1, -1, "", UNSTABLE, {})
    offset, text = broker.committed.get((group, topic, number), (-1, ""))
    return (number, offset, -1, text, 0, {})


def _described(transactional_id: str, logs: list[tuple[str, int]]) -> Any:
    return (0, transactional_id, "Ongoing", 60_000, 0, 0, 0, [(topic, [number], {}) for topic, number in logs], {})


def _topic(broker: Broker, topic: str) -> Any:
    partitions: list[Any] = [
        (0, number, LEADER, broker.logs[topic, number].epoch, [], [], [], {}) for number in range(broker.counts[topic])
    ]
    return (0, topic, broker.topic_ids[topic], False, partitions, 0, {})


def _epoch_end(broker: Broker, tp: Any, epoch: int) -> int:
    return broker.logs[tuple(tp)].epoch_end(epoch)
