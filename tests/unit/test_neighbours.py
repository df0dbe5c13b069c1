"""What tells two installations apart, and what is said of two that are in each other's way."""

from __future__ import annotations

import pytest

from schemas.access import WORKER, installation, role_group
from streams.rules.broker.neighbours import READS, in_the_way

OURS = {"shop.p-dispatch": [["p.tasks", "p.dispatch", "p.parked"]], "shop.p-plans": [["p.plans", "p.results"]]}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("shop", "a."), ("shop", "b.")),
        (("shop", "parallax."), ("shop", "test.")),
        (("shop", "a."), ("store", "a.")),
        (("shop", "shop."), ("shop", "test.")),
    ],
)
def test_app_id_and_prefix_tell_installations_apart(one: tuple[str, str], other: tuple[str, str]) -> None:
    """No group and no transactional id of one is also the other's."""
    for role in WORKER:
        assert role_group(one[0], role, one[1]) != role_group(other[0], role, other[1])


def test_the_default_prefix_changes_no_name() -> None:
    """Nor does one that only repeats the app id."""
    assert installation("shop", "parallax.") == installation("shop", "shop.") == "shop"


def test_nothing_is_said_of_the_own_workers_and_of_strangers() -> None:
    """Other installations on other topics; other programs that read the results."""
    others = {"shop.q-dispatch": [["q.tasks"]], "billing": [["p.results"]], "empty-dispatch": []}
    assert in_the_way("shop", "p.", WORKER, OURS | others) == []


def test_two_app_ids_on_one_prefix_are_told() -> None:
    """Of each role that doubles something."""
    others = {
        "store.p-dispatch": [["p.tasks"]],
        "store.p-plans": [["p.plans"]],
        "store.p-schedules": [["p.scheduled", "p.schedules"]],
        "store.p-stats": [["p.data-points"]],
    }
    found = in_the_way("shop", "p.", WORKER, OURS | others)
    assert [sentence.split(" ")[3] for sentence in found] == [*others]
    assert all("twice" in sentence and "app_id" in sentence for sentence in found)
    assert len(in_the_way("shop", "p.", ["stats"], OURS | others)) == 1


def test_every_role_is_known() -> None:
    """A new one reads a topic too."""
    assert READS.keys() == set(WORKER)


def test_one_group_for_two_installations_is_told() -> None:
    """With the topics of the other one."""
    shared = {"shop-dispatch": [["parallax.tasks"], ["shop.tasks"]]}
    [sentence] = in_the_way("shop", "shop.", ["dispatch"], shared)
    assert "shop-dispatch" in sentence
    assert "parallax.tasks" in sentence
