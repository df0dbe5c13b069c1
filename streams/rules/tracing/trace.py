"""Carries W3C trace context from a record to its consequences: a task's call, or a plan's steps, each with its own id.
Pure.

In: the headers of the record. Out: those for the agent, or for a step's task. A step's id is derived from the trace and
the task's id: a record that is written again is the same record. No span is made here; the sender's `traceparent`
decides what is recorded. An invalid context by W3C's rules is ignored; an invalid or too long `tracestate` is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import NamedTuple

MAX_STATE_BYTES = 512
"""The length that every system should pass on."""
_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_STATE = re.compile(r"[\x20-\x7e]+")
KNOWN_FLAGS = 0x03
"""Sampled, and random trace id."""

Headers = Iterable[tuple[str, bytes | None]]


class Trace(NamedTuple):
    """The context to pass on. `parent`: the given `traceparent`; `state`: the `tracestate`, empty without one."""

    parent: str
    state: str = ""

    def headers(self) -> list[tuple[str, bytes]]:
        """The given context, for a record that replaces another and for the agent."""
        found = [("traceparent", self.parent.encode())]
        return [*found, ("tracestate", self.state.encode())] if self.state else found

    def step(self, name: str) -> list[tuple[str, bytes]]:
        """The headers for the step whose task has this id.

        >>> given = trace_of([("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")])
        >>> [(key, value[:36], value[52:]) for key, value in given.step("p#0")]
        [('traceparent', b'00-0af7651916cd43dd8448eb211c80319c-', b'-01')]
        >>> given.step("p#0") == given.step("p#0") != given.step("p#1")
        True
        """
        _, trace_id, parent_id, flags = self.parent.split("-")[:4]
        drawn = blake2b(f"{trace_id}-{parent_id}-{name}".encode(), digest_size=8).digest()
        span_id = drawn if any(drawn) else b"\1" * 8  # an id of zeros means none
        traceparent = f"00-{trace_id}-{span_id.hex()}-{int(flags, 16) & KNOWN_FLAGS:02x}"
        found = [("traceparent", traceparent.encode())]
        return [*found, ("tracestate", self.state.encode())] if self.state else found


def trace_of(headers: Headers) -> Trace | None:
    """The trace of a record; None without a valid one. Of several the last counts: instrumentation appends its own.

    >>> trace_of([("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), ("tracestate", b"a=1")]).state
    'a=1'
    >>> trace_of([]), trace_of([("traceparent", b"00-00000000000000000000000000000000-b7ad6b7169203331-01")])
    (None, None)
    """
    parent = state = ""
    for key, value in headers:
        if key == "traceparent":
            parent = (value or b"").decode("ascii", "replace")
        elif key == "tracestate":
            state = (value or b"").decode("ascii", "replace")
    found = _PARENT.fullmatch(parent)
    if found is None:
        return None
    version, trace_id, parent_id, flags, more = found.groups()
    # Only a later version may have further fields.
    if version == "ff" or (version == "00" and more) or not trace_id.strip("0") or not parent_id.strip("0"):
        return None
    if version != "00":  # passed on in the version supported here
        parent = f"00-{trace_id}-{parent_id}-{int(flags, 16) & KNOWN_FLAGS:02x}"
    sound = len(state) <= MAX_STATE_BYTES and _STATE.fullmatch(state)
    return Trace(parent, state if sound else "")


def restored(kept: Sequence[str] | None) -> Trace | None:
    """A trace from its two stored parts.

    >>> restored(["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "a=1"]).state, restored(None)
    ('a=1', None)
    """
    if kept is None:
        return None
    return trace_of(zip(("traceparent", "tracestate"), (part.encode() for part in kept), strict=False))
