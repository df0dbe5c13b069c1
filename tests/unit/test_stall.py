"""What counts as standing still, and what never does."""

from __future__ import annotations

from streams.rules.engine.stall import Stalled, StallRule


def test_behind_and_unmoved_for_long_is_a_stall() -> None:
    """From the first look at which it was behind; until then nothing."""
    rule: StallRule[str] = StallRule(30.0)
    for now in (0.0, 10.0, 29.9):
        assert rule.look(now, {"p": 5}, {"p": 6}) == {}
    assert rule.look(30.0, {"p": 5}, {"p": 9}) == {"p": Stalled(5, 9, 30.0)}


def test_a_move_begins_the_time_anew() -> None:
    """Slow is not stalled."""
    rule: StallRule[str] = StallRule(30.0)
    for now, position in ((0.0, 5), (20.0, 6), (40.0, 7), (69.9, 7)):
        assert rule.look(now, {"p": position}, {"p": 100}) == {}
    assert rule.look(70.0, {"p": 7}, {"p": 100})


def test_a_position_sought_back_begins_the_time_anew() -> None:
    """A poll that failed goes back: that is a move too."""
    rule: StallRule[str] = StallRule(30.0)
    rule.look(0.0, {"p": 50}, {"p": 100})
    assert rule.look(30.0, {"p": 40}, {"p": 100}) == {}


def test_at_the_end_is_no_stall() -> None:
    """Nothing to read; nor when the end told is too small."""
    rule: StallRule[str] = StallRule(30.0)
    for now in (0.0, 100.0, 200.0):
        assert rule.look(now, {"p": 5, "q": 5}, {"p": 5, "q": 2}) == {}


def test_what_is_not_known_is_no_stall_and_begins_the_time_anew() -> None:
    """Brokers that do not answer: whatever was seen before, the time runs from their next answer."""
    rule: StallRule[str] = StallRule(30.0)
    rule.look(0.0, {"p": 5}, {"p": 6})
    assert rule.look(100.0, {"p": 5}, {}) == {}
    assert rule.look(101.0, {"p": 5}, {"p": 6}) == {}
    assert rule.look(131.0, {"p": 5}, {"p": 6})


def test_what_is_not_polled_for_is_no_stall_and_begins_the_time_anew() -> None:
    """No room for it is back-pressure."""
    rule: StallRule[str] = StallRule(30.0)
    rule.look(0.0, {"p": 5, "q": 1}, {"p": 6, "q": 2})
    rule.look(20.0, {"q": 1}, {"p": 6, "q": 2})
    assert set(rule.look(40.0, {"p": 5, "q": 1}, {"p": 6, "q": 2})) == {"q"}


def test_forgotten_is_begun_anew() -> None:
    """The next consumer is not blamed for the last one."""
    rule: StallRule[str] = StallRule(30.0)
    rule.look(0.0, {"p": 5}, {"p": 6})
    rule.forget()
    assert rule.look(31.0, {"p": 5}, {"p": 6}) == {}
