"""Real servers for tests. In: the kind of server a test is run for. Out: its process, ready, with a token it wants."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

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
