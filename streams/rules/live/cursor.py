"""The position of a reader of `events`, as text that travels to a browser and back. Pure.

In: the next offset to read of each partition. Out: a short cursor, and the positions again.
"""

from __future__ import annotations

from collections.abc import Mapping

VERSION = "v1"
MAX_CURSOR = 8000
"""Characters: what fits into a request's header line."""
MAX_OFFSET = 2**63 - 1
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def encode(positions: Mapping[int, int]) -> str:
    """Partition number to next offset, as a cursor. Partitions that are missing are undefined.

    >>> encode({0: 5, 2: 1296})
    'v1.5..100'
    """
    count = max(positions, default=-1) + 1
    return ".".join([VERSION, *(_base36(positions[n]) if n in positions else "" for n in range(count))])


def decode(text: str) -> dict[int, int]:
    """The positions of a cursor. Raises ValueError with the reason.

    >>> decode("v1.5..100")
    {0: 5, 2: 1296}
    """
    if len(text) > MAX_CURSOR:
        raise ValueError(f"is longer than {MAX_CURSOR} characters")
    version, *fields = text.split(".")
    if version != VERSION:
        raise ValueError(f"is not a cursor of this version: {text[:40]!r}")
    found = {}
    for number, field in enumerate(fields):
        if field:
            # `int` alone would take signs, spaces and underscores too.
            if not (field.isascii() and field.isalnum()) or int(field, 36) > MAX_OFFSET:
                raise ValueError(f"is not a cursor: position {number} is {field[:20]!r}")
            found[number] = int(field, 36)
    return found


def _base36(number: int) -> str:
    if number < 0:
        raise ValueError(f"an offset is never negative: {number}")
    digits = ""
    while True:
        number, rest = divmod(number, 36)
        digits = DIGITS[rest] + digits
        if number == 0:
            return digits
