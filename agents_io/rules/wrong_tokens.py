"""Limits how many wrong tokens one source may send. Pure.

In: the addresses that tokens come from, and the time. Out: how long a source has to wait. Only wrong tokens are
counted. While a source waits, its right tokens are refused too: otherwise it could go on guessing.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from ipaddress import IPv4Address, IPv6Address, ip_address

MOST = 10
WINDOW_S = 60.0
MAX_SOURCES = 10_000
"""Beyond this, the source that was counted longest ago is forgotten."""


def peer_address(text: str) -> IPv4Address | IPv6Address | None:
    """A peer's address without its zone; the IPv4 address within an IPv6 one; None if it is not an address.

    >>> peer_address("::ffff:10.0.0.7"), peer_address("fe80::1%eth0"), peer_address("")
    (IPv4Address('10.0.0.7'), IPv6Address('fe80::1'), None)
    """
    try:
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return found if mapped is None else mapped


def source_of(address: str) -> str:
    """The key that counts as one source: an IPv4 address, or the /64 of an IPv6 one, which is what one host is given.

    >>> source_of("::ffff:10.0.0.7"), source_of("2001:db8::1:2"), source_of("10.0.0.7"), source_of("")
    ('10.0.0.7', '2001:db8::/64', '10.0.0.7', '')
    """
    found = peer_address(address)
    if found is None:
        return address
    return str(found) if isinstance(found, IPv4Address) else f"{IPv6Address(int(found) >> 64 << 64)}/64"


class WrongTokens:
    """Wrong tokens by source within the last `window_s` seconds.

    >>> wrong = WrongTokens(most=2, window_s=60)
    >>> wrong.add("10.0.0.7", 0), wrong.wait_s("10.0.0.7", 1), wrong.add("10.0.0.7", 1), wrong.wait_s("10.0.0.7", 20)
    (None, 0.0, None, 40)
    """

    def __init__(self, most: int = MOST, window_s: float = WINDOW_S, max_sources: int = MAX_SOURCES) -> None:
        self._most = most
        self._window_s = window_s
        self._max_sources = max_sources
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._times)

    def wait_s(self, address: str, now: float) -> float:
        """Seconds until this address may send a token again; 0: now."""
        times = self._times.get(source_of(address))
        if times is None or len(times) < self._most:
            return 0.0
        return max(0.0, times[0] + self._window_s - now)

    def add(self, address: str, now: float) -> None:
        """Count a wrong token from this address."""
        source = source_of(address)
        # Only the newest `most` matter: the oldest of them says when the next may come.
        times = self._times.setdefault(source, deque(maxlen=self._most))
        while times and times[0] + self._window_s <= now:
            times.popleft()
        times.append(now)
        self._times.move_to_end(source)
        if len(self._times) > self._max_sources:
            self._times.popitem(last=False)
