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
import orjson

from agents_io.best_effort import BestEffortRequests
from agents_io.errors import AgentError, BadResponse, ClientError, ConnectionFailed, ServerError, Unsupported
from agents_io.http.a2a_agent import A2aAgent, card_targets
from agents_io.http.exchange import HttpExchange, header, said, status_error, within
from agents_io.http.peer import Peer
from agents_io.per_agent import PerAgent
from agents_io.rules.answer import load_json
from agents_io.rules.wire import jsonrpc
from agents_io.rules.wire.a2a import (
    METHODS,
    NO_STREAM,
    FailedUnsaid,
    NeedsAuth,
    NeedsInput,
    NotOffered,
    OtherVersion,
    Pending,
    WrongParts,
    outcome,
    send_params,
    takes_data,
)
from agents_io.rules.wire.a2a_card import Card, read_card
from agents_io.rules.wire.a2a_stream import StreamedTask, TaskStream
from agents_io.rules.wire.prompts import read_payload
from agents_io.transport import MAX_ANSWER_BYTES, Answer, Call
from schemas.messages import AgentRegistration

CARD_KEPT_S = 300.0
POLL_FIRST_S = 0.05
POLL_GROWTH = 1.5
POLL_MAX_S = 2.0
MAX_CANCELS = 10_000
BROKEN_EARLY_S = 10.0
ORPHAN_LOOKS = 4
ORPHAN_WAIT_S = 0.5


