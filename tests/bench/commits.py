"""What a commit costs, on real Kafka: alone, in a busy loop, eight partitions at once, and by one producer for all eight.

    python -m tests.bench.commits [--rounds 100] [--bootstrap HOST:PORT]

Out: for each case, p50 and p99 of a commit's time, CPU of this process and turns of the loop. The kinds take turns, so other work
on the machine hits all alike. A commit has the four outputs and the offset of one task; the last kind those of eight partitions.
In the busy loop each turn takes a millisecond more: there the turns that a commit needs are its time. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

import uvloop
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from rich.console import Console
from rich.table import Table

from streams.engine.batcher import Batcher
from streams.engine.commit import Commit
from streams.engine.membership import Membership
from streams.engine.transactor import KafkaTransactor
from streams.rules.records import Output
from tests.bench.load import percentile
from tests.support.kafka import KafkaCluster

PARTITIONS = 8
BUSY_S = 0.001
REST_S = 0.02
"""Between two commits of one producer, for the broker to write the end of the first."""


@dataclass
class Kind:
    """All commits of one kind; seconds."""

    took: list[float] = field(default_factory=list)
    turns: list[float] = field(default_factory=list)
    cpu_s: float = 0.0


class Bench:
    """Committers of eight partitions, and one for all of them."""

    def __init__(self, bootstrap: str) -> None:
        self.prefix = f"commits-{time.time_ns() // 1_000_000}."
        topics = [NewTopic(self.prefix + name, PARTITIONS, 1) for name in ("results", "events", "data-points", "state")]
        admin = AdminClient({"bootstrap.servers": bootstrap})
        for created in admin.create_topics(topics).values():
            created.result(30)
        self.committers = [
            KafkaTransactor({"bootstrap_servers": bootstrap}, transactional_id=f"{self.prefix}{name}", group=self.prefix,
                            prefix=self.prefix, state="state", batcher=Batcher(self.prefix))
            for name in (*range(PARTITIONS), "all")
        ]  # fmt: skip
        self.kinds: dict[str, Kind] = defaultdict(Kind)
        self._count = self._turns = 0

    async def round(self) -> None:
        """Each kind once."""
        *eight, joint = self.committers
        await self._timed("one partition, alone", [(eight[0], range(1))])
        burning = asyncio.ensure_future(self._burn())
        await self._timed("one partition, busy loop", [(eight[0], range(1))])
        burning.cancel()
        with suppress(asyncio.CancelledError):
            await burning
        await self._timed("eight partitions at once", [(one, range(at, at + 1)) for at, one in enumerate(eight)])
        await self._timed("one producer for all eight", [(joint, range(PARTITIONS))])

    async def _timed(self, name: str, work: Sequence[tuple[KafkaTransactor, range]]) -> None:
        kind = self.kinds[name]
        await asyncio.sleep(REST_S)
        cpu = time.process_time()
        await asyncio.gather(*(self._commit(kind, committer, numbers) for committer, numbers in work))
        kind.cpu_s += time.process_time() - cpu

    async def _commit(self, kind: Kind, committer: KafkaTransactor, numbers: range) -> None:
        began, turns = time.perf_counter(), self._turns
        outputs = [output for number in numbers for output in self._outputs(number)]
        offsets = {TopicPartition(f"{self.prefix}state", n): OffsetAndMetadata(self._count, "") for n in numbers}
        await committer.run([Commit(numbers[0], outputs, offsets)], Membership(-1, ""))
        kind.took.append(time.perf_counter() - began)
        kind.turns.append(self._turns - turns)

    def _outputs(self, number: int) -> list[Output]:
        self._count += 1
        key = f"t{self._count}".encode()
        return [
            Output("results", key, b"x" * 300),
            Output("events", key, b"x" * 200),
            Output("data-points", f"a{number}".encode(), b"x" * 200),
            Output("state", f"{number}".encode(), b"x" * 200, partition=number),
        ]

    async def _burn(self) -> None:
        while True:
            until = time.perf_counter() + BUSY_S
            while time.perf_counter() < until:
                pass
            self._turns += 1
            await asyncio.sleep(0)


async def run(bootstrap: str, rounds: int) -> dict[str, Kind]:
    """All rounds; a fifth as many before them warm up."""
    bench = Bench(bootstrap)
    for committer in bench.committers:
        await committer.start()
    for _ in range(rounds // 5):
        await bench.round()
    bench.kinds.clear()
    for _ in range(rounds):
        await bench.round()
    for committer in bench.committers:
        await committer.close()
    return bench.kinds


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--bootstrap")
    options = parser.parse_args()
    with ExitStack() as stack:
        bootstrap = options.bootstrap or stack.enter_context(KafkaCluster(brokers=1, measured=True)).bootstrap_servers
        kinds = uvloop.run(run(bootstrap, options.rounds))
    table = Table(title="a commit of four outputs and an offset (the last: of eight partitions)")
    for column in ("", "p50 ms", "p99 ms", "CPU us", "turns"):
        table.add_column(column, justify="right" if column else "left")
    for name, kind in kinds.items():
        busy = any(kind.turns)
        table.add_row(
            name,
            f"{percentile(kind.took, 0.5) * 1000:.1f}",
            f"{percentile(kind.took, 0.99) * 1000:.1f}",
            "" if busy else f"{kind.cpu_s / len(kind.took) * 1e6:,.0f}",
            f"{percentile(kind.turns, 0.5):.0f}" if busy else "",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
