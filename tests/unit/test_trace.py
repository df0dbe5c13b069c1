"""A plan's trace context as its steps carry it on."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.rules.tracing.trace import Trace, restored, trace_of

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GIVEN = f"00-{TRACE}-{PARENT}-01"


def read(parent: str | bytes | None, state: str | None = None) -> Trace | None:
    """From a record's headers."""
    raw = parent.encode() if isinstance(parent, str) else parent
    more = [] if state is None else [("tracestate", state.encode())]
    return trace_of([("ce_id", b"x"), ("traceparent", raw), *more])


@pytest.mark.parametrize(
    "parent",
    [
        None,
        b"\xff",
        "",
        "00-1-2-01",
        GIVEN.upper(),
        GIVEN + "-00",
        GIVEN + "\n",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{PARENT}",
    ],
)
def test_what_is_no_trace_context_is_none(parent: str | bytes | None) -> None:
    """Then its state is nobody's."""
    assert read(parent, "a=1") is None


@pytest.mark.parametrize(
    ("parent", "flags"),
    [
        (GIVEN, "01"),
        (f"00-{TRACE}-{PARENT}-00", "00"),
        (f"00-{TRACE}-{PARENT}-ff", "03"),
        (f"cc-{TRACE}-{PARENT}-02-what", "02"),
    ],
)
def test_a_step_has_the_trace_and_an_id_of_its_own(parent: str, flags: str) -> None:
    """Whether it is sampled goes on, flags that nobody knows do not; a later version is answered in ours."""
    found = read(parent)
    assert found is not None
    ids = set()
    for name in ("p#0", "p#1", "p#1.0"):
        [(key, value)] = found.step(name)
        assert key == "traceparent"
        match = re.fullmatch(f"00-{TRACE}-([0-9a-f]{{16}})-{flags}", value.decode())
        assert match is not None
        ids.add(match[1])
    assert len(ids | {PARENT}) == 4
    assert restored(list(found)) == found


@pytest.mark.parametrize(
    ("state", "kept"),
    [("a=1,b=2", True), ("x" * 512, True), ("x" * 513, False), ("", False), ("a\n", False), ("ä", False)],
)
def test_the_state_goes_on_as_it_is_or_not_at_all(state: str, kept: bool) -> None:
    """It must not break a header of HTTP, nor grow without bound."""
    found = read(GIVEN, state)
    assert found is not None
    assert dict(found.step("p#0")).get("tracestate") == (state.encode() if kept else None)


def test_of_several_the_last_counts() -> None:
    """Instrumentation of a producer appends its own."""
    other = f"00-{TRACE}-{'1' * 16}-00"
    found = trace_of([("traceparent", other.encode()), ("traceparent", GIVEN.encode())])
    assert found == read(GIVEN)


@given(st.text(max_size=80), st.text(max_size=20))
def test_whatever_comes_what_goes_out_is_valid(parent: str, state: str) -> None:
    """Nothing, or what is read as the same trace again."""
    found = read(parent, state)
    if found is not None:
        assert trace_of(found.step("p#0")) is not None


def test_what_was_remembered_badly_is_no_trace() -> None:
    """It costs the trace, not the plan."""
    assert restored(["", ""]) is restored(["x"]) is restored([]) is None
