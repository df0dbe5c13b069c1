"""TLS of the worker's own gRPC port: its certificate, and which clients it accepts.

In: the files that `grpc_tls` names. Out: credentials for the server, and for calls to other workers. The files are
checked when a client connects, at most once a second: a renewed certificate is used from the next connection on; if it
cannot be used, the last good one stays in use. A worker does not start with files that cannot be used.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import grpc
import structlog

from agents_io.errors import Unsupported
from agents_io.tls import RECHECK_S, TlsFiles, context_of, stamps_of
from streams.settings_parts import GrpcTlsSettings

log = structlog.get_logger(__name__)

SECTION = "grpc_tls"
_TURNS = 10
"""More than any handshake takes."""
_FILES = ("cert_file", "key_file", "client_ca_file", "ca_file")


class TlsUnusable(Exception):
    """A file that `grpc_tls` names cannot be used; one line that names the setting."""


def server_credentials(given: GrpcTlsSettings) -> grpc.ServerCredentials | None:
    """Credentials of the server's port; None: plain text. Raises `TlsUnusable`, also for the files towards other
    workers.
    """
    if given.cert_file is None:
        return None
    judge(given)
    try:
        doubt = mistrust(given)
        if doubt is not None:
            log.warning("grpc_tls: workers with these settings cannot call each other", reason=doubt)
        return _Certificate(TlsFiles(given.client_ca_file, given.cert_file, given.key_file)).credentials()
    except (Unsupported, OSError) as error:  # they are being replaced right now
        raise TlsUnusable(f"{SECTION}: {error}") from None


def towards_workers(given: GrpcTlsSettings) -> TlsFiles | None:
    """Which workers this worker trusts, and its own certificate for them; None: workers use plain text."""
    return None if given.cert_file is None else TlsFiles(given.ca_file, given.cert_file, given.key_file)


def mistrust(given: GrpcTlsSettings) -> str | None:
    """Why two workers with these settings would not trust each other; None: they would.

    Raises `Unsupported`, `OSError`. It is no error: agents can be served all the same, and a single worker needs no
    other.
    """
    files = towards_workers(given)
    if files is None:
        return None
    caller = context_of(files)
    caller.check_hostname = given.worker_name is not None
    holder = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    holder.load_cert_chain(files.cert_file or "", files.key_file, password="")
    if given.client_ca_file is not None:
        holder.verify_mode = ssl.CERT_REQUIRED
        holder.load_verify_locations(given.client_ca_file)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = {
        "ca_file": caller.wrap_bio(back, there, server_hostname=given.worker_name),
        "client_ca_file": holder.wrap_bio(there, back, server_side=True),
    }
    for _ in range(_TURNS):
        for name, side in list(sides.items()):
            try:
                side.do_handshake()
                del sides[name]
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError as error:
                why = getattr(error, "verify_message", "") or error.reason
                return f"{SECTION}.{name}: the certificate of {files.cert_file} is refused: {why}"
    return None


def judge(given: GrpcTlsSettings) -> None:
    """Raises `TlsUnusable` for the first file that is missing or invalid."""
    for name in _FILES:
        path = getattr(given, name)
        try:
            if path is not None:
                Path(path).read_bytes()
        except OSError as error:
            raise TlsUnusable(f"{SECTION}.{name}: the file {path} cannot be read ({error.strerror})") from None
    pair = "cert_file" if given.key_file is None else "key_file"
    for name, files in (
        (pair, TlsFiles(None, given.cert_file, given.key_file)),
        ("client_ca_file", TlsFiles(given.client_ca_file)),
        ("ca_file", TlsFiles(given.ca_file)),
    ):
        try:
            context_of(files)
        except Unsupported as error:
            raise TlsUnusable(f"{SECTION}.{name}: {error.message.removeprefix('tls: ')}") from None


class _Certificate:
    """The server's certificate, and the CA of the clients it accepts (`files.ca_file`), from the files as they are
    now.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._lock = threading.Lock()
        """gRPC calls from its own threads."""
        self._looked_at = time.monotonic()
        self._said = ""
        self._stamps = self._refused = stamps_of(files)
        self._first = self._read()

    def credentials(self) -> grpc.ServerCredentials:
        """Called before each handshake for newer credentials."""
        newer = cast("Callable[[], grpc.ServerCertificateConfiguration]", self._newer)  # gRPC allows None too
        mutual = self._files.ca_file is not None
        return grpc.dynamic_ssl_server_credentials(self._first, newer, require_client_authentication=mutual)

    def _newer(self) -> grpc.ServerCertificateConfiguration | None:
        with self._lock:
            now = time.monotonic()
            if now - self._looked_at < RECHECK_S:
                return None
            self._looked_at = now
            try:
                return self._changed()
            except (Unsupported, OSError) as error:
                if str(error) != self._said:
                    self._said = str(error)
                    log.error("grpc_tls: the changed files cannot be used", reason=self._said)
                return None

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        stamps = stamps_of(self._files)
        if stamps in (self._stamps, self._refused):
            return None
        try:
            found = self._read()
        except Unsupported:
            self._refused = stamps
            raise
        if stamps_of(self._files) != stamps:
            return None  # the files are being written now; a certificate must not be used with another key
        self._stamps, self._said = stamps, ""
        log.info("grpc_tls: the changed files are in use")
        return found

    def _read(self) -> grpc.ServerCertificateConfiguration:
        files = self._files
        context_of(files)  # it validates them; gRPC itself would only refuse the clients
        chain = Path(files.cert_file or "").read_bytes()
        # A certificate and its key may lie in one file.
        key = chain if files.key_file is None else Path(files.key_file).read_bytes()
        authority = None if files.ca_file is None else Path(files.ca_file).read_bytes()
        return grpc.ssl_server_certificate_configuration([(key, chain)], authority)
