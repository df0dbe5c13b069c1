"""Where an http task may go: accepted URLs, allowed hosts, refused addresses. Pure.

In: a task's target, the allow-list, addresses that a name resolved to. Out: a `Target`, its agent id, or
`ForbiddenTarget`. `AgentWall` applies the same rules to agents' endpoints, if configured.

Everything is decided on the result of one parser (yarl, after IDNA), the same object that is connected to. Addresses
are checked twice: in the URL, and where the connection is made, so a name cannot lead elsewhere.

Refused unless a network allows it: every special-purpose block (loopback, private, link-local with the clouds'
metadata, CGNAT, multicast, ...) and every IPv6 form that carries an IPv4 address, which must then be allowed itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import yarl

from agents_io.errors import ForbiddenTarget

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_URL = 2048
_SHOWN = 80
_AUTHORITY = re.compile(r"(https?)://([^/?#]*)", re.IGNORECASE)
_UNFIT = re.compile(r"[\x00-\x20\x7f\\]")
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
# A name that ends in a number is an address to some parsers: 2130706433, 0x7f.1, 127.1, 0177.0.0.1.
_NUMBER = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)")
_ENTRY = re.compile(
    r"(?:(?P<scheme>https?)://)?(?P<wild>\*\.)?(?P<host>\[[0-9a-f:.]+\]|[^:/@?#\[\]*]+)(?::(?P<port>[0-9]{1,5}))?"
)

_NEVER_V4 = tuple(
    IPv4Network(block)
    for block in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's host agent: public by number, the machine's own by use
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",
    )
)
_PUBLIC_V6 = IPv6Network("2000::/3")
_NEVER_V6 = tuple(
    IPv6Network(block) for block in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")
)
# Where an IPv4 address stands in an IPv6 one: network, bits from the right, whether inverted.
_CARRIERS = (
    (IPv6Network("::ffff:0:0/96"), 0, False),  # mapped
    (IPv6Network("::/96"), 0, False),  # compatible
    (IPv6Network("::ffff:0:0:0/96"), 0, False),  # translated
    (IPv6Network("64:ff9b::/96"), 0, False),  # NAT64
    (IPv6Network("64:ff9b:1::/48"), 0, False),  # NAT64, local use
    (IPv6Network("2002::/16"), 80, False),  # 6to4
    (IPv6Network("2001::/32"), 0, True),  # Teredo
)
_ISATAP = frozenset((0x00005EFE, 0x02005EFE))


@dataclass(frozen=True, slots=True)
class Target:
    """A parsed URL. `host`: lower case, after IDNA, an IPv6 address without brackets; `address`: if the host is one."""

    url: yarl.URL
    host: str
    port: int
    address: Address | None


@dataclass(frozen=True, slots=True)
class _Entry:
    scheme: str | None
    host: str
    wild: bool
    port: int | None

    def matches(self, target: Target) -> bool:
        if self.scheme is not None and self.scheme != target.url.scheme:
            return False
        if target.port != (self.port or (443 if target.url.scheme == "https" else 80)):
            return False
        if self.wild:
            return target.address is None and target.host.endswith("." + self.host)
        return target.host == self.host


def parse_target(text: str) -> Target:
    """The URL of an http task. Raises `ForbiddenTarget` if it is not a plain http(s) URL.

    >>> parse_target("https://API.Example.com/v1?x=1").host
    'api.example.com'
    >>> parse_target("http://0x7f.1/")
    Traceback (most recent call last):
    agents_io.errors.ForbiddenTarget: target: the host '0x7f.1' is an address in a spelling that is not accepted
    """
    found = _AUTHORITY.match(text) if len(text) <= MAX_URL and not _UNFIT.search(text) else None
    if found is None:
        raise ForbiddenTarget(f"target: must be an http:// or https:// URL of at most {MAX_URL} plain characters")
    if "@" in found[2] or "%" in found[2]:
        raise ForbiddenTarget("target: user names, passwords and escapes are not accepted before the path")
    try:
        url = yarl.URL(text).with_fragment(None)
        host, port = url.raw_host, url.port
    except ValueError:
        raise ForbiddenTarget("target: is not a URL that can be read") from None
    if not host or not port or ("[" in found[2]) != (":" in host):
        raise ForbiddenTarget("target: names no host or no port")
    return Target(url, host, port, _literal(host))


def _literal(host: str) -> Address | None:
    if ":" in host:
        try:
            return ip_address(host)
        except ValueError:
            raise ForbiddenTarget(f"target: the host {_shown(host)} is no address") from None
    if _NUMBER.fullmatch(host.rpartition(".")[2]):
        try:
            return IPv4Address(host)
        except ValueError:
            raise ForbiddenTarget(
                f"target: the host {_shown(host)} is an address in a spelling that is not accepted"
            ) from None
    if len(host) > 253 or not _NAME.fullmatch(host):
        raise ForbiddenTarget(f"target: {_shown(host)} is no host name")
    return None


def carried(address: Address) -> IPv4Address | None:
    """The IPv4 address within an IPv6 one, in any form that has been in use; None for a plain IPv6 address.

    >>> carried(IPv6Address("64:ff9b::a9fe:a9fe")), carried(IPv6Address("2002:7f00:1::"))
    (IPv4Address('169.254.169.254'), IPv4Address('127.0.0.1'))
    """
    if isinstance(address, IPv4Address):
        return None
    number = int(address)
    for network, shift, inverted in _CARRIERS:
        if address in network:
            part = (number >> shift) & 0xFFFFFFFF
            return IPv4Address(part ^ 0xFFFFFFFF if inverted else part)
    if (number >> 32) & 0xFFFFFFFF in _ISATAP:
        return IPv4Address(number & 0xFFFFFFFF)
    return None


def is_public(address: Address) -> bool:
    """Whether it can be a host on the Internet: not in a special-purpose block, and without an IPv4 address inside.

    >>> is_public(IPv4Address("1.1.1.1")), is_public(IPv4Address("100.100.100.200"))
    (True, False)
    """
    if isinstance(address, IPv4Address):
        return not any(address in block for block in _NEVER_V4)
    return address in _PUBLIC_V6 and not any(address in block for block in _NEVER_V6) and carried(address) is None


class AllowList:
    """Which hosts http tasks may call. `hosts`: `example.com`, `*.example.com` (what lies below it), `https://example.com`,
    `example.com:8443`, `[::1]:8000`; without a port the scheme's own. An address named here is allowed itself.
    `networks`: blocks that names may resolve to although they are not public, such as `10.0.0.0/8`.
    """

    def __init__(
        self,
        hosts: Iterable[str] = (),
        networks: Iterable[str] = (),
        *,
        field: str = "target",
        section: str = "http_tasks",
    ) -> None:
        """`field` and `section`: what errors name. Raises ValueError naming the invalid entry."""
        self._field = field
        self._section = section
        self._entries = tuple(_entry(text) for text in hosts)
        self._networks: Sequence[Network] = tuple(_network(text) for text in networks)
        named = (_plain(entry.host) for entry in self._entries if not entry.wild)
        self._addresses = frozenset(address for address in named if address is not None)

    def host_key(self, target: Target) -> str:
        """The name under which calls to this target are limited: `host:port`, or that of the wildcard. Raises
        `ForbiddenTarget`.
        """
        entry = next((entry for entry in self._entries if entry.matches(target)), None)
        if entry is None:
            shown = f"{target.url.scheme}://{_shown(target.host)[1:-1]}:{target.port}"
            raise ForbiddenTarget(f"{self._field}: {shown} is not on the allow-list (setting {self._section}.allow)")
        if target.address is not None:
            self.check_address(target.address)
        host = f"[{target.host}]" if ":" in target.host else target.host
        return f"*.{entry.host}:{target.port}" if entry.wild else f"{host}:{target.port}"

    def permits(self, address: Address) -> bool:
        """Whether a connection to this address may be made, for any name."""
        if address in self._addresses:
            return True
        known = any(address in network for network in self._networks)
        inner = carried(address)
        if inner is not None:
            return known and self.permits(inner)
        return known or is_public(address)

    def check_address(self, address: Address) -> None:
        """Raises `ForbiddenTarget` for an address that no connection may be made to."""
        if not self.permits(address):
            why = f"the address {address} is not public and not allowed (setting {self._section}.networks)"
            raise ForbiddenTarget(f"{self._field}: {why}")

    def check_text(self, text: str) -> None:
        """As `check_address`, for an address as a resolver writes it."""
        try:
            address = ip_address(text)
        except ValueError:
            raise ForbiddenTarget(f"{self._field}: leads to an address in a form that is not accepted") from None
        self.check_address(address)


class AgentWall:
    """The same rules for agents' endpoints. `allow`: as for http tasks; empty, or `*`: every host, so only addresses
    count.

    All addresses of a name are checked when a connection is made, since they may change.
    """

    def __init__(self, allow: Sequence[str], networks: Sequence[str]) -> None:
        """Raises ValueError naming the invalid entry."""
        hosts = [host for host in allow if host != "*"]
        self._any_host = not allow or len(hosts) < len(allow)
        self._list = AllowList(hosts, networks, field="endpoint", section="agents")

    def check_origin(self, host: str, port: int, *, tls: bool) -> None:
        """Raises `ForbiddenTarget` for a host that is not on the list."""
        if self._any_host:
            return
        shown = f"[{host}]" if ":" in host else host
        try:
            target = parse_target(f"{'https' if tls else 'http'}://{shown}:{port}/")
        except ForbiddenTarget as error:
            raise ForbiddenTarget(f"endpoint: {error.message.removeprefix('target: ')}") from None
        self._list.host_key(target)

    def check_address(self, text: str) -> None:
        """Raises `ForbiddenTarget` for an address that is neither public nor allowed."""
        self._list.check_text(text)


def _entry(text: str) -> _Entry:
    found = _ENTRY.fullmatch(text.strip().lower())
    if found is None:
        raise ValueError(
            f"{text!r} is no host; write example.com, *.example.com, https://example.com:8443 or [::1]:8000"
        )
    try:
        target = parse_target(f"{found['scheme'] or 'http'}://{found['host']}:{found['port'] or 80}/")
    except ForbiddenTarget as error:
        raise ValueError(f"{text!r}: {error.message.removeprefix('target: ')}") from None
    if found["wild"] and target.address is not None:
        raise ValueError(f"{text!r}: an address has nothing below it")
    return _Entry(found["scheme"], target.host, bool(found["wild"]), int(found["port"]) if found["port"] else None)


def _network(text: str) -> Network:
    try:
        return ip_network(text.strip())
    except ValueError as error:
        raise ValueError(f"{text!r} is no network such as 10.0.0.0/8: {error}") from None


def _plain(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _shown(text: str) -> str:
    text = "".join(char if char.isprintable() else "?" for char in text[: _SHOWN + 1])
    return f"'{text}'" if len(text) <= _SHOWN else f"'{text[:_SHOWN]}...'"
