"""The limit of open files: raised where the system allows it, reported where it does not."""

from __future__ import annotations

import resource

import pytest
from structlog.testing import capture_logs

from streams.file_limit import ENOUGH, WANTED, raise_file_limit

NO_LIMIT = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "after", "enough"),
    [
        (1024, 4096, 4096, True),
        (1024, NO_LIMIT, WANTED, True),
        (1024, 1024, 1024, True),
        (256, 512, 512, False),
        (256, 256, 256, False),
        (WANTED, 2 * WANTED, WANTED, True),
        (NO_LIMIT, NO_LIMIT, NO_LIMIT, True),
    ],
)
def test_the_limit_is_raised_or_reported(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, after: int, enough: bool
) -> None:
    """The warning says how many there are and how many are needed."""
    limits = [soft, hard]
    monkeypatch.setattr(resource, "getrlimit", lambda which: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda which, new: limits.__setitem__(slice(None), new))
    with capture_logs() as logs:
        assert raise_file_limit() is enough
    assert limits == [after, hard]
    assert [(line["allowed"], line["needed"]) for line in logs] == ([] if enough else [(after, ENOUGH)])


def test_a_system_that_refuses_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some do, though the hard limit says otherwise."""

    def refuse(which: int, new: tuple[int, int]) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, NO_LIMIT))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    with capture_logs() as logs:
        assert not raise_file_limit()
    assert logs[-1]["allowed"] == 256
