"""The user data that a group's leader sends with assignments: each member's address, and the number of partitions.
Pure.

In: the user data of an assignment or a subscription. Out: rows; an address and a count.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

Row = tuple[str, list[int]]
"""A worker's address and its partition numbers; without an address, the number of partitions."""


def encode_table(rows: Iterable[Row], count: int) -> bytes:
    """The user data of an assignment. Older versions read the count as the number of a missing partition.

    >>> encode_table([("http://w", [0, 1])], 2)
    b'[["http://w",[0,1]],["",[2]]]'
    """
    return orjson.dumps([*rows, ("", [count])])


def decode_table(user_data: bytes | None) -> list[Row]:
    """The rows; empty if there are none. Raises `ValueError`, `TypeError`.

    >>> decode_table(b'[["http://w",[0,1]],["",[2]]]'), decode_table(b"")
    ([('http://w', [0, 1]), ('', [2])], [])
    """
    rows: Any = orjson.loads(user_data) if user_data else []
    return [(str(address), [int(number) for number in numbers]) for address, numbers in rows]


def count_of(rows: Iterable[Row]) -> int | None:
    """The number of partitions; None: an older version did not send it.

    >>> count_of([("http://w", [0, 1]), ("", [2])]), count_of([])
    (2, None)
    """
    return next((numbers[0] for address, numbers in rows if not address and numbers), None)


def decode_user_data(user_data: bytes | None) -> tuple[bytes, int]:
    """A member's address from a subscription's user data, and the count that it reports; 0 without one.

    >>> decode_user_data(b"http://w"), decode_user_data(b"http://w\\n16"), decode_user_data(None)
    ((b'http://w', 0), (b'http://w', 16), (b'', 0))
    """
    address, _, count = (user_data or b"").partition(b"\n")
    return address, int(count) if count.isdigit() else 0
