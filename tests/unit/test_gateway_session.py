"""The session of an agent that dialled in, step by step; `tests/properties/test_gateway_machine.py` walks it at random."""

from __future__ import annotations

import pytest

from agents_io.protocols.gateway.rules.session import MAX_FORGOTTEN, NotOpen, Session, SessionConfig, TooManyOutstanding


def opened(**config: float) -> Session:
    """A session with a heartbeat a second, ready for requests."""
    session = Session("s", 0.0, SessionConfig(**config))  # type: ignore[arg-type]
    assert session.hello("a", 1000, 0.0) is None
    session.opened()
    return session


def test_anything_before_hello_ends_the_stream() -> None:
    """The first message must be hello."""
    session = Session("s", 0.0)
    assert not session.heard(1.0)
    with pytest.raises(NotOpen):
        session.begin("t")


def test_no_request_before_the_agent_is_registered() -> None:
    """Between hello and ack nothing may be sent."""
    session = Session("s", 0.0)
    session.hello("a", 1000, 0.0)
    assert session.state == "opening"
    with pytest.raises(NotOpen):
        session.begin("t")
    session.opened()
    assert session.begin("t") == "s-1"


@pytest.mark.parametrize("agent_id", ["", "x" * 257])
def test_an_id_must_have_1_to_256_characters(agent_id: str) -> None:
    """Refused with a sentence."""
    session = Session("s", 0.0)
    assert session.hello(agent_id, 0, 0.0) == "agent_id: must have 1 to 256 characters"
    assert session.state == "closed"


def test_lost_after_three_missed_heartbeats_and_any_message_counts() -> None:
    """An answer is as good as a heartbeat; the clock never goes back."""
    session = opened()
    assert session.lost_at == 3.0
    session.heard(2.5)
    session.heard(1.0)
    assert session.lost_at == 5.5


def test_draining_takes_no_new_request_and_finishes_the_old() -> None:
    """And it may come back."""
    session = opened()
    request = session.begin("t")
    assert session.heartbeat("a", 0.5, "draining")
    with pytest.raises(NotOpen):
        session.begin("t2")
    assert session.settle(request)
    assert session.heartbeat("a", 0.5, " Healthy ")
    assert session.begin("t2") == "s-2"


def test_draining_said_before_the_ack_holds() -> None:
    """The status is kept while the session opens."""
    session = Session("s", 0.0)
    session.hello("a", 0, 0.0)
    session.heartbeat("a", 0.0, "draining")
    session.opened()
    assert session.state == "draining"


@pytest.mark.parametrize(
    ("said", "status"), [("", "healthy"), ("HEALTHY", "healthy"), ("degraded", "degraded"), ("on fire", "degraded")]
)
def test_statuses(said: str, status: str) -> None:
    """An unknown one is no good sign; none says nothing."""
    session = opened()
    session.heartbeat("a", 0.0, said)
    assert (session.status, session.state) == (status, "open")


@pytest.mark.parametrize(
    ("said", "load"), [(0.0, 0.0), (2.5, 2.5), (float("nan"), None), (-1.0, None), (float("inf"), None)]
)
def test_load_is_a_figure_or_nothing(said: float, load: float | None) -> None:
    """NaN must not reach the balancer."""
    session = opened()
    session.heartbeat("a", said, "")
    assert session.load == load


def test_nobody_speaks_for_another_agent() -> None:
    """A heartbeat in another's name is counted and ignored."""
    session = opened()
    assert not session.heartbeat("b", 0.1, "draining")
    assert (session.status, session.load, session.counters.stray) == ("healthy", None, 1)


def test_answers_late_and_unknown_are_counted_apart_and_ignored() -> None:
    """Late: the request was given up. Unknown: there was none, or it was answered before."""
    session = opened()
    first, second = session.begin("t"), session.begin("t")
    assert session.abandon(first)
    assert not session.abandon(first)
    assert not session.settle(first)
    assert session.settle(second)
    assert not session.settle(second)
    assert not session.settle("")
    counters = session.counters
    assert (counters.answered, counters.late, counters.unknown) == (1, 1, 2)


def test_open_and_forgotten_requests_are_bounded() -> None:
    """As many as configured, and the oldest given up are forgotten."""
    session = opened(max_outstanding=2)
    session.begin("1")
    second = session.begin("2")
    with pytest.raises(TooManyOutstanding):
        session.begin("3")
    session.abandon(second)
    for _ in range(MAX_FORGOTTEN):
        session.abandon(session.begin("x"))
    assert not session.settle(second)
    assert (session.counters.unknown, session.counters.late) == (1, 0)


def test_close_names_what_was_left_oldest_first_and_nothing_is_cancelled_after_it() -> None:
    """The stream is gone: there is nobody to tell."""
    session = opened()
    names = [session.begin(f"t{n}") for n in range(3)]
    assert session.close() == names
    assert not session.abandon(names[0])
    with pytest.raises(NotOpen):
        session.begin("t")
