"""What must hold, whatever happened. Each oracle is a function of a run that has come to rest and yields what it found broken."""

from __future__ import annotations

from tests.simulation.oracles import agents, answers, order, rest, scheduled
from tests.simulation.scenario import Scenario, Violation

ORACLES = (*answers.ORACLES, *agents.ORACLES, *order.ORACLES, *scheduled.ORACLES, *rest.ORACLES)


def judge(scenario: Scenario) -> list[Violation]:
    """Everything that is broken."""
    return [violation for oracle in ORACLES for violation in oracle(scenario)]
