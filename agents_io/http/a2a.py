"""Calls to agents that speak A2A 1.0 or 0.3 over JSON-RPC, protocol `a2a`.

In: a registration whose endpoint is where the agent card lies (or, with `metadata.a2aVersion`, the JSON-RPC URL itself). Out:
the task's artifacts as an `Answer`, or one `AgentError` (`rules/wire/a2a.py`; statuses as in `exchange.py`). A task that is not
done at once is asked for again, ever less often, until the call's time is up. Then, and when the call is cancelled, the agent is
told to cancel the task. Of a card only the path of its interface is used: the token goes to the registered host and no other.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any

import httpx
import yarl

from agents_io.background import LastWords
from agents_io.errors import AgentError, BadResponse, ClientError, Unsupported
from agents_io.http.exchange import HttpExchange, within
from agents_io.http.peer import Peer, Target, below
from agents_io.per_agent import PerAgent
from agents_io.rules.answer import load_json
from agents_io.rules.wire import jsonrpc
from agents_io.rules.wire.a2a import (
    CARD_PATHS,
    METHODS,
    VERSIONS,
    Card,
    Pending,
    Stuck,
    Version,
    outcome,
    read_card,
    send_params,
)
from agents_io.rules.wire.prompts import read_payload
from agents_io.transport import MAX_ANSWER_BYTES, Answer, Call
from schemas.messages import AgentRegistration

CARD_KEPT_S = 300.0
POLL_FIRST_S = 0.05
POLL_GROWTH = 1.5
POLL_MAX_S = 2.0
MAX_CANCELS = 10_000


class _Agent(Peer):
    """One agent: its card, and where it is called."""

    __slots__ = ("blocking", "fixed", "lock", "read_at", "rpc", "text_only", "version")

    def __init__(self, agent: AgentRegistration) -> None:
        super().__init__(agent)
        metadata = agent.metadata or {}
        self.fixed: Version | None = metadata.get("a2aVersion")
        if self.fixed is not None and self.fixed not in VERSIONS:
            raise Unsupported(f"metadata.a2aVersion: must be one of {', '.join(VERSIONS)}")
        self.blocking = metadata.get("blocking") is True
        self.text_only = metadata.get("textOnly") is True
        self.version: Version = self.fixed or "1.0"
        self.rpc = below(self.base, "")
        self.lock = asyncio.Lock()
        self.read_at = float("-inf")

    def learn(self, card: Card, now: float) -> None:
        """Where the card says, on the registered host."""
        path, _, query = card.path.partition("?")
        self.rpc = Target(self.base.with_path(path, encoded=True).with_query(query or None))
        self.version, self.read_at = card.version, now


def _card_targets(base: yarl.URL) -> list[Target]:
    """Where a card may lie: under the endpoint, then at the host's root; each path once."""
    places = dict.fromkeys(base.raw_path.rstrip("/") + "/" + path for path in CARD_PATHS)
    places |= dict.fromkeys("/" + path for path in CARD_PATHS)
    return [Target(base.with_path(place, encoded=True)) for place in places]


