"""Settings of topics on brokers that limit them, as managed services do. Pure.

In: a refused setting, and the broker's message. Out: values to try instead, the likeliest first, and at last None:
leave the setting to the broker. Every value is tried at the broker before it is used; no service's limits are built in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

BROKER_DEFAULTS = {
    "max.message.bytes": 1_048_588,
    "segment.bytes": 1_073_741_824,
    "segment.ms": 604_800_000,
    "retention.ms": 604_800_000,
    "delete.retention.ms": 86_400_000,
    "min.compaction.lag.ms": 0,
}
"""Kafka's own defaults: a limit is between our value and the default."""
STEPS = 12


class SettingError(Exception):
    """An invalid override. The message is one line: what was given and what is wanted."""


def candidates(name: str, value: str, message: str) -> Iterator[str | None]:
    """Values to try in place of `value`, which a broker refused with this message.

    >>> list(candidates("segment.bytes", "16777216", "segment.bytes 16777216 is below the minimum of 52428800"))[:3]
    ['52428800', '33554432', '67108864']
    >>> list(candidates("cleanup.policy", "compact,delete", "no"))
    [None]
    """
    goal = BROKER_DEFAULTS.get(name)
    if goal is not None and value.isdecimal():
        ours = int(value)
        low, high = sorted((ours, goal))
        named = [number for number in map(int, re.findall(r"\d+", message.replace(",", ""))) if low <= number <= high]
        between = [number for number in _steps(ours, goal) if low <= number <= high]
        yield from (str(number) for number in dict.fromkeys([*named, *between]) if number != ours)
    yield None


def _steps(value: int, goal: int) -> Iterator[int]:
    for _ in range(STEPS):
        value = value * 2 if value < goal else value // 2
        yield value
    yield goal


def parse_overrides(given: list[str], names: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """`topic.config=value`, each -> full topic name -> settings. `names`: short and full names to full names; `*` is every topic.

    Raises `SettingError`.

    >>> names = {"tasks": "p.tasks", "dlq.tasks": "dlq.p.tasks"}
    >>> parse_overrides(["tasks.retention.ms=1", "dlq.tasks.max.message.bytes=2"], names)
    {'p.tasks': {'retention.ms': '1'}, 'dlq.p.tasks': {'max.message.bytes': '2'}}
    """
    found: dict[str, dict[str, str]] = {}
    for text in given:
        setting, equals, value = text.partition("=")
        at = max((name for name in [*names, "*"] if setting.startswith(f"{name}.")), key=len, default="")
        config = setting.removeprefix(f"{at}.")
        if not equals or not at or not config or not value:
            raise SettingError(
                f"--set {text}: want topic.config=value, such as tasks.retention.ms=86400000, or *.config=value"
            )
        for topic in set(names.values()) if at == "*" else [names[at]]:
            found.setdefault(topic, {})[config] = value
    return found
