"""No spelling of an address that is not public gets past the rule, whatever IPv6 form it hides in."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents_io.errors import ForbiddenTarget
from agents_io.rules.targets import AllowList, carried, is_public, parse_target

PRIVATE = st.one_of(
    *(
        st.integers(int(IPv4Address(first)), int(IPv4Address(last))).map(IPv4Address)
        for first, last in (
            ("0.0.0.0", "0.255.255.255"),
            ("10.0.0.0", "10.255.255.255"),
            ("100.64.0.0", "100.127.255.255"),
            ("127.0.0.0", "127.255.255.255"),
            ("169.254.0.0", "169.254.255.255"),
            ("172.16.0.0", "172.31.255.255"),
            ("192.168.0.0", "192.168.255.255"),
            ("224.0.0.0", "255.255.255.255"),
        )
    )
)
ANY_V4 = st.integers(0, 2**32 - 1).map(IPv4Address)


def hidings(inner: IPv4Address) -> list[IPv6Address]:
    """Every form in which an IPv6 address has carried an IPv4 one."""
    number = int(inner)
    return [
        IPv6Address(f"::ffff:{inner}"),
        IPv6Address(f"::{inner}"),
        IPv6Address(f"::ffff:0:{inner}"),
        IPv6Address(f"64:ff9b::{inner}"),
        IPv6Address((0x0064FF9B0001 << 80) | number),
        IPv6Address((0x2002 << 112) | (number << 80) | 1),
        IPv6Address((0x20010000 << 96) | (number ^ 0xFFFFFFFF)),
        IPv6Address((0x2A00 << 112) | (0x5EFE << 32) | number),
    ]


def spellings(address: IPv4Address) -> list[str]:
    """How `inet_aton`, browsers and other parsers let one write an IPv4 address."""
    a, b, c, d = address.packed
    number = int(address)
    wide = str(address).translate({48 + n: 0xFF10 + n for n in range(10)} | {46: 0x3002})
    return [
        str(number),
        hex(number),
        oct(number).replace("0o", "0"),
        f"{a}.{(b << 16) | (c << 8) | d}",
        f"{a}.{b}.{(c << 8) | d}",
        f"0x{a:x}.0x{b:x}.0x{c:x}.0x{d:x}",
        f"0{a:o}.0{b:o}.0{c:o}.0{d:o}",
        f"{address}.",
        f"%{ord(str(address)[0]):x}{str(address)[1:]}",
        wide,
        str(address),
    ]


def refused(host: str, allowed: AllowList) -> bool:
    """Whether a URL with that host is refused."""
    try:
        allowed.host_key(parse_target(f"http://{host}/"))
    except ForbiddenTarget:
        return True
    return False


class Everything(AllowList):
    """An allow-list that names every host there is: what is refused now is refused for its address or its form."""

    def __init__(self) -> None:
        super().__init__(["*.example"])

    def host_key(self, target: object) -> str:
        """Addresses only."""
        address = target.address  # type: ignore[attr-defined]
        if address is None or not self.permits(address):
            raise ForbiddenTarget("no")
        return "x"


@given(PRIVATE)
def test_a_private_address_is_refused_in_every_spelling(address: IPv4Address) -> None:
    """Decimal, hexadecimal, octal, short, padded, escaped, in full width: none is a way round."""
    for text in spellings(address):
        assert refused(text, Everything()), text


@given(PRIVATE)
def test_a_private_address_is_refused_in_every_disguise(address: IPv4Address) -> None:
    """Also when NAT64 itself is allowed: then what is inside must be."""
    nat64 = AllowList(networks=["64:ff9b::/96", "2002::/16"])
    for hidden in hidings(address):
        assert carried(hidden) == address or address in (IPv4Address(0), IPv4Address(1)), hidden
        assert not is_public(hidden)
        assert not AllowList().permits(hidden)
        assert not nat64.permits(hidden)
        assert refused(f"[{hidden}]", Everything())


@given(ANY_V4)
def test_a_disguise_is_never_public_and_its_inside_decides_once_it_is_allowed(address: IPv4Address) -> None:
    """A translator's network may be allowed: then public insides pass, and no others."""
    allowed = AllowList(networks=["64:ff9b::/96"])
    for hidden in hidings(address):
        assert not AllowList().permits(hidden)
    assert allowed.permits(IPv6Address(f"64:ff9b::{address}")) == is_public(address)


@given(ANY_V4)
def test_what_is_accepted_as_an_address_is_what_the_system_connects_to(address: IPv4Address) -> None:
    """No parser difference: a host that was read as an address means that address to `inet_aton` too."""
    for text in spellings(address):
        try:
            target = parse_target(f"http://{text}/")
        except ForbiddenTarget:
            continue
        assert target.address is not None
        assert socket.inet_aton(target.host) == target.address.packed == address.packed
        assert target.url.raw_host == target.host


@given(st.text(max_size=60))
def test_any_text_is_a_target_or_a_refusal(text: str) -> None:
    """And a target's host is a plain name or an address, which the URL to connect to has too."""
    refusals: list[str] = []
    for url in (text, f"http://{text}", f"https://{text}/x"):
        try:
            target = parse_target(url)
        except ForbiddenTarget as error:
            refusals.append(error.message)
            continue
        assert target.host == target.url.raw_host
        assert target.host.isascii()
        if target.address is not None:
            assert ip_address(target.host) == target.address
        else:
            assert set(target.host) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_.")
            with pytest.raises(OSError, match="illegal IP"):
                socket.inet_aton(target.host)
    assert all(message.isprintable() for message in refusals)


@given(ANY_V4)
def test_public_is_no_wider_than_the_standard_librarys_notion(address: IPv4Address) -> None:
    """Of IPv4; where they differ we refuse more."""
    if is_public(address):
        assert address.is_global
        assert not address.is_multicast
