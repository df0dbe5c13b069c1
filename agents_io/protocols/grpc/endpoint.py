"""The address of a gRPC agent, from its registration. Imports no gRPC: commands that only check a registration stay
fast.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

from agents_io.errors import Unsupported


class Endpoint(NamedTuple):
    """`target`: host:port. `tls`: whether the agent must show a certificate."""

    target: str
    tls: bool


def endpoint_of(text: str) -> Endpoint:
    """Where a gRPC agent is. Raises `Unsupported`.

    >>> endpoint_of("grpc://agents.local:7000"), endpoint_of("[::1]:7000"), endpoint_of("grpcs://a.example")
    (Endpoint(target='agents.local:7000', tls=False), Endpoint(target='[::1]:7000', tls=False), \
Endpoint(target='a.example:443', tls=True))
    """
    scheme, _, rest = text.rpartition("://")
    if scheme not in ("", "grpc", "grpcs"):
        raise Unsupported(f"endpoint: a grpc agent needs grpc://host:port or grpcs://host:port, not {text[:80]!r}")
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    tls = scheme == "grpcs"
    port = port or (443 if tls else None)
    if not host or port is None or parts.path not in ("", "/") or parts.query or "@" in rest or "%" in rest:
        raise Unsupported(f"endpoint: a grpc agent needs a host and a port and no more, not {text[:80]!r}")
    return Endpoint(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", tls)
