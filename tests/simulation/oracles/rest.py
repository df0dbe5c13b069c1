"""Oracles about rest: when all is answered nothing is held any more, every partition is open once, and no engine gave up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from schemas.topics import full_name
from tests.simulation.leftovers import leftovers_of
from tests.simulation.scenario import PREFIX, Scenario, Violation


def leftovers(scenario: Scenario) -> Iterator[Violation]:
    """No job, claim, flight, queue or ledger entry is left."""
    for name, node in sorted(scenario.shared.nodes.items()):
        for line in leftovers_of(node.worker):
            yield Violation("leftover", name, line)


def owners(scenario: Scenario) -> Iterator[Violation]:
    """Every partition is open at exactly one worker."""
    for role in ("dispatch", "plans", *(("schedules",) if scenario.shared.schedules else ())):
        opened = Counter(
            processor.number for node in scenario.shared.nodes.values() for processor in node.worker.processors(role)
        )
        for number in range(scenario.broker.counts[full_name("tasks", PREFIX)]):
            if opened[number] != 1:
                yield Violation("owners", f"{role} {number}", f"open at {opened[number]} workers")


def errors(scenario: Scenario) -> Iterator[Violation]:
    """No callback raised, no engine gave up."""
    for error in scenario.world.errors:
        yield Violation("error", "worker", error)


ORACLES = (leftovers, owners, errors)
