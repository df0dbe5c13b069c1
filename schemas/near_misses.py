"""Unknown fields that resemble a known one. Pure.

In: a decoded JSON object and its model. Out: pairs of the written and the probably intended name. A task's metadata may
hold fields of the user's own, so a near miss is worth a warning, never an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from schemas.messages import Task, TaskMetadata
from schemas.messages.base import Message

CUTOFF = 0.85
"""Share of equal letters: `expireIn` for `expiresIn`, but not `retired` for `retries`."""


def near_misses(data: Any, model: type[Message]) -> list[tuple[str, str]]:
    """Near misses of one object.

    >>> near_misses({"ordering_key": "k", "expireIn": "5m", "tenant": "t", "retries": 1}, TaskMetadata)
    [('ordering_key', 'orderingKey'), ('expireIn', 'expiresIn')]
    """
    if not isinstance(data, Mapping):
        return []
    known = {field.alias or name for name, field in model.model_fields.items()}
    plain = {_plain(name): name for name in known}
    found = []
    for given in data:
        if given in known or not isinstance(given, str):
            continue
        meant = get_close_matches(_plain(given), plain, 1, CUTOFF)
        if meant and plain[meant[0]] not in data:
            found.append((given, plain[meant[0]]))
    return found


def near_misses_of_task(data: Any) -> list[tuple[str, str]]:
    """Near misses of a task and its metadata; names with their path.

    >>> near_misses_of_task({"id": "t", "capabilites": ["sum"], "metadata": {"not_before": "..."}})
    [('capabilites', 'capabilities'), ('metadata.not_before', 'metadata.notBefore')]
    """
    if not isinstance(data, Mapping):
        return []
    inner = near_misses(data.get("metadata"), TaskMetadata)
    return near_misses(data, Task) + [(f"metadata.{given}", f"metadata.{meant}") for given, meant in inner]


def _plain(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()
