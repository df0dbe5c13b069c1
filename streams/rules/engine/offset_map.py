"""The offset map: which offsets beyond the commit offset are already done, as text that fits a commit's metadata. Pure.

In: the commit offset (`head`) and the runs done beyond it. Out: at most `LIMIT_BYTES` of ASCII, and back.
Layout before base64: version, kind, body, CRC-32. The checksum also covers topic, partition and head, so that a map that was
damaged, written by something else or belongs to another offset is refused (`MapError`): that costs redelivery, never a loss.
Kind `r`: run lengths as varints, alternating not-done and done from `head`. Kind `b`: a bitmap from `head`, bit 1 = done.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterable, Sequence
from zlib import crc32

Run = tuple[int, int]
"""First and last offset of a run, both inside."""

VERSION = 1
LIMIT_BYTES = 4096
"""Kafka's default `offset.metadata.max.bytes`."""
INTAKE_STOP = 0.75
"""Share of the limit at which a partition reads no more."""
_FRAME = 6
_RUNS = ord("r")
_BITS = ord("b")
MAX_SPAN = 1 << 40


class MapError(ValueError):
    """The text is not a map of this head; the reason is the message."""


def _varint(value: int, out: bytearray) -> None:
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _checksum(topic: str, partition: int, head: int, body: bytes) -> bytes:
    return crc32(body, crc32(f"{topic}/{partition}/{head}".encode())).to_bytes(4, "big")


MAX_BITS = (LIMIT_BYTES // 4 * 3 - _FRAME) * 8
"""Offsets that a bitmap of `LIMIT_BYTES` covers."""


def encode(topic: str, partition: int, head: int, runs: Sequence[Run]) -> str:
    """The map as text; empty if nothing beyond `head` is done. `runs`: ascending, disjoint, not touching, all > head.

    If not everything fits, the runs furthest beyond `head` are left out. They are delivered again to the next owner,
    which knows their ids as answered; relocation (`Ledger.blocking_offsets`) makes room before that.

    >>> decode("tasks", 0, 10, encode("tasks", 0, 10, [(12, 14), (20, 20)]))
    [(12, 14), (20, 20)]
    """
    text = _encoded(topic, partition, head, runs)
    if len(text) > LIMIT_BYTES:
        end = head + MAX_BITS
        text = _encoded(topic, partition, head, [(first, min(last, end - 1)) for first, last in runs if first < end])
    return text


def _encoded(topic: str, partition: int, head: int, runs: Sequence[Run]) -> str:
    if not runs:
        return ""
    by_runs = bytearray((VERSION, _RUNS))
    at = head
    for first, last in runs:
        _varint(first - at, by_runs)
        _varint(last - first + 1, by_runs)
        at = last + 1
    body = bytes(by_runs)
    span = at - head
    if span // 8 + 3 < len(body):
        bits = 0
        for first, last in runs:
            bits |= ((1 << (last - first + 1)) - 1) << (first - head)
        body = bytes((VERSION, _BITS)) + bits.to_bytes((span + 7) // 8, "little")
    return binascii.b2a_base64(body + _checksum(topic, partition, head, body), newline=False).decode("ascii")


def decode(topic: str, partition: int, head: int, text: str | None) -> list[Run]:
    """The runs done beyond `head`. Empty text is an empty map. Raises `MapError`."""
    if not text:
        return []
    if len(text) > LIMIT_BYTES:
        raise MapError(f"{len(text)} characters are more than a map may have")
    try:
        raw = binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise MapError(f"not base64: {error}") from None
    if len(raw) < _FRAME + 1:
        raise MapError("too short")
    body, check = raw[:-4], raw[-4:]
    if body[0] != VERSION:
        raise MapError(f"version {body[0]} is not known")
    if check != _checksum(topic, partition, head, body):
        raise MapError("checksum does not fit this topic, partition and offset")
    if body[1] == _RUNS:
        return _decode_runs(head, body[2:])
    if body[1] == _BITS:
        return _decode_bits(head, body[2:])
    raise MapError(f"kind {body[1]} is not known")


def _decode_runs(head: int, body: bytes) -> list[Run]:
    lengths = list(_varints(body))
    if not lengths or len(lengths) % 2:
        raise MapError("runs do not come in pairs")
    runs: list[Run] = []
    at = head
    for skip, length in zip(lengths[::2], lengths[1::2], strict=True):
        if length == 0 or skip == 0 or at - head + skip + length > MAX_SPAN:
            raise MapError("a run of impossible length")
        first = at + skip
        at = first + length
        runs.append((first, at - 1))
    return runs


def _varints(body: bytes) -> Iterable[int]:
    value = shift = 0
    for byte in body:
        value |= (byte & 0x7F) << shift
        if byte & 0x80:
            shift += 7
            if shift > 42:
                raise MapError("a number that is too long")
        else:
            yield value
            value = shift = 0
    if shift:
        raise MapError("ends inside a number")


def _decode_bits(head: int, body: bytes) -> list[Run]:
    bits = int.from_bytes(body, "little")
    if bits & 1:
        raise MapError("marks the commit offset itself as done")
    runs: list[Run] = []
    at = 0
    while bits:
        low = (bits & -bits).bit_length() - 1
        bits >>= low
        at += low
        ones = (~bits & (bits + 1)).bit_length() - 1
        runs.append((head + at, head + at + ones - 1))
        bits >>= ones
        at += ones
    return runs


def size_bound(pending_runs: int, done_runs: int, span: int) -> int:
    """An upper bound of the text's bytes, from counts alone (without encoding).

    `pending_runs`: runs of offsets that are not done in the span. `done_runs`: runs done beyond what was delivered.

    >>> size_bound(500, 0, 10_000) < LIMIT_BYTES * INTAKE_STOP, size_bound(1, 0, 1 << 30)
    (True, 44)
    """
    numbers = 2 * (pending_runs + done_runs + 1)
    by_runs, long_span = numbers + 2, span >> 7
    while long_span:  # a number takes a byte more for each seven bits; only so many of them can be that long
        by_runs += min(numbers, long_span)
        long_span >>= 7
    by_bits = span // 8 + 2
    return (min(by_runs, by_bits) + _FRAME + 2) // 3 * 4 + 4
