"""Whether a breaker kept its rules, told from nothing but its agent's call log. Pure.

In: the calls of one agent, kills, the breaker's configuration. Out: a `Verdict`. A call log does not say when the worker heard of
an answer, nor which answers a killed worker had written down: so every history that would explain the log is followed at once.
A call that no history allows is a breach. Tolerances: `jitter_s`, by which agent and worker may see things at different times;
`commit_s`, how old what a killed worker left behind may be.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from agents_io.calling.rules.breaker import BreakerConfig
from tests.support.predicates import Call, Kill, Verdict

MAX_HISTORIES = 2000
_OUTCOMES = {"unsure": ("failure", "success", "neutral"), "cut": ("neutral",)}


@dataclass(frozen=True, slots=True)
class _Past:
    """What figures are made of; histories that differ in nothing else are one."""

    trips: tuple[float, ...] = ()
    shortest_hold_s: float = float("inf")
    most_probes: int = 0


@dataclass(frozen=True, slots=True)
class _History:
    """One state the breaker may be in. `unheard`: calls that ended and were not heard of yet.

    `current`: calls of this generation under way; while closed only those that will fail.
    """

    mode: str = "closed"
    since: float = float("-inf")
    failures: tuple[float, ...] = ()
    successes: int = 0
    current: frozenset[int] = frozenset()
    unheard: tuple[int, ...] = ()
    strangers: int = 0
    """Calls that may still come in although they began as probes before the circuit closed."""
    past: _Past = field(default_factory=_Past, compare=False)

    def enter(self, mode: str, at: float) -> _History:
        """A new generation."""
        past = self.past
        if mode == "open":
            past = replace(past, trips=(*past.trips, at))
        failures = () if mode == "closed" else self.failures
        return _History(mode, at, failures, past=past)


@dataclass(slots=True)
class BreakerLog:
    """Follows one agent's log."""

    calls: Sequence[Call]
    config: BreakerConfig
    jitter_s: float
    commit_s: float
    histories: set[_History] = field(default_factory=lambda: {_History()})
    trips: set[float] = field(default_factory=set)
    """When a circuit opened, in any history that was possible then."""
    breaches: list[str] = field(default_factory=list)
    _recent: list[tuple[float, set[_History]]] = field(default_factory=list)

    def follow(self, kills: Iterable[Kill]) -> None:
        """The whole log, in order."""
        events = [(call.at, 2, index) for index, call in enumerate(self.calls)]
        events += [(call.ended_at, 1, index) for index, call in enumerate(self.calls)]
        doomed = [kill for kill in kills if self._owner(kill.at) in ("", kill.worker)]
        events += [(kill.at, 0, index) for index, kill in enumerate(doomed)]
        for at, kind, index in sorted(events):
            if kind == 2:
                self._begin(index)
            elif kind == 1:
                self.histories = {after for history in self.histories for after in self._end(history, index)}
            else:
                self._kill(at)
            self.trips.update(history.past.trips[-1] for history in self.histories if history.past.trips)
            self._remember(at)
            if len(self.histories) > MAX_HISTORIES:
                self.breaches.append(
                    f"at {at:.3f} more than {MAX_HISTORIES} histories are possible: not judged further"
                )
                return

    def _owner(self, at: float) -> str:
        """Who made the last call before that time."""
        before = [call for call in self.calls if call.at <= at]
        return before[-1].worker if before else ""

    def _remember(self, at: float) -> None:
        self._recent.append((at, self.histories))
        while len(self._recent) > 1 and self._recent[1][0] < at - self.commit_s:
            del self._recent[0]

    def _kill(self, at: float) -> None:
        """The next owner goes on from something that was true within the last `commit_s`; calls under way are forgotten."""
        states = [states for seen_at, states in self._recent if seen_at >= at - self.commit_s]
        older = [states for seen_at, states in self._recent if seen_at < at - self.commit_s]
        states += older[-1:] or [{_History()}]
        self.histories = {
            replace(history, current=frozenset(), unheard=())
            for possible in [*states, self.histories]
            for history in possible
        }

    # A call begins

    def _begin(self, index: int) -> None:
        call = self.calls[index]
        allowed = {after for history in self.histories for after in self._permit(history, index, call.at)}
        if not allowed:
            newest = max(self.histories, key=lambda history: history.since)
            said = (
                f"{len(newest.current)} probes out" if newest.mode == "half_open" else f"{call.at - newest.since:.3f} s"
            )
            self.breaches.append(f"{call.task}: a call began at {call.at:.3f} with the circuit {newest.mode} ({said})")
            allowed = {replace(newest.enter("closed", call.at), current=frozenset((index,)))}
        self.histories = allowed

    def _permit(self, history: _History, index: int, at: float) -> list[_History]:
        late = (
            at - history.since <= self.jitter_s
        )  # it may have begun before the last transition: then it is a stranger
        if history.mode == "closed":
            if self.calls[index].outcome not in ("failure", "unsure"):
                return [history]  # nothing to count, whichever generation it belongs to
            mine = replace(history, current=history.current | {index})
            return [mine, replace(history, strangers=history.strangers - 1)] if late and history.strangers else [mine]
        if history.mode == "open":
            after = [history] if late else []
            if at >= history.since + self.config.reset_timeout_s:
                past = history.past
                hold_s = min(past.shortest_hold_s, at - history.since)
                past = replace(past, shortest_hold_s=hold_s, most_probes=max(past.most_probes, 1))
                half = replace(history.enter("half_open", at), current=frozenset((index,)), past=past)
                after.append(half)
            return after
        probes = 1 + sum(at - self.calls[other].at < self.config.probe_lease_s for other in history.current)
        if probes > self.config.probes:
            return []
        past = replace(history.past, most_probes=max(history.past.most_probes, probes))
        return [replace(history, current=history.current | {index}, past=past)]

    # A call ends

    def _end(self, history: _History, index: int) -> list[_History]:
        if index not in history.current:
            return [history]
        at = self.calls[index].ended_at
        if history.mode == "closed":
            return [
                after for outcome in self._outcomes(index) for after in self._ended_closed(history, index, outcome, at)
            ]
        found = [replace(history, unheard=())]
        for told in (index, *history.unheard):
            found = [after for state in found for after in self._ended_probe(state, told, at)]
        # Two probes that ended at nearly the same time: the worker may have heard of them in the other order.
        if any(at < self.calls[other].ended_at <= at + self.jitter_s for other in history.current):
            found.append(replace(history, unheard=(*history.unheard, index)))
        return found

    def _outcomes(self, index: int) -> tuple[str, ...]:
        outcome = self.calls[index].outcome
        return _OUTCOMES.get(outcome, (outcome,))

    def _ended_closed(self, history: _History, index: int, outcome: str, at: float) -> list[_History]:
        history = replace(history, current=history.current - {index})
        if outcome != "failure":
            return [history]
        most = self.config.failure_threshold
        failures = (*history.failures, at)[-most:]
        history = replace(history, failures=failures)
        spread_s = at - failures[0]
        found = []
        if len(failures) == most and spread_s < self.config.monitoring_period_s + self.jitter_s:
            found.append(history.enter("open", at))
        if len(failures) < most or spread_s > self.config.monitoring_period_s - self.jitter_s:
            found.append(history)
        return found

    def _ended_probe(self, history: _History, index: int, at: float) -> list[_History]:
        if index not in history.current:
            return [history]
        found = []
        for outcome in self._outcomes(index):
            rest = replace(history, current=history.current - {index})
            if outcome == "failure":
                found.append(rest.enter("open", at))
            elif outcome == "success" and rest.successes + 1 >= self.config.successes_to_close:
                strangers = self.config.probes - len(rest.current)
                found.append(replace(rest.enter("closed", at), strangers=strangers))
            else:
                found.append(replace(rest, successes=rest.successes + (outcome == "success")))
        return found


