"""TLS towards agents: a private CA and a client certificate, from files.

In: paths, from the settings (for every agent) or from a registration's `metadata.tls`, `{"caFile"?, "certFile"?,
"keyFile"?}` (for one agent, in place of the settings'). Out: an `ssl.SSLContext` that verifies the agent's name, made
again when a file changes (checked at most once a second). Verification cannot be switched off. Errors name files, never
their content.
"""

from __future__ import annotations

import os
import ssl
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agents_io.errors import Unsupported

MAX_CONTEXTS = 1000
RECHECK_S = 1.0
_NAMES = {"caFile": "ca_file", "certFile": "cert_file", "keyFile": "key_file"}


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files. `ca_file`: replaces the system's CAs; the other two: our own certificate."""

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None

    def __bool__(self) -> bool:
        return self.ca_file is not None or self.cert_file is not None


def tls_of(metadata: Mapping[str, Any] | None) -> TlsFiles | None:
    """The files a registration names, None without any. Raises `Unsupported`: the registration is invalid.

    >>> tls_of({"tls": {"caFile": "a.pem"}})
    TlsFiles(ca_file='a.pem', cert_file=None, key_file=None)
    """
    given = (metadata or {}).get("tls")
    if given is None:
        return None
    if not isinstance(given, dict) or not given.keys() <= _NAMES.keys():
        raise Unsupported(f"metadata.tls: must be an object of {', '.join(_NAMES)}")
    if not all(isinstance(path, str) and path for path in given.values()):
        raise Unsupported("metadata.tls: each file must be a path in a string")
    found = TlsFiles(**{_NAMES[name]: path for name, path in given.items()})
    if found.key_file is not None and found.cert_file is None:
        raise Unsupported("metadata.tls.keyFile: needs certFile too")
    return found


Stamps = tuple[tuple[int, int, int], ...]


class TlsContexts:
    """Contexts by their files. Agents with the same files share a context, and its connections."""

    def __init__(self) -> None:
        self._kept: OrderedDict[TlsFiles, tuple[float, Stamps, ssl.SSLContext]] = OrderedDict()

    def get(self, files: TlsFiles) -> ssl.SSLContext | None:
        """The context for these files; None for no files. Raises `Unsupported` if they cannot be used."""
        if not files:
            return None
        now = time.monotonic()
        kept = self._kept.get(files)
        if kept is not None and now - kept[0] < RECHECK_S:
            return kept[2]
        stamps = stamps_of(files)
        context = kept[2] if kept is not None and kept[1] == stamps else context_of(files)
        self._kept[files] = (now, stamps, context)
        self._kept.move_to_end(files)
        if len(self._kept) > MAX_CONTEXTS:
            self._kept.popitem(last=False)
        return context


def stamps_of(files: TlsFiles) -> Stamps:
    """Stamps of the files, which change with their content. Raises `Unsupported`: a file is missing."""
    return tuple(_stamp(path) for path in (files.ca_file, files.cert_file, files.key_file) if path is not None)


def _stamp(path: str) -> tuple[int, int, int]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise Unsupported(f"tls: the file {path} cannot be read ({error.strerror})") from None
    return status.st_mtime_ns, status.st_size, status.st_ino


def context_of(files: TlsFiles) -> ssl.SSLContext:
    """A new context. Raises `Unsupported` if the files cannot be used."""
    try:
        context = ssl.create_default_context(cafile=files.ca_file)
    except (OSError, ValueError) as error:
        raise Unsupported(f"tls: the file {files.ca_file} holds no CA certificate: {_reason(error)}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if files.cert_file is not None:
        try:
            # An empty password: a key that wants one fails instead of asking at the terminal.
            context.load_cert_chain(files.cert_file, files.key_file, password="")
        except (OSError, ValueError) as error:
            where = " and ".join(path for path in (files.cert_file, files.key_file) if path is not None)
            raise Unsupported(f"tls: {where} hold no certificate with its key: {_reason(error)}") from None
    return context


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__


CONTEXTS = TlsContexts()
"""Shared by the whole process: files that many registrations name are read once."""
