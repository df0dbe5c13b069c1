"""Resolves references to secrets, `{"env": NAME}` or `{"file": PATH}`, when a secret is needed.

In: a `SecretRef`, or its short form `env:NAME` or `file:PATH`. Out: a token fit for a header. A file is read again when
it changes, checked at most once a second, so a rotated secret needs no restart. Errors, reprs and logs name variables
and files, never a token.
"""

from __future__ import annotations

import os
import time

from agents_io.errors import Unsupported
from schemas.messages import SecretRef

MAX_SECRET_BYTES = 16 * 1024
RECHECK_S = 1.0


class Secret:
    """One secret, cached until its source changes."""

    __slots__ = ("_checked_at", "_field", "_header", "_name", "_ref", "_stamp", "_token")

    def __init__(self, ref: SecretRef, field: str = "auth") -> None:
        """`field`: the field of a registration, or the setting, that errors name."""
        self._ref = ref
        self._field = field
        self._name = f"the environment variable {ref.env}" if ref.env is not None else f"the file {ref.file}"
        self._header = None if ref.header is None else ref.header.encode("ascii")
        self._token = ""
        self._stamp: tuple[int, int, int] | None = None
        self._checked_at = float("-inf")

    def __repr__(self) -> str:
        return f"Secret({self._name})"

    def header(self) -> tuple[bytes, bytes]:
        """The header that carries the secret to the agent. Raises `Unsupported`."""
        token = self.token().encode("ascii")
        return (b"Authorization", b"Bearer " + token) if self._header is None else (self._header, token)

    def token(self) -> str:
        """The secret, stripped. Raises `Unsupported` if it is missing or a header cannot carry it."""
        now = time.monotonic()
        if now - self._checked_at >= RECHECK_S:
            self._refresh()
            self._checked_at = now
        return self._token

    def _refresh(self) -> None:
        if self._ref.env is not None:
            text = os.environ.get(self._ref.env)
            if text is None:
                raise Unsupported(f"{self._field}: {self._name} is not set")
            self._token = self._fit(text)
            return
        path = str(self._ref.file)
        try:
            status = os.stat(path)
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            if stamp == self._stamp:
                return
            with open(path, "rb") as file:
                raw = file.read(MAX_SECRET_BYTES + 1)
        except OSError as error:
            raise Unsupported(f"{self._field}: {self._name} cannot be read ({error.strerror})") from None
        self._token = self._fit(raw.decode("utf-8", "replace"))
        self._stamp = stamp

    def _fit(self, text: str) -> str:
        text = text.strip()
        if not text or len(text) > MAX_SECRET_BYTES or not text.isascii() or not text.isprintable():
            raise Unsupported(f"{self._field}: {self._name} holds no token that a header can carry")
        return text


def secret_of(reference: str | None, setting: str = "auth") -> Secret | None:
    """The secret that a setting references as `env:NAME` or `file:PATH`; None without a reference."""
    if reference is None:
        return None
    kind, _, name = reference.partition(":")
    return Secret(SecretRef(env=name) if kind == "env" else SecretRef(file=name), setting)
