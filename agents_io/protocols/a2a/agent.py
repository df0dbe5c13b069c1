"""What is known of one A2A agent: its card, the interface it is called by, and which forms it accepted.

In: a registration, cards. Out: requests for `transport.py` to make. It opens no connection.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import yarl

from agents_io.http.peer import Headers, Peer, RequestTarget
from agents_io.protocols.a2a.rules.bindings import Operation, request
from agents_io.protocols.a2a.rules.card import CARD_PATHS, Card, Interface, binding_of, version_of, with_forms
from agents_io.transport import Call
from schemas.messages import AgentRegistration


class A2aAgent(Peer):
    """One agent: its card, and the interface it is called by."""

    __slots__ = (
        "answered_by",
        "binding",
        "blocking",
        "can_stream",
        "data_works",
        "fixed",
        "interface",
        "interfaces",
        "lock",
        "number",
        "read_at",
        "stream_chosen",
        "stream_only",
        "streams",
        "tenant",
        "text_only",
        "text_tried",
    )

    keeps_cookies = True

    def __init__(self, agent: AgentRegistration) -> None:
        super().__init__(agent)
        metadata = agent.metadata or {}
        self.fixed = version_of(metadata)
        self.binding = binding_of(metadata)
        """The binding that the registration demands; None: the card's preference."""
        self.blocking = metadata.get("blocking") is True
        self.text_only: bool = metadata.get("textOnly") is True
        self.interface = Interface(self.fixed or "1.0", self.binding or "JSONRPC", self.base.raw_path_qs)
        self.interfaces = with_forms([self.interface])
        """The card's interfaces, in its order; `interface` is the one in use."""
        self.answered_by: Interface | None = None
        """The interface that gave the newest answer."""
        self.tenant: str | None = metadata.get("tenant") if isinstance(metadata.get("tenant"), str) else None
        self.number = 0
        """Number of the newest request."""
        self.streams = False
        """Whether a task is watched by a stream: only 0.3 needs it, see `rules/streams.py`."""
        self.stream_only: bool = metadata.get("stream") is True
        """Whether answers are taken from streams: the registration says so, or the agent offers nothing else."""
        self.stream_chosen = "stream" in metadata
        self.can_stream = False
        """Whether its card offers streams."""
        self.lock = asyncio.Lock()
        self.read_at = float("-inf")
        self.data_works = False
        """Whether a message with a data part was answered."""
        self.text_tried = (self.agent.metadata or {}).get("textOnly") is not None
        """Whether text alone was tried after a data part failed, or the registration decides."""

    def learn(self, card: Card, now: float) -> None:
        """Choose the card's preferred interface; the registration takes precedence."""
        if card.interfaces != self.interfaces:  # otherwise the first one may have been refused a moment ago
            self.interfaces = card.interfaces
            self.interface = card.interfaces[0]
        self.read_at = now
        self.can_stream = card.streams
        self.choose(self.interface)
        if "textOnly" not in (self.agent.metadata or {}) and not self.text_tried:
            self.text_only = card.text_only

    def turn_from(self, refused: Interface) -> None:
        """Use the card's next interface from now on, after the last one the first. Does nothing if another call has
        changed it already.
        """
        if self.interface == refused and refused in self.interfaces:
            place = self.interfaces.index(refused) + 1
            self.choose(self.interfaces[place % len(self.interfaces)])

    def turn_to_stream(self) -> bool:
        """Take answers from streams from now on. False: the registration decides, or the agent does not stream."""
        if not self.stream_only and self.can_stream and not self.stream_chosen:
            self.stream_only = True
        return self.stream_only

    def request(
        self,
        interface: Interface,
        what: Operation,
        params: dict[str, Any],
        call: Call | None = None,
        more: Headers = (),
    ) -> httpx.Request:
        """The request of an operation. `params`: as JSON-RPC has them."""
        self.number += 1
        tenant = interface.tenant if self.tenant is None else self.tenant
        wire = request(interface, what, params, tenant, self.number)
        headers = [(b"A2A-Version", interface.version.encode()), *more]
        target = self._at(interface, wire.leaf)
        return self.get(target, headers) if wire.body is None else self.post(target, wire.body, headers, call)

    def choose(self, interface: Interface) -> None:
        """Use this interface from now on."""
        self.interface = interface
        self.streams = self.can_stream and interface.version == "0.3" and not self.blocking

    def _at(self, interface: Interface, leaf: str) -> RequestTarget:
        """A path below that of the interface, on the registered host, with the query of the interface or else of the endpoint."""
        path, _, query = interface.path.partition("?")
        return RequestTarget(
            yarl.URL.build(
                scheme=self.base.scheme,
                authority=self.base.raw_authority,
                path=path.rstrip("/") + leaf if leaf else path,
                query_string=query or self.base.raw_query_string,
                encoded=True,
            )
        )


def card_targets(base: yarl.URL) -> list[RequestTarget]:
    """Where a card may be: under the endpoint, then at the host's root; each path once, with the endpoint's query."""
    places = dict.fromkeys(base.raw_path.rstrip("/") + "/" + path for path in CARD_PATHS)
    places |= dict.fromkeys("/" + path for path in CARD_PATHS)
    return [RequestTarget(base.with_path(place, encoded=True, keep_query=True)) for place in places]
