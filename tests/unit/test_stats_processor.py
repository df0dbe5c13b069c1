"""The statistics processor's answers: certain, or none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from streams.settings import Settings
from streams.statistics import processor as module
from streams.statistics.aggregator import Aggregator
from streams.statistics.processor import NotReady, StatsProcessor
from streams.statistics.query import Question
from streams.statistics.state import State, spans_of


async def test_what_was_read_while_partitions_went_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long answer is made in slices; what is lost in between would be missing in it."""
    settings = Settings()
    aggregators = list[Aggregator]()

    def aggregate(*parts: Any) -> Aggregator:
        aggregators.append(Aggregator(*parts))
        return aggregators[0]

    monkeypatch.setattr(module, "Aggregator", aggregate)
    processor = StatsProcessor(settings)
    [aggregator] = aggregators
    aggregator.state, aggregator.ready = (
        State(table=cast("Any", SimpleNamespace(data={})), spans=spans_of(settings), limits=None),
        True,
    )
    whole = {"partitions": [0], "series": []}

    async def undisturbed(*_: Any) -> dict[str, Any]:
        return whole

    async def disturbed(*_: Any) -> dict[str, Any]:
        aggregator.release()
        return whole

    monkeypatch.setattr(module, "part", undisturbed)
    assert await processor.part(Question()) == whole
    monkeypatch.setattr(module, "part", disturbed)
    with pytest.raises(NotReady, match="moved"):
        await processor.part(Question())
