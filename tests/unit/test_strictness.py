"""The predicates can fail: each is shown a breach, and what is just within its bounds."""

from __future__ import annotations

from tests.support.predicates import Call
from tests.support.strictness import no_secret, retry_share, strict


def call(task: str, at: float) -> Call:
    """A call of a task."""
    return Call("a", task, at, at + 0.1)


def test_retry_share() -> None:
    """Ten first calls allow two retries and the floor; one more is a breach; what is long ago allows nothing."""
    firsts = [call(f"t{n}", n / 10) for n in range(10)]
    within = [call(f"t{n}", 2.0 + n / 10) for n in range(3)]
    assert retry_share([*firsts, *within], 0.2, 1).held
    assert not retry_share([*firsts, *within, call("t3", 2.5)], 0.2, 1).held
    later = [call(f"t{n}", 30.0 + n / 10) for n in range(2)]
    assert not retry_share([*firsts, *later], 0.2, 1).held
    assert retry_share([*firsts, *later], 0.2, 2).held


def test_no_secret() -> None:
    """Told by place and number, never by its text."""
    held = no_secret([b"canary"], {"log": b"all is well", "topic": b""})
    assert held.held
    broken = no_secret([b"other", b"canary"], {"log": b"a canary sang"})
    assert broken.breaches == ["log holds secret number 1"]


def test_strict() -> None:
    """A confidence that is none, and an error that says nothing."""
    good = {"taskId": "t", "status": "success", "confidence": 1.0}
    sound = {"taskId": "t", "status": "failure", "error": {"code": "timeout", "message": "why"}}
    assert strict([good, sound]).held
    for confidence in (None, 1.5, -0.1, float("nan"), float("inf"), "0.5"):
        assert not strict([good | {"confidence": confidence}]).held
    for error in (None, {}, {"code": "timeout"}, {"message": "why"}):
        assert not strict([sound | {"error": error}]).held
