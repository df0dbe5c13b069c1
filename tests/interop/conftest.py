"""Real servers for tests. In: the kind of server a test is run for. Out: its process, ready, with a token it wants."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.interop.environments import differing
from tests.interop.kinds import KINDS, Kind
from tests.interop.processes import Running

collect_ignore_glob = ["servers/*"]
TOKEN = "interop-token"


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each kind of server in turn."""
    found: Kind = request.param
    return found


@pytest.fixture(scope="module")
def server(kind: Kind) -> Iterator[Running]:
    """One of it, running; it wants `TOKEN`."""
    with Running(kind.environment, kind.script, kind.arguments, TOKEN) as running:
        yield running


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What `make test-interop-newest` ran against, where that is not what is pinned."""
    if os.environ.get("INTEROP_NEWEST"):
        terminalreporter.section("versions that differ from the pinned ones")
        terminalreporter.write("\n".join(differing() or ["none"]) + "\n")