class A2aTransport:
    """Calls agents of protocol `a2a`; one instance serves all of a worker's agents."""

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport | None = None,
        *,
        max_connections: int = 1000,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        """`transport`: in place of a connection pool of its own."""
        self._http = HttpExchange(transport, max_connections=max_connections, max_answer_bytes=max_answer_bytes)
        self._agents = PerAgent(A2aAgent)
        self._best_effort = BestEffortRequests()
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
        with_data = takes_data(payload, peer.text_only)
        try:
            answer = await self._sent(peer, payload, call, self._message_id(call.idempotency_key))
        except (OtherVersion, NotOffered) as refused:
            turned = isinstance(refused, OtherVersion) and peer.turn_to_other()
            if not turned and not self._turn_to_stream(peer):
                raise
            try:
                answer = await self._sent(peer, payload, call, self._message_id(call.idempotency_key))
            except (OtherVersion, NotOffered):
                peer.stream_only = peer.stream_only and (turned or peer.stream_chosen)
                raise refused from None
        except (FailedUnsaid, WrongParts):
            # Frameworks that take text alone fail without a word, and their cards do not say so: try once, and remember.
            if not with_data or peer.data_works or peer.text_tried:
                raise
            peer.text_tried = True
            answer = await self._sent(peer, payload, call, self._message_id(call.idempotency_key) + "/text", True)
            peer.text_only = True
            return answer
        peer.data_works = peer.data_works or with_data
        return answer

    async def _sent(self, peer: A2aAgent, payload: Any, call: Call, message_id: str, text_only: bool = False) -> Answer:
        """One message, and the end of the task it begins."""
        text_only = text_only or peer.text_only
        params = send_params(
            peer.version,
            message_id,
            payload,
            blocking=peer.blocking,
            text_only=text_only,
            context_id=call.context_id,
        )
        found: Answer | Pending | None = None
        if peer.stream_only:
            found = await self._from_stream(peer, params, call)
        elif peer.streams:
            found = await self._streamed(peer, params, call)
        if found is None:
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

    async def _streamed(self, peer: A2aAgent, params: dict[str, Any], call: Call) -> Answer | Pending | None:
        """The same message with its task watched; None: the agent streams nothing, and has begun nothing."""
        stream = TaskStream()
        clock = asyncio.get_running_loop().time
        begun = clock()
        request = self._request(peer, "stream", params, call, (b"Accept", b"text/event-stream"))
        try:
            response, body = await self._http.good(peer, request, stream.feed, call=call)
        except ConnectionFailed:
            if stream.task_id is None:
                raise
            # A server breaks the stream off when the executor raises, a proxy when nothing came for long: then the task goes on.
            if clock() - begun > BROKEN_EARLY_S:
                return Pending(stream.task_id)
            return await self._orphaned(peer, stream.task_id)
        except BaseException:
            if stream.task_id is not None:
                self._forget(peer, stream.task_id)
                self._taken_back(call.idempotency_key)
            raise
        if not header(response, b"content-type").startswith(b"text/event-stream"):
            error = jsonrpc.error_of(load_json(body))
            if error is None or error.get("code") not in NO_STREAM:
                return self._read(peer, body)
            peer.streams = False
            return None
        if stream.whole is not None:
            return self._read(peer, orjson.dumps(stream.whole))
        if stream.task_id is None:
            raise ServerError("the agent's stream ended without a task")
        return Pending(stream.task_id) if stream.is_final else await self._orphaned(peer, stream.task_id)

    @staticmethod
    def _turn_to_stream(peer: A2aAgent) -> bool:
        """Take answers from streams from now on; False: it does that already, or streams nothing."""
        if peer.stream_only or peer.stream_chosen or not peer.can_stream:
            return False
        peer.stream_only = True
        return True

    async def _from_stream(self, peer: A2aAgent, params: dict[str, Any], call: Call) -> Answer | Pending:
        """The same message, and its answer put together from the events of its task."""
        stream = StreamedTask(self._http.max_answer_bytes)
        clock = asyncio.get_running_loop().time
        begun = clock()
        request = self._request(peer, "stream", params, call, (b"Accept", b"text/event-stream"))
        try:
            response, body = await self._http.send(peer, request, stream.feed, passes_on=True)
            if not 200 <= response.status_code < 300:
                raise status_error(response, said(peer, body), body, peer, call)
            peer.denied = None
            if header(response, b"content-type").startswith(b"text/event-stream"):
                body = orjson.dumps(stream.response())
            found = self._read(peer, body)
        except ConnectionFailed:
            if stream.task_id is None:
                raise
            found = Pending(stream.task_id)
        except BaseException:
            if stream.task_id is not None and not stream.has_ended:
                self._forget(peer, stream.task_id)
                self._taken_back(call.idempotency_key)
            raise
        if not isinstance(found, Pending) or stream.task_id is None or clock() - begun > BROKEN_EARLY_S:
            return found
        try:  # its stream ended before it did, as in `_streamed`
            return await self._orphaned(peer, found.task_id)
        except (OtherVersion, NotOffered):
            self._forget(peer, found.task_id)
            raise ServerError("the agent's stream ended before its task did") from None
        except AgentError:
            raise
        except BaseException:
            self._forget(peer, found.task_id)
            self._taken_back(call.idempotency_key)
            raise

    async def _orphaned(self, peer: A2aAgent, task_id: str) -> Answer:
        """The end of a task whose stream ended first; if it does not come soon, nobody works on it any more."""
        for _ in range(ORPHAN_LOOKS):
            found = self._read(peer, await self._rpc(peer, "get", {"id": task_id}))
            if not isinstance(found, Pending):
                return found
            await asyncio.sleep(ORPHAN_WAIT_S)
        self._forget(peer, task_id)
        raise ServerError("the agent stopped working on the task without an answer: its executor failed, perhaps")

    def _read(self, peer: A2aAgent, body: bytes) -> Answer | Pending:
        try:
            return peer.parsed(body, lambda: outcome(load_json(body), peer.reading))
        except (NeedsInput, NeedsAuth) as waits:
            if waits.task_id is not None:
                self._forget(peer, waits.task_id)
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

    def _forget(self, peer: A2aAgent, task_id: str) -> None:
        self._best_effort.say("a2a-cancel", lambda: self._rpc(peer, "cancel", {"id": task_id}))

    async def _rpc(self, peer: A2aAgent, what: str, params: dict[str, Any], call: Call | None = None) -> bytes:
        try:
            _, body = await self._http.good(peer, self._request(peer, what, params, call), call=call)
        except ClientError:
            peer.read_at = float("-inf")  # the agent may have moved: read its card again before the next call
            raise
        return body

    def _request(
        self, peer: A2aAgent, what: str, params: dict[str, Any], call: Call | None, *more: tuple[bytes, bytes]
    ) -> httpx.Request:
        self._number += 1
        body = jsonrpc.request(self._number, METHODS[peer.version][what], peer.addressed(params))
        return peer.post(peer.rpc, body, [(b"A2A-Version", peer.version.encode()), *more], call)

    async def _know(self, peer: A2aAgent) -> None:
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
        for target in card_targets(peer.base):
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
            return await within(timeout_s, lambda: self._is_well(peer))
        except AgentError:
            return False

    async def _is_well(self, peer: A2aAgent) -> bool:
        """Cards are public, calls are not: asked for a task that does not exist it must answer, and not by 401 or 403."""
        if peer.fixed is None:
            peer.learn(await self.card(peer), asyncio.get_running_loop().time())
        try:
            body = await self._rpc(peer, "get", {"id": "parallax-health"})
        except AgentError as error:
            return peer.fixed is None and error.status is not None and error.status not in (401, 403)
        return (peer.fixed is None or jsonrpc.is_response(load_json(body))) and peer.denied is None

    async def close(self) -> None:
        """Release every connection."""
        await self._best_effort.close()
        await self._http.aclose()
