"""The limit of open files: raised where the system allows it, reported where it does not."""

from __future__ import annotations

import doctest
import resource

import pytest
from structlog.testing import capture_logs

from streams import file_limit
from streams.file_limit import needed, prepare_file_limit

NO_LIMIT = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "after", "enough"),
    [
        (1024, 4096, 1300, True),
        (1024, NO_LIMIT, 1300, True),
        (1024, 1100, 1100, False),
        (1024, 1024, 1024, False),
        (4096, 4096, 4096, True),
        (NO_LIMIT, NO_LIMIT, NO_LIMIT, True),
    ],
)
def test_the_limit_is_raised_or_reported(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, after: int, enough: bool
) -> None:
    """For 220 partitions, which need more than the usual 1,024; the warning says how many."""
    limits = [soft, hard]
    monkeypatch.setattr(resource, "getrlimit", lambda which: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda which, new: limits.__setitem__(slice(None), new))
    with capture_logs() as logs:
        assert prepare_file_limit(220) is enough
    assert limits == [after, hard]
    assert [(line["allowed"], line["needed"]) for line in logs] == ([] if enough else [(after, needed(220))])


def test_a_system_that_refuses_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some do, though the hard limit says otherwise."""

    def refuse(which: int, new: tuple[int, int]) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, NO_LIMIT))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    with capture_logs() as logs:
        assert not prepare_file_limit(8 * 30)
    assert logs[-1]["allowed"] == 256


def test_doctests() -> None:
    """The example holds."""
    assert doctest.testmod(file_limit).failed == 0
