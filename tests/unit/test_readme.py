"""The README says what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from schemas.topics import diagram
from streams.settings import known_names

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")


def test_the_table_of_topics_is_the_one_in_the_code() -> None:
    """`schemas.topics.diagram()` stands between the two marks."""
    between = re.search(r"<!-- topics:begin[^\n]*\n(.*)<!-- topics:end -->", README, re.DOTALL)
    assert between is not None
    assert between[1].strip() == diagram()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"`make ([a-z-]+)`", README))))
def test_every_make_target_it_names_exists(target: str) -> None:
    """A command in the README is a target of the Makefile."""
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)


def test_every_setting_it_names_exists() -> None:
    """The first column of the table of settings holds real names; a last part in capitals stands for a name of the user's."""
    table = README.split("| setting | default | |")[1].split("\n\n")[0]
    known = known_names()
    for row in table.splitlines()[2:]:
        names = re.findall(r"`([^`]+)`", row.split("|")[1])
        section = names[0].rpartition(".")[0]
        for name in names:
            name = re.sub(r"\.[A-Z]+$", "", name)
            assert (f"{section}.{name}" if section and "." not in name else name) in known, name
