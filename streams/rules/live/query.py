"""A watcher's request: types of events and where to begin. Pure.

In: query and header texts. Out: a `WatchRequest`; ValueError naming the field and the fault.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from schemas.messages import EventType
from streams.rules.live.cursor import decode

MAX_LAST = 2000
DEFAULT_LAST = 200
KINDS: tuple[str, ...] = get_args(EventType)


@dataclass(frozen=True, slots=True)
class WatchRequest:
    """`types`: prefixes of event types, none: all. `last`: how many to begin with; `after`: or the position to continue
    from.
    """

    types: tuple[str, ...] = ()
    last: int = DEFAULT_LAST
    after: Mapping[int, int] | None = None

    def wants(self, kind: str) -> bool:
        """Whether events of this type are requested.

        >>> circuits = WatchRequest(("circuit:",))
        >>> circuits.wants("circuit:open"), circuits.wants("task:failed"), WatchRequest().wants("task:failed")
        (True, False, True)
        """
        return not self.types or kind.startswith(self.types)


def watch_request(types: str | None, last: str | None, cursor: str | None) -> WatchRequest:
    """The parsed request. Raises ValueError.

    >>> watch_request("task:,circuit:", "5", None)
    WatchRequest(types=('task:', 'circuit:'), last=5, after=None)
    """
    prefixes = tuple(dict.fromkeys((types or "").split(","))) if types else ()
    for prefix in prefixes:
        if not prefix or not any(kind.startswith(prefix) for kind in KINDS):
            raise ValueError(f"types: no event type begins with {prefix[:40]!r}")
    try:
        after = decode(cursor) if cursor else None
    except ValueError as error:
        raise ValueError(f"Last-Event-ID: {error}") from None
    return WatchRequest(prefixes, _last(last), after)


def _last(text: str | None) -> int:
    if text is None:
        return DEFAULT_LAST
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) <= MAX_LAST):
        raise ValueError(f"last: must be a number from 0 to {MAX_LAST}, not {text[:20]!r}")
    return int(text)
