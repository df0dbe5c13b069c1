"""Tables and sentences for the generated pages."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SENTENCES = Path(__file__).with_name("sentences.toml")


def words() -> dict[str, Any]:
    """The sentences of `sentences.toml`."""
    return tomllib.loads(SENTENCES.read_text("utf-8"))


def cell(text: object) -> str:
    """Text that fits into one cell of a table."""
    return escaped(re.sub(r"\s+", " ", str(text)).replace("|", "\\|")).strip()


def escaped(text: str) -> str:
    """Text without HTML tags. Code spans stay as they are: entities are not decoded within them.

    >>> escaped("a <b> in `<id>@<time>`")
    'a &lt;b> in `<id>@<time>`'
    """
    return re.sub(r"(`[^`]*`)|<", lambda found: found[1] or "&lt;", text)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table. Cells are escaped by the caller."""
    head = list(head)
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def in_step(what: str, known: Iterable[str], described: Iterable[str]) -> None:
    """Each of the code's names has a sentence, and no sentence is left over."""
    missing, left = sorted(set(known) - set(described)), sorted(set(described) - set(known))
    if missing or left:
        raise SystemExit(
            f"docs/tools/sentences.toml, {what}: without a sentence {missing}; sentences of nothing {left}"
        )
