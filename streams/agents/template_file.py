"""The file of local patterns (setting `plans.templates`), read at a worker's start.

In: a path. Out: templates by name, or `TemplatesError`: one line that names the file, the template, the field and the reason.
"""

from __future__ import annotations

from pathlib import Path

from schemas.exact_json import loads
from streams.rules.plans.blueprint import InvalidPlan
from streams.rules.plans.templates import Template, read_templates


class TemplatesError(Exception):
    """The file of local patterns cannot be used; one line."""


def load_templates(file: str | None) -> dict[str, Template]:
    """Local patterns by name, from a file of JSON lines. Raises `TemplatesError`."""
    if file is None:
        return {}
    try:
        rows = [loads(line) for line in Path(file).read_bytes().splitlines() if line.strip()]
        return read_templates(rows)
    except (OSError, ValueError, InvalidPlan) as error:
        raise TemplatesError(f"plans.templates: {file}: {error}") from None
