"""One dialled-in agent's session: which messages it may send, when it is lost, which of its requests are open. Pure.

In: what came over the stream, as plain values, and `now` (monotonic seconds). Out: decisions: accept or refuse the hello, the
request an answer belongs to, what to cancel, when the agent counts as lost. It sends nothing, waits for nothing and reads no
answer's content.

    new --hello--> opening --opened--> open <--heartbeat's status--> draining;  any --close--> closed
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from math import isfinite
from typing import Literal

State = Literal["new", "opening", "open", "draining", "closed"]
Status = Literal["healthy", "degraded", "draining"]

MAX_ID = 256
MAX_FORGOTTEN = 1000
"""Abandoned requests that are remembered, to distinguish a late answer from one to no request."""


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """Bounds of one session. Times in seconds; an agent's heartbeat interval is kept within the two bounds."""

    missed: int = 3
    default_interval_s: float = 10.0
    min_interval_s: float = 0.1
    max_interval_s: float = 300.0
    max_outstanding: int = 1000

    def interval_s(self, requested_ms: int) -> float:
        """The heartbeat interval in use, for the one that the agent asked for.

        >>> SessionConfig().interval_s(0), SessionConfig().interval_s(500), SessionConfig().interval_s(1)
        (10.0, 0.5, 0.1)
        """
        if requested_ms <= 0:
            return self.default_interval_s
        return min(self.max_interval_s, max(self.min_interval_s, requested_ms / 1000))


@dataclass(slots=True)
class Counters:
    """Unexpected messages. `late`: answers to requests that were given up; `unknown`: answers to no request."""

    answered: int = 0
    late: int = 0
    unknown: int = 0
    stray: int = 0
    """Unexpected messages: a second hello, a heartbeat under another agent's name, an unknown kind."""


class NotOpen(Exception):
    """The session takes no request now: it is opening, draining or closed."""


class TooManyOutstanding(Exception):
    """The limit of open requests is reached."""


class Session:
    """`key`: a unique name of this connection; request ids are derived from it."""

    def __init__(self, key: str, now: float, config: SessionConfig | None = None) -> None:
        self.key = key
        self.config = config or SessionConfig()
        self.state: State = "new"
        self.agent_id = ""
        self.status: Status = "healthy"
        self.load: float | None = None
        """The agent's own figure, from its last heartbeat; None if that had none."""
        self.interval_s = self.config.default_interval_s
        self.heard_at = now
        self.counters = Counters()
        self._open: dict[str, str] = {}
        self._forgotten: OrderedDict[str, None] = OrderedDict()
        self._asked = 0

    @property
    def outstanding(self) -> int:
        return len(self._open)

    @property
    def lost_at(self) -> float:
        """When the agent counts as lost unless a message comes before."""
        return self.heard_at + self.config.missed * self.interval_s

    def hello(self, agent_id: str, interval_ms: int, now: float) -> str | None:
        """Handle the first message. Returns why it is refused, or None: the session is then opening.

        >>> Session("s", now=0.0).hello("", 0, now=0.0)
        'agent_id: must have 1 to 256 characters'
        >>> session = Session("s", now=0.0)
        >>> session.hello("a", 2000, now=0.0), session.state, session.lost_at
        (None, 'opening', 6.0)
        """
        if self.state != "new":
            self.counters.stray += 1
            return None
        if not 1 <= len(agent_id) <= MAX_ID:
            self.state = "closed"
            return f"agent_id: must have 1 to {MAX_ID} characters"
        self.agent_id = agent_id
        self.interval_s = self.config.interval_s(interval_ms)
        self.heard_at = now
        self.state = "opening"
        return None

    def opened(self) -> None:
        """The agent is registered and has the ack: requests may begin."""
        if self.state == "opening":
            self.state = "draining" if self.status == "draining" else "open"

    def heard(self, now: float) -> bool:
        """Any message is a sign of life. False if it came before the hello: the stream must end."""
        self.heard_at = max(self.heard_at, now)
        return self.state != "new"

    def heartbeat(self, agent_id: str, load: float, status: str) -> bool:
        """The agent's report about itself. True if its status changed. An unknown status counts as degraded, none as healthy."""
        if agent_id not in ("", self.agent_id):
            self.counters.stray += 1
            return False
        self.load = load if isfinite(load) and load >= 0 else None
        reported = _status(status)
        changed, self.status = reported != self.status, reported
        if changed and self.state in ("open", "draining"):
            self.state = "draining" if reported == "draining" else "open"
        return changed

    def begin(self, task_id: str) -> str:
        """Opens a request; its id, unlike any before it. Raises `NotOpen`, `TooManyOutstanding`."""
        if self.state != "open":
            raise NotOpen(self.state)
        if len(self._open) >= self.config.max_outstanding:
            raise TooManyOutstanding
        self._asked += 1
        request_id = f"{self.key}-{self._asked}"
        self._open[request_id] = task_id
        return request_id

    def settle(self, request_id: str) -> bool:
        """An answer came. True if its request is open, and closes it; else the answer is counted and must be
        ignored.
        """
        if self._open.pop(request_id, None) is not None:
            self.counters.answered += 1
            return True
        if request_id in self._forgotten:
            self.counters.late += 1
        else:
            self.counters.unknown += 1
        return False

    def abandon(self, request_id: str) -> bool:
        """The caller no longer waits. True if the request was open: the agent should then be sent a cancel."""
        if self._open.pop(request_id, None) is None:
            return False
        self._forgotten[request_id] = None
        if len(self._forgotten) > MAX_FORGOTTEN:
            self._forgotten.popitem(last=False)
        return self.state != "closed"

    def close(self) -> list[str]:
        """Close the session. Returns the requests that get no answer, oldest first."""
        self.state = "closed"
        left = list(self._open)
        self._open.clear()
        return left


def _status(text: str) -> Status:
    word = text.strip().lower()
    if word in ("", "healthy"):
        return "healthy"
    return "draining" if word == "draining" else "degraded"
