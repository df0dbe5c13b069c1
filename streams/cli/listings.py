"""What commands find in a whole topic: the entries of one that holds a record for each id, and the records about an id."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from shlex import quote
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from streams.cli.output import say
from streams.cli.tail import as_json

if TYPE_CHECKING:
    from aiokafka.structs import ConsumerRecord

    from streams.settings import Settings


Found = dict[str, Any]


class _Listing(Protocol):
    """`found`: valid entries by id; `refused`: why the newest record of a key is invalid."""

    found: dict[str, dict[str, Any]]
    refused: dict[str, str]

    def add(self, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]) -> None:
        """The next record."""


L = TypeVar("L", bound=_Listing)


async def read_listing(settings: Settings, topic: str, listing: L) -> L:
    """Add every record of the topic."""
    from streams.broker.topic_feed import read_all

    async for record in read_all(settings, topic):
        listing.add(record.key, record.value, record.headers)
    return listing


async def matching(
    settings: Settings, topic: str, name: str, mine: Callable[[Found], bool]
) -> AsyncGenerator[tuple[Found, ConsumerRecord]]:
    """The objects on the topic that contain this id and are `mine`, each with its record."""
    from streams.broker.topic_feed import read_all
    from streams.client.history import needle

    part = needle(name)
    async for record in read_all(settings, topic):
        if record.value is not None and part in record.value:
            value = as_json(record.value)
            if isinstance(value, dict) and mine(value):
                yield value, record


async def matching_values(settings: Settings, topic: str, name: str, mine: Callable[[Found], bool]) -> list[Found]:
    """As `matching`, without the records."""
    return [value async for value, _ in matching(settings, topic, name, mine)]


def report_refused(topic: str, refused: Mapping[str, str]) -> None:
    """Print a line for each invalid entry to stderr. `topic`: also the name of the commands."""
    for key, reason in sorted(refused.items()):
        say(f"parallax: {topic} key {key!r}: {reason}; remove it with: parallax {topic} rm {quote(key)}")
