"""Cache keys and the bounds of the result cache."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.rules.dispatch.caching import ResultCache, cache_key


def cache(**changes: Any) -> ResultCache[str]:
    """A small cache."""
    settings: dict[str, Any] = {"ttl_s": 300.0, "min_confidence": 0.8, "max_entries": 3, "max_bytes": 100}
    return ResultCache(**(settings | changes))


def key(**changes: Any) -> str:
    """A key with one thing changed."""
    asked: dict[str, Any] = {"pattern": None, "input": {"a": 1, "b": [1, 2]}, "capabilities": ["x", "y"], "target": "t"}
    return cache_key(**(asked | changes))


def test_key_ignores_order_where_order_means_nothing() -> None:
    """Object members and capabilities are sets; it is 64 hex digits."""
    assert key() == key(input={"b": [1, 2], "a": 1}, capabilities=["y", "x"])
    assert len(key()) == 64


@pytest.mark.parametrize(
    "change",
    [
        {"pattern": "p"},
        {"input": {"a": 1, "b": [2, 1]}},
        {"input": {"a": "1", "b": [1, 2]}},
        {"capabilities": ["x"]},
        {"target": "u"},
        {"target": None},
    ],
)
def test_key_differs_with_all_that_matters(change: dict[str, Any]) -> None:
    """An answer of one agent is not another's."""
    assert key() != key(**change)


def test_keeps_an_answer_until_its_time_is_over() -> None:
    """Seconds count from when it was put, not from when it was read."""
    kept = cache()
    kept.put("k", "v", 10, 0.9, 0.0)
    assert (kept.get("k", 299.9), kept.get("k", 300.0), len(kept), kept.size) == ("v", None, 0, 0)


@pytest.mark.parametrize(("confidence", "kept"), [(0.8, True), (0.79, False), (float("nan"), False)])
def test_keeps_only_confident_answers(confidence: float, kept: bool) -> None:
    """At least the threshold."""
    a = cache()
    a.put("k", "v", 10, confidence, 0.0)
    assert (a.get("k", 0.0) == "v") is kept


def test_least_recently_used_goes_first() -> None:
    """Reading counts as use."""
    a = cache()
    for name in "abc":
        a.put(name, name, 1, 1.0, 0.0)
    a.get("a", 1.0)
    a.put("d", "d", 1, 1.0, 1.0)
    assert [name for name in "abcd" if a.get(name, 2.0)] == ["a", "c", "d"]


def test_answer_larger_than_the_cache_is_not_kept_and_evicts_nothing() -> None:
    """One huge answer must not empty the cache."""
    a = cache()
    a.put("a", "a", 50, 1.0, 0.0)
    a.put("huge", "h", 101, 1.0, 0.0)
    assert (a.get("a", 0.0), a.get("huge", 0.0)) == ("a", None)


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 120), st.floats(0, 50)), max_size=60))
def test_never_beyond_its_bounds(puts: list[tuple[str, int, float]]) -> None:
    """Neither in entries nor in bytes, and the byte count is that of what it holds."""
    a = cache(ttl_s=20.0)
    now = 0.0
    sizes: dict[str, int] = {}
    for name, size, step in puts:
        now += step
        a.put(name, name, size, 1.0, now)
        if size <= 100:
            sizes[name] = size
        assert len(a) <= 3
        assert a.size <= 100
    for name in "abcdef":
        count, size = len(a), a.size
        a.remove(lambda kept, name=name: kept == name)  # type: ignore[misc]
        assert size - a.size == (sizes[name] if len(a) < count else 0)
    assert (len(a), a.size) == (0, 0)
