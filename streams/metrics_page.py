"""Writes the page `/metrics` in the Prometheus text format, in short slices of the event loop's time.

In: a registry. Out: the page as bytes. A registry's own writer blocks the loop until it is done: with a thousand agents
longer than a commit may take. OpenMetrics' `_created` samples are left out: they double the page and only show when the
worker started.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from streams.engine.yielder import Yielder

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PART = 500
"""Lines encoded at a time: a hundred thousand would take longer than a slice."""


async def written(registry: CollectorRegistry) -> bytes:
    """The page as it is now; other tasks run between two of its lines."""
    checkpoint, lines, parts = Yielder(), list[str](), list[bytes]()
    for family in registry.collect():
        lines += _head(family)
        created = f"{family.name}_created"
        for sample in family.samples:
            if sample.name != created:
                lines.append(f"{sample.name}{_labels(sample.labels)} {_value(sample.value)}\n")
            if len(lines) >= PART:
                parts.append(_joined(lines))
                lines = []
            await checkpoint()
        await checkpoint()
    return b"".join((*parts, _joined(lines)))


def _joined(lines: list[str]) -> bytes:
    return "".join(lines).encode("utf-8", "replace")


def _head(family: Metric) -> tuple[str, str]:
    name = f"{family.name}_total" if family.type == "counter" else family.name
    text = family.documentation.replace("\\", "\\\\").replace("\n", "\\n")
    return f"# HELP {name} {text}\n", f"# TYPE {name} {family.type}\n"


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join([f'{name}="{_escaped(value)}"' for name, value in labels.items()]) + "}"


def _escaped(text: str) -> str:
    """
    >>> _escaped('a"b')
    'a\\\\"b'
    """
    if "\\" in text or '"' in text or "\n" in text:
        return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
    return text


def _value(value: float) -> str:
    if math.isfinite(value):
        return repr(float(value))
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
