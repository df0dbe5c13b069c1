"""The writer of `/metrics`: what Prometheus' own parser reads from it, and that it does not hold the loop."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.parser import text_string_to_metric_families

from streams.metric_definitions import Definition
from streams.metrics import Observed, Row
from streams.metrics_page import written

ODD = 'quote " back \\ line\nend é \ud800'


async def read(registry: CollectorRegistry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every series of the page."""
    page = (await written(registry)).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


async def test_every_kind_of_metric_is_read_as_it_was_set() -> None:
    """Hostile label values and odd numbers too; `_created` is not there."""
    registry = CollectorRegistry()
    Counter("parallax_a", "a \\ b\nc", ["agent"], registry=registry).labels(ODD).inc(3)
    Gauge("parallax_b", "b", registry=registry).set(float("inf"))
    Gauge("parallax_n", "n", registry=registry).set(float("nan"))
    Histogram("parallax_c_seconds", "c", buckets=(1.0, 2.0), registry=registry).observe(1.5)
    Observed(registry).add_defined(Definition("counter", "parallax_d", "d", ("kind",)), lambda: [(("x",), 2)])
    found = await read(registry)
    assert found.pop(("parallax_n", ())) != found.get("nothing")
    assert found == {
        ("parallax_a_total", (("agent", ODD.replace("\ud800", "?")),)): 3,
        ("parallax_b", ()): math.inf,
        ("parallax_c_seconds_bucket", (("le", "1.0"),)): 0,
        ("parallax_c_seconds_bucket", (("le", "2.0"),)): 1,
        ("parallax_c_seconds_bucket", (("le", "+Inf"),)): 1,
        ("parallax_c_seconds_count", ()): 1,
        ("parallax_c_seconds_sum", ()): 1.5,
        ("parallax_d_total", (("kind", "x"),)): 2,
    }


async def test_others_have_their_turn_while_a_long_page_is_written() -> None:
    """Five samples of a millisecond each are more than one slice."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    def rows() -> Iterator[Row]:
        for n in range(10):
            time.sleep(0.001)
            yield (str(n),), n

    registry = CollectorRegistry()
    Observed(registry).add_defined(Definition("gauge", "parallax_x", "x", ("n",)), rows)
    running = asyncio.create_task(other())
    assert len(await read(registry)) == 10
    assert turns >= 3
    running.cancel()


async def test_what_is_observed_is_read_anew_each_time() -> None:
    """And is gone when it is gone."""
    now: list[Row] = [(("a1",), 1.0)]
    registry = CollectorRegistry()
    Observed(registry).add_defined(Definition("gauge", "parallax_x", "x", ("agent",)), lambda: now)
    assert await read(registry) == {("parallax_x", (("agent", "a1"),)): 1.0}
    assert registry.get_sample_value("parallax_x", {"agent": "a1"}) == 1.0
    now.clear()
    assert await read(registry) == {}
