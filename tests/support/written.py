"""What another process has written to a file so far: whole lines only, since it may be in the middle of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def whole_lines(file: Path, begin: int = 0) -> list[str]:
    """The lines from byte `begin` on; none while there is no file. What crosses a page is seen in two pieces."""
    text = file.read_bytes()[begin:] if file.exists() else b""
    return text[: text.rfind(b"\n") + 1].decode().splitlines()


def calls_of(*logs: Path) -> list[dict[str, Any]]:
    """The calls that agents wrote down."""
    return [json.loads(line) for log in logs for line in whole_lines(log)]
