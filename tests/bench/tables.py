"""Tables of benches as Markdown, to be read in a terminal and pasted into `docs/benchmarks.md` as they are.

In: columns and rows of text. Out: lines. Beside them `machine()`, which names what the figures were taken on.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence

from tests.support.kafka import VERSION


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, padded; the first column is text, the others are figures.

    >>> print(markdown(["row", "us"], [["floor", "199"]]))
    | row   |  us |
    |-------|----:|
    | floor | 199 |
    """
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    rule = [f"{'-' * (width + 2)}" if at == 0 else f"{'-' * (width + 1)}:" for at, width in enumerate(widths)]

    def line(cells: Sequence[str]) -> str:
        padded = [c.rjust(w) if at else c.ljust(w) for at, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return f"| {' | '.join(padded)} |"

    return "\n".join([line(columns), "|" + "|".join(rule) + "|", *map(line, rows)])


def figure(value: float, digits: int = 0) -> str:
    """A figure with so many digits after the point; nothing for what was not measured.

    >>> figure(2254.4), figure(1.987, 2), figure(float("nan"))
    ('2,254', '1.99', '')
    """
    return "" if value != value else f"{value:,.{digits}f}"


def machine() -> str:
    """Cores, versions, and how busy the machine was in the last minute, this bench not yet included if asked first."""
    parts = [f"{os.cpu_count()} cores", f"Python {platform.python_version()}", f"Kafka {VERSION}"]
    if (java := shutil.which("java")) is not None:
        text = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False).stderr
        parts.append("Java " + text.split('"')[1] if '"' in text else "Java")
    return ", ".join([*parts, f"load average before {os.getloadavg()[0]:.1f}"])
