"""The worker's gRPC server, by default on a loopback address, for all services that are added to it.

In: handlers, added before the start. Out: an address; with `grpc_tls.cert_file` it accepts only TLS.
"""

from __future__ import annotations

import grpc
import grpc.aio

from streams.grpc_tls import server_credentials
from streams.settings import Settings

MIN_MESSAGE_BYTES = 16 * 1024 * 1024
"""A larger message ends its stream, with every call on it: an answer that is too large must be read, so that it alone
is refused.
"""
STOP_GRACE_S = 1.0
KEEPALIVE = (("grpc.keepalive_time_ms", 30_000), ("grpc.http2.ping_timeout_ms", 10_000))
"""Detects connections that disappeared silently. A ping without an answer counts for a minute by default, whatever
`keepalive_timeout_ms` is.
"""


class PortTaken(Exception):
    """An address cannot be bound, for gRPC or for the pages; one line."""


class GrpcServer:
    """One worker's gRPC services. `address`: host:port once it listens."""

    def __init__(self, settings: Settings) -> None:
        self.address = ""
        self._host, self._port = settings.grpc_host, settings.grpc_port
        self._tls = settings.grpc_tls
        self._max_message_bytes = max(MIN_MESSAGE_BYTES, 2 * settings.dispatch.max_answer_bytes)
        self._handlers: list[grpc.GenericRpcHandler] = []
        self._server: grpc.aio.Server | None = None

    def add(self, handler: grpc.GenericRpcHandler) -> None:
        """Add a handler before the start."""
        self._handlers.append(handler)

    def bind(self) -> None:
        """Bind the address; callers wait until the start. Raises `PortTaken`, `TlsUnusable`."""
        credentials = server_credentials(self._tls)
        host = f"[{self._host}]" if ":" in self._host else self._host
        server = grpc.aio.server(options=self._options())
        try:
            where = f"{host}:{self._port}"
            bound = (
                server.add_insecure_port(where) if credentials is None else server.add_secure_port(where, credentials)
            )
        except RuntimeError:
            bound = 0
        if bound == 0:
            raise PortTaken(
                f"grpc address {host}:{self._port} is in use or cannot be bound; choose another with --grpc-port "
                "(0: a free one)"
            )
        self._server = server
        self.address = f"{host}:{bound}"

    async def start(self) -> None:
        """Serve the added handlers. Raises `PortTaken`, `TlsUnusable`."""
        if self._server is None:
            self.bind()
        assert self._server is not None  # noqa: S101 - for the type checker
        self._server.add_generic_rpc_handlers(tuple(self._handlers))
        await self._server.start()

    async def stop(self) -> None:
        """Stop listening; streams still open are ended."""
        if self._server is not None:
            await self._server.stop(STOP_GRACE_S)
            self._server = None

    def _options(self) -> list[tuple[str, int]]:
        return [
            # Two workers on one port would each see a part of the agents.
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", self._max_message_bytes),
            ("grpc.max_send_message_length", -1),
            *KEEPALIVE,
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            ("grpc.keepalive_permit_without_calls", 1),
        ]
