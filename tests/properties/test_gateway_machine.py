"""The session of a dialled-in agent against a naive model that keeps everything, over any order of what may come."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agents_io.protocols.gateway.rules.session import NotOpen, Session, SessionConfig, TooManyOutstanding

MOST = 3
steps = st.integers(0, 40).map(lambda n: n / 8)


class GatewayMachine(RuleBasedStateMachine):
    """Every request is open until exactly one of: answered, given up, lost with the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.session = Session("k", self.now, SessionConfig(max_outstanding=MOST, missed=2))
        self.phase = "new"
        self.status = "healthy"
        self.heard_at = 0.0
        self.every: list[str] = []
        self.open: list[str] = []
        self.given_up: set[str] = set()
        self.counted = {"answered": 0, "late": 0, "unknown": 0, "stray": 0}

    @rule(step=steps)
    def sleep(self, step: float) -> None:
        self.now += step

    def hear(self) -> None:
        """What the gateway does with each message after hello."""
        assert self.session.heard(self.now) == (self.phase != "new")
        self.heard_at = self.now

    @rule(agent=st.sampled_from(["a", ""]))
    def hello(self, agent: str) -> None:
        refusal = self.session.hello(agent, 1000, self.now)
        if self.phase != "new":
            assert refusal is None
            self.counted["stray"] += 1
        elif agent == "":
            assert refusal is not None
            self.phase = "closed"
        else:
            self.phase, self.heard_at = "opening", self.now

    @rule()
    def acknowledge(self) -> None:
        self.session.opened()
        if self.phase == "opening":
            self.phase = "open"

    @precondition(lambda self: self.phase not in ("new", "closed"))
    @rule(agent=st.sampled_from(["a", "", "b"]), status=st.sampled_from(["healthy", "degraded", "draining"]))
    def heartbeat(self, agent: str, status: str) -> None:
        self.hear()
        changed = self.session.heartbeat(agent, 0.5, status)
        if agent == "b":
            assert not changed
            self.counted["stray"] += 1
        else:
            assert changed == (status != self.status)
            self.status = status

    @rule(task=st.sampled_from(["t1", "t2"]))
    def begin(self, task: str) -> None:
        try:
            request = self.session.begin(task)
        except NotOpen:
            assert self.phase != "open" or self.status == "draining"
        except TooManyOutstanding:
            assert len(self.open) == MOST
        else:
            assert self.phase == "open"
            assert self.status != "draining"
            assert request not in self.every, "a request id must be unlike any before it"
            self.every.append(request)
            self.open.append(request)

    @precondition(lambda self: self.phase not in ("new", "closed"))
    @rule(which=st.integers(-1, 8))
    def answer(self, which: int) -> None:
        """To any request that ever was, or to none."""
        self.hear()
        request = self.every[which % len(self.every)] if which >= 0 and self.every else "nonsense"
        if self.session.settle(request):
            self.open.remove(request)
            self.counted["answered"] += 1
        else:
            assert request not in self.open
            self.counted["late" if request in self.given_up else "unknown"] += 1

    @precondition(lambda self: self.every)
    @rule(which=st.integers(0, 8))
    def give_up(self, which: int) -> None:
        request = self.every[which % len(self.every)]
        tell = self.session.abandon(request)
        assert tell == (request in self.open)
        if tell:
            self.open.remove(request)
            self.given_up.add(request)

    @rule()
    def close(self) -> None:
        assert self.session.close() == self.open
        self.open, self.phase = [], "closed"

    @invariant()
    def agrees(self) -> None:
        session = self.session
        assert session.outstanding == len(self.open) <= MOST
        assert session.lost_at == self.heard_at + 2 * session.interval_s
        counters = session.counters
        assert self.counted == {name: getattr(counters, name) for name in self.counted}
        expected = "draining" if self.phase == "open" and self.status == "draining" else self.phase
        assert session.state == expected


TestGatewaySession = GatewayMachine.TestCase
TestGatewaySession.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
