"""The simulation itself: equal seeds are equal runs, its parts are what they claim, its oracles can fail."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise

import pytest

from agents_io.errors import AgentError
from schemas.messages import Task
from streams.settings import Settings
from tests.simulation.broker import Broker, StaleEpoch
from tests.simulation.cli import options_of, parse, run_apart
from tests.simulation.deployments import (
    ALLOWED,
    BUILTIN_AGENTS,
    CONTROL_PLANE,
    TARGETS,
    agent_of,
    builtins_of,
    changed,
)
from tests.simulation.durability import Durability
from tests.simulation.faults import Fault, planned
from tests.simulation.options import PROFILES, profile
from tests.simulation.scenario import Report
from tests.simulation.shrink import shrunk
from tests.simulation.world import World

TASKS = "t.tasks", 0


def broker() -> Broker:
    """One topic, one partition."""
    return Broker(World(1), {"t.tasks": 1})


def values(found: Broker, uncommitted: bool = False) -> list[bytes | None]:
    """What is read of it from the beginning."""
    got = found.logs[TASKS].read(0, 100, uncommitted)
    assert got is not None
    return [record.value for record in got[0]]


def run(command: Sequence[str], hash_seed: str) -> str:
    """The command's first line: the seed's digest and figures, without this machine's time."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation", *command],
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=100,
    )
    return done.stdout.splitlines()[0].split(" simulated")[0]


def test_equal_seeds_are_equal_runs_whatever_the_hash_seed() -> None:
    """Every record that was written, and when; another seed differs."""
    command = ["--first", "1", "--seeds", "1", "--no-shrink", "-v"]
    lines = {run(command, hash_seed) for hash_seed in ("0", "1", "2")}
    assert len(lines) == 1
    assert "seed 1" in next(iter(lines))
    assert run(["--first", "2", *command[2:]], "1") not in lines


def test_a_run_is_a_run_of_the_product() -> None:
    """Workers answer tasks through agents; nothing is sent to nobody."""
    report = run_apart(2, profile("quiet", seconds=8.0))
    assert isinstance(report, Report)
    assert report.tasks > 20
    assert report.calls > 10
    assert report.codes["success"] > 10
    assert not report.errors


def test_uncommitted_records_are_read_by_nobody_who_asks_for_committed_ones() -> None:
    """And what lies behind an open transaction waits for its end."""
    found = broker()
    epoch = found.init_producer("p")
    found.produce("p", epoch, TASKS, [(None, b"a", ())])
    found.append(TASKS, [(None, b"b", ())])
    assert values(found) == []
    assert values(found, uncommitted=True) == [b"a", b"b"]
    assert found.end_transaction("p", epoch)
    assert values(found) == [b"a", b"b"]
    found.produce("p", epoch, TASKS, [(None, b"c", ())])
    assert found.init_producer("p") == epoch + 1
    assert values(found) == [b"a", b"b"]


def test_an_earlier_producer_is_fenced() -> None:
    """Whatever it asks for."""
    found = broker()
    old = found.init_producer("p")
    found.init_producer("p")
    with pytest.raises(StaleEpoch):
        found.produce("p", old, TASKS, [(None, b"a", ())])
    with pytest.raises(StaleEpoch):
        found.end_transaction("p", old)


def test_a_late_end_ends_the_transaction_that_is_open_then() -> None:
    """The protocol before KIP-890: this is what the profile `late-commits` looks for."""
    found = broker()
    epoch = found.init_producer("p")
    found.produce("p", epoch, TASKS, [(None, b"half", ())])
    assert found.end_transaction("p", epoch)
    assert not found.end_transaction("p", epoch)
    assert values(found) == [b"half"]


def test_a_shorter_log_puts_positions_out_of_range() -> None:
    """Until it has grown beyond them again."""
    found = broker()
    for value in (b"a", b"b", b"c"):
        found.append(TASKS, [(None, value, ())])
    found.truncate(TASKS, 2)
    assert found.logs[TASKS].read(3, 10) is None
    found.append(TASKS, [(None, b"d", ())])
    assert found.logs[TASKS].read(3, 10) is None
    found.append(TASKS, [(None, b"e", ())])
    assert found.logs[TASKS].read(3, 10) == ([], 3)
    found.delete_before(TASKS, 2)
    assert found.logs[TASKS].read(0, 10) is None


