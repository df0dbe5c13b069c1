"""Wrong tokens are counted by source, in bounded memory; over gRPC too."""

from __future__ import annotations

from types import SimpleNamespace

import grpc
import pytest

from agents_io.grpc.bearer import caller_of, objection
from agents_io.rules.wrong_tokens import MOST, WrongTokens
from agents_io.secret_refs import Secret
from schemas.messages import SecretRef


def test_a_source_waits_until_its_oldest_wrong_token_is_a_minute_old() -> None:
    """Others go on; a source that waited has its whole share again only bit by bit."""
    wrong = WrongTokens()
    for second in range(MOST):
        assert wrong.wait_s("10.0.0.7", second) == 0
        wrong.add("10.0.0.7", second)
    assert wrong.wait_s("10.0.0.7", 20) == 40
    assert wrong.wait_s("10.0.0.8", 20) == 0
    assert wrong.wait_s("10.0.0.7", 60) == 0
    wrong.add("10.0.0.7", 60)
    assert wrong.wait_s("10.0.0.7", 60) == 1


def test_one_host_with_many_addresses_is_one_source() -> None:
    """A host has a whole /64 of IPv6."""
    wrong = WrongTokens(most=3)
    for last in range(3):
        wrong.add(f"2001:db8:0:1::{last:x}", 0)
    assert wrong.wait_s("2001:db8:0:1:ffff::1", 0) > 0
    assert wrong.wait_s("2001:db8:0:2::1", 0) == 0
    for _ in range(3):
        wrong.add("::ffff:10.0.0.7", 0)
    assert wrong.wait_s("10.0.0.7", 0) > 0


def test_memory_is_bounded_and_the_newest_sources_are_kept() -> None:
    """However many addresses an attacker has."""
    wrong = WrongTokens(most=1, max_sources=100)
    for number in range(1000):
        wrong.add(f"10.0.{number // 256}.{number % 256}", 0)
    assert len(wrong) == 100
    assert wrong.wait_s("10.0.3.231", 0) > 0
    assert wrong.wait_s("10.0.0.0", 0) == 0


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:10.0.0.7:51000", "10.0.0.7"),
        ("ipv6:%5B2001:db8::1%5D:51000", "2001:db8::1"),
        ("ipv6:[::1]:51000", "::1"),
        ("unix:", "unix"),
    ],
)
def test_a_caller_over_grpc_is_known_by_its_address(peer: str, host: str) -> None:
    """As gRPC's versions write it; the port changes with each connection."""
    assert caller_of(SimpleNamespace(peer=lambda: peer)) == host


def test_a_guesser_over_grpc_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the right token too; who shows none is told so and not counted."""
    monkeypatch.setenv("AGENTS_TOKEN", "s3cret")
    wanted, wrong = Secret(SecretRef(env="AGENTS_TOKEN")), WrongTokens(most=3)

    def shown(token: str | None, peer: str = "ipv4:10.0.0.7:1") -> grpc.StatusCode | None:
        metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        found = objection(SimpleNamespace(peer=lambda: peer, invocation_metadata=lambda: metadata), wanted, wrong)
        return None if found is None else found[0]

    assert {shown(None) for _ in range(10)} == {grpc.StatusCode.UNAUTHENTICATED}
    assert shown("s3cret") is None
    assert [shown(f"guess {n}", f"ipv4:10.0.0.7:{n}") for n in range(3)] == [grpc.StatusCode.UNAUTHENTICATED] * 3
    assert shown("s3cret") is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert shown("s3cret", "ipv4:10.0.0.8:1") is None