class A2aTransport:
    """Calls agents of protocol `a2a`; one instance serves all of a worker's agents."""

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport | None = None,
        *,
        max_connections: int = 1000,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        """`transport`: in place of the pool over aiohttp, for tests."""
        self._http = HttpExchange(transport, max_connections=max_connections, max_answer_bytes=max_answer_bytes)
        self._agents = PerAgent(_Agent)
        self._last_words = LastWords()
        self._number = 0
        self._cancels: OrderedDict[str, int] = OrderedDict()
        """How often the tasks of a key were cancelled, of the newest `MAX_CANCELS`."""

    async def call(self, agent: AgentRegistration, call: Call) -> Answer:
        """One attempt. Raises `AgentError`; cancelling it cancels the agent's task."""
        return await within(call.timeout_s, lambda: self._attempt(agent, call))

    async def _attempt(self, agent: AgentRegistration, call: Call) -> Answer:
        peer = self._agents.get(agent)
        await self._know(peer)
        try:
            payload = read_payload(call.body)
        except ValueError:
            raise Unsupported("the payload is not JSON") from None
        message_id = self._message_id(call.idempotency_key)
        params = send_params(peer.version, message_id, payload, blocking=peer.blocking, text_only=peer.text_only)
        found = self._read(peer, await self._rpc(peer, "send", params, call))
        wait_s = POLL_FIRST_S
        while isinstance(found, Pending):
            task_id = found.task_id
            try:
                await asyncio.sleep(wait_s)
                body = await self._rpc(peer, "get", {"id": task_id})
            except BaseException:  # cancelled, out of time or out of reach: nobody will ask for it again
                self._forget(peer, task_id)
                self._taken_back(call.idempotency_key)
                raise
            wait_s = min(wait_s * POLL_GROWTH, POLL_MAX_S)
            found = self._read(peer, body)
        return found

    def _read(self, peer: _Agent, body: bytes) -> Answer | Pending:
        try:
            return peer.parsed(body, lambda: outcome(load_json(body), peer.reading))
        except Stuck as stuck:
            if stuck.task_id is not None:
                self._forget(peer, stuck.task_id)
            raise
        except ClientError:
            peer.read_at = float("-inf")  # it may speak another version now
            raise

    def _message_id(self, key: str) -> str:
        """The same for each attempt: an agent may know by it that it has the task already.

        But not after we cancelled it there: such an agent would answer that it is cancelled.
        """
        times = self._cancels.get(key)
        return key if times is None else f"{key}/{times + 1}"

    def _taken_back(self, key: str) -> None:
        self._cancels[key] = self._cancels.pop(key, 0) + 1
        if len(self._cancels) > MAX_CANCELS:
            self._cancels.popitem(last=False)

    def _forget(self, peer: _Agent, task_id: str) -> None:
        self._last_words.say("a2a-cancel", lambda: self._rpc(peer, "cancel", {"id": task_id}))

    async def _rpc(self, peer: _Agent, what: str, params: dict[str, Any], call: Call | None = None) -> bytes:
        self._number += 1
        body = jsonrpc.request(self._number, METHODS[peer.version][what], params)
        version = [(b"A2A-Version", peer.version.encode())]
        try:
            _, said = await self._http.good(peer, peer.post(peer.rpc, body, version, call))
        except ClientError:
            peer.read_at = float("-inf")  # the agent may have moved: read its card again before the next call
            raise
        return said

    async def _know(self, peer: _Agent) -> None:
        """Read the card if it is due; of many calls at once one does."""
        clock = asyncio.get_running_loop().time
        if peer.fixed is not None or clock() - peer.read_at < CARD_KEPT_S:
            return
        async with peer.lock:
            if clock() - peer.read_at >= CARD_KEPT_S:
                peer.learn(await self.card(peer), clock())

    async def card(self, peer: Peer) -> Card:
        """The agent's card. Raises `AgentError`: of the first place, when none of them has one."""
        first: AgentError | None = None
        for target in _card_targets(peer.base):
            try:
                _, body = await self._http.good(peer, peer.get(target))
            except ClientError as error:
                first = first or error
                continue
            return peer.parsed(body, lambda body=body: read_card(body))  # type: ignore[misc]
        raise first or BadResponse("the agent has no card")

    async def health(self, agent: AgentRegistration, timeout_s: float) -> bool:
        """Whether the agent shows a card we can call it by, in time; with `metadata.a2aVersion`, whether it answers at all."""
        peer = self._agents.get(agent)
        try:
            if peer.fixed is not None:
                # Asked for a task that does not exist it must answer in JSON-RPC.
                body = await within(timeout_s, lambda: self._rpc(peer, "get", {"id": "parallax-health"}))
                return jsonrpc.is_response(load_json(body))
            await within(timeout_s, lambda: self.card(peer))
        except AgentError:
            return False
        return True

    async def close(self) -> None:
        """Release every connection."""
        await self._last_words.close()
        await self._http.aclose()
