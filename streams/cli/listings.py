"""The entries of a topic that holds one record for each id, as the commands of the same name read and report them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from shlex import quote
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from streams.cli.output import say

if TYPE_CHECKING:
    from streams.settings import Settings


class _Listing(Protocol):
    """`found`: valid entries by id; `refused`: why the newest record of a key is invalid."""

    found: dict[str, dict[str, Any]]
    refused: dict[str, str]

    def add(self, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]) -> None:
        """The next record."""


L = TypeVar("L", bound=_Listing)


async def read_listing(settings: Settings, topic: str, listing: L) -> L:
    """Add every record of the topic."""
    from streams.broker.client import read_all

    async for record in read_all(settings, topic):
        listing.add(record.key, record.value, record.headers)
    return listing


def report_refused(topic: str, refused: Mapping[str, str]) -> None:
    """Print a line for each invalid entry to stderr. `topic`: also the name of the commands."""
    for key, reason in sorted(refused.items()):
        say(f"parallax: {topic} key {key!r}: {reason}; remove it with: parallax {topic} rm {quote(key)}")