def test_what_a_crash_may_forget() -> None:
    """Only what no commit holds, of an owner that did not leave cleanly."""
    of = Durability()
    of.fenced("w1", 0, 1.0)
    of.committed("w1", 0, 5.0)
    of.killed("w1", 8.0)
    of.fenced("w2", 0, 20.0)
    assert of.forgotten("w1", 0, 4.0) is None, "a commit that began later holds it"
    assert of.forgotten("w1", 0, 6.0) == 8.0, "under way at the kill"
    assert of.forgotten("w2", 0, 21.0) is None, "nothing happened to this one"
    assert of.forgotten("w1", 0, 21.0) is None, "it was no owner any more"
    assert of.owns("w2", 0, 21.0)
    assert not of.owns("w1", 0, 21.0)


def test_the_shrinker_leaves_the_faults_that_matter() -> None:
    """Two of them together, here."""
    faults = [Fault(float(at), "kill", 0.5, 1.0) for at in range(20)]
    tried = []

    def breaks(some: Sequence[Fault]) -> bool:
        tried.append(len(some))
        return faults[3] in some and faults[17] in some

    assert shrunk(faults, breaks) == [faults[3], faults[17]]
    assert len(tried) <= 60
    assert shrunk(faults, lambda some: True) == []


def test_removing_a_fault_moves_no_other() -> None:
    """The list is made before the run, from its own generator."""
    faults = planned(PROFILES["mix"], 3)
    assert faults == planned(PROFILES["mix"], 3)
    assert faults != planned(PROFILES["mix"], 4)
    assert all(early.at <= late.at for early, late in pairwise(faults))


@pytest.mark.parametrize("allowed", ALLOWED, ids=str)
@pytest.mark.parametrize("control_plane", [None, CONTROL_PLANE])
@pytest.mark.parametrize("functions", [(), ("f0",)])
def test_the_oracle_and_the_product_agree_about_what_settings_permit(
    allowed: tuple[str, ...], control_plane: str | None, functions: tuple[str, ...]
) -> None:
    """Each by its own rules: which built-in agent a task has, or none."""
    settings = Settings.model_validate(
        {
            "http_tasks": {"allow": allowed},
            "control_plane": {"url": control_plane},
            "functions": {"modules": functions},
        }
    )
    for kind, targets in TARGETS.items():
        for target in targets:
            task = Task.model_validate({"id": "t", "type": kind, "target": target, "payload": 1})
            try:
                made: str | None = builtins_of(settings).agent(task).id
            except AgentError:
                made = None
            assert agent_of(settings, kind, target) == made
            assert made is None or made in BUILTIN_AGENTS


def test_a_rollout_changes_settings_and_keeps_limits() -> None:
    """Each of them, sooner or later; everything else stays."""
    before = Settings()
    after = [changed(before, random.Random(seed), (64, 250_000)) for seed in range(50)]
    for name in (
        "plans.templates",
        "http_tasks.allow",
        "control_plane.url",
        "cache.enabled",
        "dispatch.idempotency_ids",
    ):
        section, _, field = name.partition(".")
        assert len({getattr(getattr(settings, section), field) for settings in after}) > 1, name
    assert {settings.http_tasks.max_requests for settings in after} == {before.http_tasks.max_requests}
    assert {settings.dispatch.idempotency_window for settings in after} == {before.dispatch.idempotency_window}


def test_the_command_line_changes_a_profile() -> None:
    """Faults by name, or none."""
    given = parse(["--faults", "kill,freeze", "--seconds", "7", "--grow", "--time", "attempt"])
    options = options_of(given, "mix")
    assert (options.faults, options.seconds, options.grow, options.time) == (("kill", "freeze"), 7.0, True, "attempt")
    assert options_of(parse(["--faults", "none"]), "mix").faults == ()
