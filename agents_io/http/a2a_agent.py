"""What is known of one A2A agent: its card, where and in which version it is called, and what it was seen to take.

In: a registration, cards. Out: targets and parameters for `a2a.py`. It opens nothing.
"""

from __future__ import annotations

import asyncio
from typing import Any

import yarl

from agents_io.http.peer import Peer, Target, below
from agents_io.rules.wire.a2a_card import CARD_PATHS, Card, Version, version_of
from schemas.messages import AgentRegistration


class A2aAgent(Peer):
    """One agent: its card, and where it is called."""

    __slots__ = (
        "blocking",
        "can_stream",
        "data_works",
        "fixed",
        "lock",
        "other",
        "read_at",
        "rpc",
        "stream_chosen",
        "stream_only",
        "streams",
        "tenant",
        "text_only",
        "text_tried",
        "version",
    )

    keeps_cookies = True

    def __init__(self, agent: AgentRegistration) -> None:
        super().__init__(agent)
        metadata = agent.metadata or {}
        self.fixed = version_of(metadata)
        self.blocking = metadata.get("blocking") is True
        self.text_only: bool = metadata.get("textOnly") is True
        self.version: Version = self.fixed or "1.0"
        self.rpc = below(self.base, "")
        self.tenant: str | None = metadata.get("tenant") if isinstance(metadata.get("tenant"), str) else None
        self.other: tuple[Version, str] | None = None
        self.streams = False
        """Whether a task is watched by a stream: only 0.3 needs it, see `rules/wire/a2a_stream.py`."""
        self.stream_only: bool = metadata.get("stream") is True
        """Whether answers are taken from streams: the registration says so, or the agent offers nothing else."""
        self.stream_chosen = "stream" in metadata
        self.can_stream = False
        """Whether its card says that it streams."""
        self.lock = asyncio.Lock()
        self.read_at = float("-inf")
        self.data_works = False
        """Whether a message with a data part was answered."""
        self.text_tried = (self.agent.metadata or {}).get("textOnly") is not None
        """Whether text alone was tried after a data part failed, or the registration decides."""

    def learn(self, card: Card, now: float) -> None:
        """Where the card says, on the registered host; what the registration says stands above it."""
        if self.other is None or (card.version, card.path) != self.other:  # else it was refused a moment ago
            self.rpc, self.version = self._at(card.path), card.version
            self.other = card.other
        self.read_at = now
        self.can_stream = card.streams
        self.streams = card.streams and self.version == "0.3" and not self.blocking
        metadata = self.agent.metadata or {}
        if "tenant" not in metadata:
            self.tenant = card.tenant
        if "textOnly" not in metadata and not self.text_tried:
            self.text_only = card.text_only

    def turn_to_other(self) -> bool:
        """Speak the other version from now on; False: there is none left to try."""
        if self.other is None:
            return False
        spoken = (self.version, self.rpc.httpx.raw_path.decode("ascii"))
        self.version, path = self.other
        self.rpc, self.other = self._at(path), spoken
        return True

    def _at(self, path: str) -> Target:
        path, _, query = path.partition("?")
        return Target(
            yarl.URL.build(
                scheme=self.base.scheme,
                authority=self.base.raw_authority,
                path=path,
                query_string=query or self.base.raw_query_string,
                encoded=True,
            )
        )

    def addressed(self, params: dict[str, Any]) -> dict[str, Any]:
        """The parameters with the tenant, which 1.0 knows."""
        return params if self.tenant is None or self.version != "1.0" else {"tenant": self.tenant, **params}


def card_targets(base: yarl.URL) -> list[Target]:
    """Where a card may lie: under the endpoint, then at the host's root; each path once. The endpoint's query goes along."""
    places = dict.fromkeys(base.raw_path.rstrip("/") + "/" + path for path in CARD_PATHS)
    places |= dict.fromkeys("/" + path for path in CARD_PATHS)
    return [Target(base.with_path(place, encoded=True, keep_query=True)) for place in places]
