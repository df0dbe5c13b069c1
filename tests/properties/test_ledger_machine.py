"""The ledger against a naive model: a dictionary of every offset there ever was."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streams.rules.engine import offset_map
from streams.rules.engine.ledger import Ledger
from streams.rules.engine.offset_map import LIMIT_BYTES, MapError


class LedgerMachine(RuleBasedStateMachine):
    """Deliver, finish, crash and resume at random; nothing is lost, nothing finished is delivered again."""

    @initialize(head=st.integers(0, 50))
    def start(self, head: int) -> None:
        self.ledger = Ledger(head)
        self.log_end = head
        self.committed = (head, "")
        self.finished: set[int] = set()
        self.absent: set[int] = set()
        self.started: set[int] = set()
        self.position = head
        self.base = head

    @rule(gap=st.sampled_from([0, 0, 0, 1, 3]))
    def deliver(self, gap: int) -> None:
        """The next existing record arrives; records skipped on the way do not exist."""
        offset = self.position
        if offset >= self.log_end:
            self.absent.update(range(offset, offset + gap))
            offset += gap
            self.log_end = offset + 1
        else:
            while offset in self.absent:
                offset += 1
        self.position = offset + 1
        fresh = self.ledger.track(offset)
        assert fresh == (offset not in self.durable), offset
        if fresh:
            self.started.add(offset)

    @property
    def durable(self) -> set[int]:
        """What the last commit says is done."""
        head, text = self.committed
        done = set(range(self.base, head))
        for first, last in offset_map.decode("t", 0, head, text):
            done.update(range(first, last + 1))
        return done

    @precondition(lambda self: self.started)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        offset = data.draw(st.sampled_from(sorted(self.started)))
        self.started.discard(offset)
        self.finished.add(offset)
        self.ledger.done(offset)

    @rule()
    def commit(self) -> None:
        self.committed = (self.ledger.head, offset_map.encode("t", 0, self.ledger.head, self.ledger.runs()))

    @rule()
    def crash_and_resume(self) -> None:
        """A new owner knows only what was committed; what was not is delivered again."""
        head, text = self.committed
        durable = self.durable
        self.ledger = Ledger(head, offset_map.decode("t", 0, head, text))
        self.finished &= durable
        self.started = set()
        self.position = head

    @invariant()
    def head_is_the_smallest_not_done(self) -> None:
        expected = self.base
        known = self.finished | self.absent | self.durable
        while expected in known and expected < self.log_end:
            expected += 1
        assert self.ledger.head <= expected
        assert not any(offset < self.ledger.head for offset in self.started)

    @invariant()
    def runs_never_name_an_offset_that_is_not_done(self) -> None:
        for first, last in self.ledger.runs():
            assert first > self.ledger.head
            for offset in range(first, last + 1):
                assert offset in self.finished or offset in self.absent or offset in self.durable, offset


LedgerMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=60, deadline=None)
TestLedgerMachine = LedgerMachine.TestCase

runs_strategy = st.lists(st.tuples(st.integers(1, 400), st.integers(1, 400)), max_size=60)


def build(head: int, steps: list[tuple[int, int]]) -> list[tuple[int, int]]:
    runs, at = [], head
    for skip, length in steps:
        runs.append((at + skip, at + skip + length - 1))
        at += skip + length
    return runs


@given(st.integers(0, 2**60), runs_strategy)
def test_a_map_says_exactly_what_was_put_in(head: int, steps: list[tuple[int, int]]) -> None:
    runs = build(head, steps)
    assert offset_map.decode("tasks", 3, head, offset_map.encode("tasks", 3, head, runs)) == runs


@given(st.integers(0, 10_000), runs_strategy.filter(bool), st.data())
def test_a_damaged_or_foreign_map_is_refused(head: int, steps: list[tuple[int, int]], data: st.DataObject) -> None:
    text = offset_map.encode("tasks", 3, head, build(head, steps))
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from("ABCDwxyz0189+/=!é"))
    damaged = text[:at] + other + text[at + 1 :]
    try:
        decoded = offset_map.decode("tasks", 3, head, damaged)
    except MapError:
        pass
    else:  # the spare bits of base64's last character carry nothing
        assert decoded == build(head, steps)
    for foreign in (("tasks", 4, head), ("parked", 3, head), ("tasks", 3, head + 1)):
        with pytest.raises(MapError):
            offset_map.decode(*foreign, text)


@given(st.text(max_size=80))
def test_any_text_is_a_map_or_a_map_error(text: str) -> None:
    with contextlib.suppress(MapError):
        assert isinstance(offset_map.decode("tasks", 0, 5, text), list)


@given(st.integers(1, 1200), st.integers(1, 40))
@settings(max_examples=20, deadline=None)
def test_intake_stops_before_the_map_is_too_large(pending: int, spread: int) -> None:
    """Whatever finishes in whatever order: while `full` is False, the text fits the commit's metadata."""
    ledger = Ledger(0)
    offset = 0
    kept: list[int] = []
    while not ledger.full() and offset < 40_000:
        ledger.track(offset)
        if len(kept) < pending and offset % spread == 0:
            kept.append(offset)
        else:
            ledger.done(offset)
        offset += 1
    assert len(offset_map.encode("t", 0, ledger.head, ledger.runs())) <= LIMIT_BYTES


def test_a_ledger_with_nothing_in_flight_takes_more() -> None:
    """A map near the limit, loaded by a new owner: only taking its lowest offsets can shrink it."""
    runs = [(2 * n + 1, 2 * n + 1) for n in range(9500)]
    ledger = Ledger(0, runs)
    assert not ledger.full()
    assert ledger.track(0)
    assert ledger.full()
    ledger.done(0)
    assert not ledger.full()
    assert ledger.head == 2


@pytest.mark.parametrize("period", [2, 20])
@pytest.mark.parametrize("backwards", [False, True])
def test_the_map_fits_a_commit_whatever_finishes_after_it_was_taken_in(period: int, backwards: bool) -> None:
    """A long row is in flight before any of it ends: agents that answer and one that hangs, their tasks mixed."""
    ledger = Ledger(0)
    taken = 0
    while taken < 60_000 and (taken % 64 or not ledger.full()):  # looked at as often as intake does
        ledger.track(taken)
        taken += 1
    done = [offset for offset in range(taken) if offset % period]
    for offset in done[::-1] if backwards else done:
        ledger.done(offset)
    assert len(offset_map.encode("t", 0, ledger.head, ledger.runs())) <= LIMIT_BYTES
