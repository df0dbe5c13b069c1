"""JSON lines from a file or stdin, with line numbers. Blank lines are skipped; the length of a line is bounded."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from schemas.codec import Rejected, parse_json
from schemas.topics import LARGE_RECORD_BYTES
from streams.cli.options import USAGE, CommandError

STDIN = Path("-")
CHUNK_BYTES = 64 * 1024


def numbered_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Line number and stripped bytes of each line that is not blank. Raises `CommandError` when the file cannot be read."""
    if file == STDIN:
        yield from _numbered(_stdin(), "stdin")
        return
    try:
        with file.open("rb") as stream:
            yield from _numbered(iter(lambda: stream.readline(LARGE_RECORD_BYTES + 1), b""), str(file))
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror or error}", USAGE) from None


def _numbered(lines: Iterator[bytes], name: str) -> Iterator[tuple[int, bytes]]:
    for number, raw in enumerate(lines, start=1):
        if len(raw) > LARGE_RECORD_BYTES:
            raise CommandError(f"{name}: line {number}: longer than {LARGE_RECORD_BYTES} bytes", USAGE)
        if text := raw.strip():
            yield number, text


def _stdin() -> Iterator[bytes]:
    """Lines read straight from the file descriptor: a thread waiting in sys.stdin's buffer would delay the exit."""
    descriptor = sys.stdin.fileno()
    rest = b""
    while chunk := os.read(descriptor, CHUNK_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
        if len(rest) > LARGE_RECORD_BYTES:
            break
    yield rest


def numbered_json(file: Path) -> Iterator[tuple[int, Any]]:
    """Line number and JSON value of each line. Raises `CommandError` naming the line."""
    for number, text in numbered_lines(file):
        try:
            yield number, parse_json(text)
        except Rejected as error:
            raise CommandError(f"{file}: line {number}: {error.reason}", USAGE) from None
