"""What commands print: data on stdout as text, one JSON document or JSON lines; messages on stderr.

In: rows and documents of plain values. Never prints colour or boxes unless stdout is a terminal and NO_COLOR is unset.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from streams.cli.options import Format

BARS = "▁▂▃▄▅▆▇█"


def say(message: str) -> None:
    """Print a message to stderr; dropped if nobody reads it any more."""
    with suppress(OSError):  # raised in a signal's handler, it would keep a worker from stopping
        print(message, file=sys.stderr, flush=True)


def line(text: str) -> None:
    """Print one line of data to stdout, unbuffered."""
    print(text, flush=True)


def json_line(value: Any) -> None:
    """One JSON value on one line of stdout."""
    from schemas.exact_json import dumps

    line(dumps(value).decode())


def document(value: Any, form: Format) -> None:
    """One JSON document: indented for `json`, on one line for `jsonl`."""
    line(json_text(value, form))


def json_text(value: Any, form: Format) -> str:
    """The document as text, without the final newline."""
    import orjson

    from schemas.exact_json import dumps

    return dumps(value, orjson.OPT_INDENT_2 if form is Format.json else None).decode()


def yaml_text(value: Any) -> str:
    """The document as YAML, without anchors."""
    import yaml

    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    text: str = yaml.dump(value, Dumper=Plain, sort_keys=False, allow_unicode=True, width=10_000)
    return text.removesuffix("\n")


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None) -> None:
    """Rows for a person: a drawn table on a terminal, aligned columns elsewhere."""
    texts = [[cell(value) for value in row] for row in rows]
    columns = [heading(name) for name in columns]
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        _drawn(columns, texts, title)
        return
    widths = [max(len(name), *(len(row[i]) for row in texts)) if texts else len(name) for i, name in enumerate(columns)]
    for row in [[name.upper() for name in columns], *texts]:
        line("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def _drawn(columns: Sequence[str], texts: list[list[str]], title: str | None) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(*columns, title=title, title_justify="left", header_style="bold")
    for row in texts:
        drawn.add_row(*(Text(text) for text in row))
    Console().print(drawn)


def heading(name: str) -> str:
    """A field's name as a column heading.

    >>> heading("maxRequests")
    'max requests'
    """
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name)


def cell(value: Any) -> str:
    """One value as text for people.

    >>> cell(None), cell(0.12345), cell(["a", "b"]), cell(True)
    ('-', '0.123', 'a, b', 'yes')
    """
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"
    if isinstance(value, (list, tuple)):
        return ", ".join(str(item) for item in value) or "-"
    return str(value)


def sparkline(ratios: Sequence[float]) -> str:
    """Values in [0, 1] as bars on a fixed scale: two lines can be compared.

    >>> sparkline([0.0, 0.5, 1.0])
    '▁▅█'
    """
    return "".join(BARS[min(len(BARS) - 1, int(ratio * len(BARS)))] for ratio in ratios)


def rows_as(form: Format, documents: list[dict[str, Any]], columns: Sequence[str]) -> None:
    """A list of rows: a table of `columns`, one JSON array, or one JSON line each."""
    if form is Format.json:
        document(documents, form)
    elif form is Format.jsonl:
        for item in documents:
            json_line(item)
    else:
        table(columns, ([item.get(name) for name in columns] for item in documents))
