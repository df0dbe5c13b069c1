"""How long topics keep their records, from the brokers' settings."""

from __future__ import annotations

from collections.abc import Collection

from streams.broker.topics_admin import topic_configs
from streams.settings import Settings


async def retention_ms(settings: Settings, names: Collection[str]) -> dict[str, int]:
    """Topic (short name) -> `retention.ms`, without topics that delete nothing by age. Raises `TopicsError`,
    `KafkaError`.
    """
    found: dict[str, int] = {}
    for name, config in (await topic_configs(settings, names)).items():
        text = config.get("retention.ms") or ""
        if text.isdecimal() and "delete" in config.get("cleanup.policy", "delete"):  # -1: unlimited
            found[name] = int(text)
    return found
