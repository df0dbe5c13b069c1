"""How long topics keep records: by age only, and only where they delete."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pytest

from streams.broker import retention as module
from streams.broker.retention import retention_ms
from streams.settings import Settings


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        ({"cleanup.policy": "delete", "retention.ms": "604800000"}, {"tasks": 604_800_000}),
        ({"cleanup.policy": "compact,delete", "retention.ms": "5"}, {"tasks": 5}),
        ({"retention.ms": "0"}, {"tasks": 0}),
        ({"cleanup.policy": "delete", "retention.ms": "-1"}, {}),  # forever
        ({"cleanup.policy": "compact", "retention.ms": "604800000"}, {}),  # by key
        ({"cleanup.policy": "delete"}, {}),  # a broker that does not say
    ],
)
async def test_only_topics_that_delete_by_age_have_a_retention(
    monkeypatch: pytest.MonkeyPatch, config: Mapping[str, str], kept: dict[str, int]
) -> None:
    """As their settings have it."""

    async def topic_configs(settings: Settings, names: Collection[str]) -> dict[str, Any]:
        return dict.fromkeys(names, config)

    monkeypatch.setattr(module, "topic_configs", topic_configs)
    assert await retention_ms(Settings(), ["tasks"]) == kept