def breaker(
    calls: Sequence[Call],
    config: BreakerConfig,
    kills: Sequence[Kill] = (),
    opened: Sequence[float] = (),
    *,
    jitter_s: float = 0.25,
    commit_s: float = 1.0,
) -> tuple[Verdict, int]:
    """P7 over one agent's calls (in order), and how often its circuit opened. `opened`: times of its `circuit:open` events.

    It opens at the threshold and no later: calls that begin although it must be open are breaches. It opens no sooner: an event
    without the failures for it is a breach. Open holds for the whole reset timeout; half open admits no more probes than it may,
    and closes after its successes only.
    """
    log = BreakerLog(calls, config, jitter_s, commit_s)
    log.follow(kills)
    for at in opened:
        if not any(-0.01 <= at - trip <= jitter_s for trip in log.trips):
            log.breaches.append(f"opened at {at:.3f} without the failures for it")
    past = max((history.past for history in log.histories), key=lambda past: len(past.trips))
    hold = f"{past.shortest_hold_s:.2f} s" if past.shortest_hold_s < float("inf") else "none"
    verdict = Verdict("breaker", breaches=log.breaches)
    verdict.figures = (
        f"{len(calls)} calls, trips {len(past.trips)}, shortest hold {hold}, most probes at once {past.most_probes}"
    )
    return verdict, len(past.trips)
