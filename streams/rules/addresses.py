"""Where workers tell each other that they can be reached. Pure."""

from __future__ import annotations


def advertised(wished: str | None, bound: str, hostname: str) -> str:
    """Where other workers reach this one: as wished (port 0: the bound one), else where it listens; by name if everywhere.

    >>> advertised(None, "0.0.0.0:5", "w1"), advertised(None, "127.0.0.1:5", "w1"), advertised("10.0.0.7:0", "[::]:5", "w1")
    ('w1:5', '127.0.0.1:5', '10.0.0.7:5')
    """
    host, _, port = (wished or bound).rpartition(":")
    if wished is None and host in ("0.0.0.0", "[::]", "::", ""):  # noqa: S104 - recognised, not bound
        host = hostname
    return f"{host}:{bound.rpartition(':')[2] if port == '0' else port}"
