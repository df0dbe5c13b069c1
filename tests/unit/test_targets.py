"""Which URLs and hosts http tasks may name; the properties over spellings of addresses are in `tests/properties`."""

from __future__ import annotations

import re
from ipaddress import ip_address

import pytest

from agents_io.errors import ForbiddenTarget
from agents_io.rules.targets import AllowList, is_public, parse_target


@pytest.mark.parametrize(
    "text",
    [
        "ftp://example.com/",
        "file:///etc/passwd",
        "//example.com/",
        "http:/example.com",
        "http:///x",
        "http://",
        "http://user@example.com/",
        "http://user:password@example.com/",
        "http://example.com@evil.example/",
        "http://example.com\\@evil.example/",
        "http://exam ple.com/",
        "http://example.com/\r\nX: y",
        "http://example.com/\tx",
        "http://example%2ecom/",
        "http://[fe80::1%25eth0]/",
        "http://[v1.fe80]/",
        "http://[::1",
        "http://example.com:0/",
        "http://example.com:99999/",
        "http://example.com:http/",
        "http://example.com./",
        "http://example..com/",
        "http://-.com/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://1.2.3.4.5/",
        "http://example.com/" + "x" * 2048,
    ],
)
def test_what_is_no_plain_url_is_refused(text: str) -> None:
    """And nothing of user names or passwords is repeated."""
    with pytest.raises(ForbiddenTarget) as caught:
        parse_target(text)
    assert "password" not in caught.value.message.replace("passwords", "")


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("http://Example.COM", "example.com", 80),
        ("HTTPS://example.com:8443/a?b#c", "example.com", 8443),
        ("https://b\u00fccher.example/", "xn--bcher-kva.example", 443),
        ("http://\uff11\uff12\uff17.0.0.1/", "127.0.0.1", 80),
        ("http://[::FFFF:127.0.0.1]/", "::ffff:7f00:1", 80),
        ("http://a_b.example/", "a_b.example", 80),
        ("http://example.com/a@b\u00e4?x=http://other/", "example.com", 80),
    ],
)
def test_what_a_url_names(text: str, host: str, port: int) -> None:
    """After IDNA; the fragment is dropped."""
    target = parse_target(text)
    assert (target.host, target.port, target.url.raw_host) == (host, port, host)
    assert not target.url.fragment


@pytest.mark.parametrize(
    ("entry", "url", "host_key"),
    [
        ("example.com", "http://example.com/x", "example.com:80"),
        ("example.com", "https://EXAMPLE.com/x", "example.com:443"),
        ("example.com", "http://example.com:8080/", None),
        ("example.com", "http://sub.example.com/", None),
        ("example.com", "http://notexample.com/", None),
        ("example.com", "http://example.com.evil.example/", None),
        ("example.com:8080", "http://example.com:8080/", "example.com:8080"),
        ("example.com:8080", "http://example.com/", None),
        ("https://example.com", "https://example.com/", "example.com:443"),
        ("https://example.com", "http://example.com/", None),
        ("*.example.com", "http://a.b.example.com/", "*.example.com:80"),
        ("*.example.com", "http://example.com/", None),
        ("*.example.com", "http://badexample.com/", None),
        ("B\u00dcCHER.example", "http://b\u00fccher.example/", "xn--bcher-kva.example:80"),
        ("127.0.0.1:8000", "http://127.0.0.1:8000/", "127.0.0.1:8000"),
        ("127.0.0.1:8000", "http://[::ffff:127.0.0.1]:8000/", None),
        ("[::1]:8000", "http://[0:0::1]:8000/", "[::1]:8000"),
        ("10.0.0.1", "http://10.0.0.2/", None),
    ],
)
def test_which_host_an_entry_allows(entry: str, url: str, host_key: str | None) -> None:
    """Host, port and scheme; a wildcard has one key."""
    allowed = AllowList([entry])
    if host_key is None:
        with pytest.raises(ForbiddenTarget):
            allowed.host_key(parse_target(url))
    else:
        assert allowed.host_key(parse_target(url)) == host_key


def test_an_empty_list_allows_nothing() -> None:
    """The default."""
    with pytest.raises(ForbiddenTarget, match=r"http://example\.com:80 is not on the allow-list"):
        AllowList().host_key(parse_target("http://example.com/?secret=1"))


@pytest.mark.parametrize(
    "entry", ["", "*", "*.", "http://", "a b", "a/b", "user@a", "a:b", "a:0", "127.1", "*.10.0.0.1", "[::1", "a:99999"]
)
def test_an_entry_that_is_none_is_told(entry: str) -> None:
    """At start, by name."""
    with pytest.raises(ValueError, match=f"^'{re.escape(entry)}'"):
        AllowList([entry])


@pytest.mark.parametrize("network", ["10.0.0.1/8", "x", "10.0.0.0/33"])
def test_a_network_that_is_none_is_told(network: str) -> None:
    """Host bits too."""
    with pytest.raises(ValueError, match="no network"):
        AllowList((), [network])


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "127.0.0.1", "10.1.2.3", "172.31.255.255", "192.168.1.1", "169.254.169.254", "100.100.100.200"),
        *("168.63.129.16", "192.0.0.192", "198.18.0.1", "224.0.0.1", "255.255.255.255", "::", "::1", "fe80::1"),
        *("fc00::1", "fd00:ec2::254", "ff02::1", "::ffff:1.1.1.1", "64:ff9b::1.1.1.1", "2002:101:101::", "2001::1"),
        *("2001:db8::1", "100::1", "3fff::1", "2a00::5efe:7f00:1"),
    ],
)
def test_special_addresses_are_not_public(address: str) -> None:
    """Loopback, private, metadata services, multicast, and all that carries an IPv4 address."""
    assert not is_public(ip_address(address))


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00:1450::1"]
)
def test_plain_addresses_are_public(address: str) -> None:
    """Or nothing would ever be reached."""
    assert is_public(ip_address(address))


def test_networks_let_private_addresses_pass_but_only_those() -> None:
    """An operator's own network behind a name."""
    allowed = AllowList(["intranet"], ["10.0.0.0/8"])
    assert allowed.permits(ip_address("10.9.9.9"))
    assert not allowed.permits(ip_address("192.168.0.1"))
    assert not allowed.permits(ip_address("::ffff:10.9.9.9")), "the disguise itself was not allowed"
