"""TLS for gRPC channels, from the files named in a registration or in the settings.

Out: credentials, the same object as long as the files stay the same, since a channel is identified by it. Without a CA
file, the authorities of grpcio are trusted. Errors name files only.
"""

from __future__ import annotations

import ssl
from collections import OrderedDict
from pathlib import Path

import grpc

from agents_io.errors import Unsupported
from agents_io.tls import CONTEXTS, TlsFiles

MAX_KEPT = 1000


class GrpcCredentials:
    """Caches the credentials of each set of files."""

    def __init__(self) -> None:
        self._usual: grpc.ChannelCredentials | None = None
        self._kept: OrderedDict[TlsFiles, tuple[ssl.SSLContext, grpc.ChannelCredentials]] = OrderedDict()

    def get(self, files: TlsFiles) -> grpc.ChannelCredentials:
        """Raises `Unsupported` if the files cannot be used."""
        # It validates the files (gRPC itself would only fail to connect), and changes with them.
        context = CONTEXTS.get(files)
        if context is None:
            self._usual = self._usual or grpc.ssl_channel_credentials()
            return self._usual
        kept = self._kept.get(files)
        if kept is None or kept[0] is not context:
            kept = self._kept[files] = (context, _made(files))
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        return kept[1]


def _made(files: TlsFiles) -> grpc.ChannelCredentials:
    authority, chain = _read(files.ca_file), _read(files.cert_file)
    # A certificate and its key may lie in one file.
    key = _read(files.key_file) or chain
    return grpc.ssl_channel_credentials(authority, key, chain)


def _read(path: str | None) -> bytes | None:
    try:
        return None if path is None else Path(path).read_bytes()
    except OSError as error:
        raise Unsupported(f"tls: the file {path} cannot be read ({error.strerror})") from None
