"""Where workers tell each other that they can be reached, and which addresses only this machine reaches. Pure."""

from __future__ import annotations

import ipaddress


def advertised(configured: str | None, bound: str, hostname: str) -> str:
    """Where other workers reach this one: as configured (port 0: the bound one), else where it listens; by name if everywhere.

    >>> advertised(None, "0.0.0.0:5", "w1"), advertised(None, "127.0.0.1:5", "w1"), advertised("10.0.0.7:0", "[::]:5", "w1")
    ('w1:5', '127.0.0.1:5', '10.0.0.7:5')
    """
    host, _, port = (configured or bound).rpartition(":")
    if configured is None and host in ("0.0.0.0", "[::]", "::", ""):  # noqa: S104 - recognised, not bound
        host = hostname
    return f"{host}:{bound.rpartition(':')[2] if port == '0' else port}"


def is_loopback(host: str) -> bool:
    """Whether a host, without port, means this machine whatever a name server says.

    >>> [is_loopback(host) for host in ("localhost", "127.0.0.1", "[::1]", "evil.example", "0.0.0.0", "")]
    [True, True, True, False, False, False]
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False
