"""Registrations as those see them who only read the topic: the same as workers."""

from __future__ import annotations

from streams.rules.agents.listing import AgentListing

GOOD = b'{"id":"a","endpoint":"http://h:1"}'
NEWER = b'{"id":"a","endpoint":"http://h:2"}'


def listing(*records: tuple[bytes | None, bytes | None]) -> AgentListing:
    made = AgentListing()
    for key, value in records:
        made.add(key, value, ())
    return made


def test_the_newest_valid_registration_stands() -> None:
    """A record that is refused leaves the one before it."""
    found = listing((b"a", GOOD), (b"a", NEWER), (b"a", b'{"id":"a"}'))
    assert found.found["a"]["endpoint"] == "http://h:2"
    assert found.refused == {"a": "endpoint: field required"}
    assert listing((b"a", GOOD), (b"a", None)).found == {}


def test_a_registration_under_another_key_is_none() -> None:
    found = listing((b"other", GOOD))
    assert (found.found, found.refused) == ({}, {"other": "id: is 'a' but the record's key is 'other'"})


def test_only_the_newest_record_of_a_key_is_reported() -> None:
    assert listing((b"a", b"{"), (b"a", b'{"id":"a"}'), (b"a", GOOD)).refused == {}
    assert listing((b"a", b"{"), (b"a", None)).refused == {}


def test_what_is_refused_can_be_removed() -> None:
    found = listing((b"a", b"{"), (b"b", GOOD))
    assert (found.removal("a"), found.removal("b"), found.removal("c")) == ([b"a"], [b"b"], None)
