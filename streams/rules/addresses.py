"""The address that a worker publishes to other workers, and which addresses only this machine reaches. Pure."""

from __future__ import annotations

import ipaddress


def advertised(configured: str | None, bound: str, hostname: str) -> str:
    """A worker's address for other workers: as configured (port 0: the bound one), else the one it listens on; the
    host's name if it listens everywhere.

    >>> advertised(None, "0.0.0.0:5", "w1"), advertised(None, "127.0.0.1:5", "w1"), advertised("10.0.0.7:0", "[::]:5", "w1")
    ('w1:5', '127.0.0.1:5', '10.0.0.7:5')
    """
    host, _, port = (configured or bound).rpartition(":")
    if configured is None and host in ("0.0.0.0", "[::]", "::", ""):  # noqa: S104 - recognised, not bound
        host = hostname
    return f"{host}:{bound.rpartition(':')[2] if port == '0' else port}"


def is_loopback(host: str) -> bool:
    """Whether a host, without port, is this machine regardless of name servers.

    >>> [is_loopback(host) for host in ("localhost", "127.0.0.1", "[::1]", "evil.example", "0.0.0.0", "")]
    [True, True, True, False, False, False]
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False
