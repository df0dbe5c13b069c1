"""Calls to agents that speak A2A 1.0 or 0.3 over JSON-RPC or HTTP+JSON, protocol `a2a`.

In: a registration whose endpoint is where the agent card lies (or, with `metadata.a2aVersion`, the URL of the interface
itself). Out: the task's artifacts as an `Answer`, or one `AgentError` (`rules/tasks.py`; statuses as in `http/exchange.py`).
What differs between the bindings is in `rules/bindings.py` alone. A task that is not done at once is asked for again, ever less
often, until the call's time is up; a poll may fail. Then, and when the call is cancelled, the agent is sent a cancel for the
task. Of a card only the paths of its interfaces are used: the token goes to the registered host and no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx

from agents_io.best_effort import BestEffortRequests
from agents_io.errors import (
    AgentError,
    BadResponse,
    ClientError,
    ConnectionFailed,
    RateLimited,
    ServerError,
    Unsupported,
)
from agents_io.http.exchange import HttpExchange, check_authorized, header, shown_body, status_error, within
from agents_io.http.peer import Peer
from agents_io.per_agent import PerAgent
from agents_io.protocols.a2a.agent import A2aAgent, card_targets
from agents_io.protocols.a2a.rules.bindings import Operation, refusal, response
from agents_io.protocols.a2a.rules.card import Binding, Card, Interface, read_card
from agents_io.protocols.a2a.rules.message_ids import MessageIds
from agents_io.protocols.a2a.rules.streams import StreamedTask, TaskStream
from agents_io.protocols.a2a.rules.tasks import (
    FailedUnsaid,
    NeedsAuth,
    NeedsInput,
    NotOffered,
    OtherForm,
    OtherVersion,
    Pending,
    UnknownTask,
    WrongParts,
    offers_no_stream,
    outcome,
    send_params,
    takes_data,
)
from agents_io.rules import jsonrpc
from agents_io.rules.answer import load_json
from agents_io.rules.prompts import read_payload
from agents_io.transport import MAX_ANSWER_BYTES, Answer, Call
from schemas.exact_json import dumps
from schemas.messages import AgentRegistration

CARD_KEPT_S = 300.0
POLL_FIRST_S = 0.05
POLL_GROWTH = 1.5
POLL_MAX_S = 2.0
MAX_FAILED = 3
"""Polls that may fail in a row while the agent's task continues."""
EVENTS = ((b"Accept", b"text/event-stream"),)
BROKEN_EARLY_S = 10.0
ORPHAN_LOOKS = 4
ORPHAN_WAIT_S = 0.5


class A2aTransport:
    """Calls agents of protocol `a2a`; one instance serves all of a worker's agents."""

    def __init__(
        self, transport: httpx.AsyncBaseTransport | None = None, *, max_answer_bytes: int = MAX_ANSWER_BYTES
    ) -> None:
        """`transport`: in place of a connection pool of its own."""
        self._http = HttpExchange(transport, max_answer_bytes=max_answer_bytes)
        self._agents = PerAgent(A2aAgent)
        self._best_effort = BestEffortRequests()
        self._message_ids = MessageIds()

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
        message_id = self._message_ids.of(call.idempotency_key)
        try:
            answer = await self._offered(peer, payload, call, message_id)
        except (FailedUnsaid, WrongParts):
            # Frameworks that accept text only fail silently, and their cards do not say so: try once, and remember.
            if not with_data or peer.data_works or peer.text_tried:
                raise
            peer.text_tried = True
            answer = await self._offered(peer, payload, call, message_id + "/text", True)
            peer.text_only = True
            return answer
        peer.data_works = peer.data_works or with_data
        return answer

    async def _offered(
        self, peer: A2aAgent, payload: Any, call: Call, message_id: str, text_only: bool = False
    ) -> Answer:
        """Send a message by each of the card's interfaces in turn, then by a stream, until the agent supports one.

        If none works, raises the error of the first one and goes back to it.
        """
        first: AgentError | None = None
        start, left = peer.interface, len(peer.interfaces)
        while True:
            interface, as_stream = peer.interface, peer.stream_only
            try:
                answer = await self._sent(peer, interface, payload, call, message_id, text_only)
            except (OtherVersion, NotOffered) as refused:
                first = first or refused
                left -= 1
                has_worked = isinstance(refused, OtherForm) and interface == peer.answered_by
                if left > 0 and isinstance(refused, OtherVersion) and not has_worked:
                    peer.turn_from(interface)
                    continue
                if not has_worked and not as_stream and peer.turn_to_stream():
                    continue
                peer.stream_only = peer.stream_chosen and peer.stream_only
            except AgentError as error:
                # The official SDK answers 500 to a form that it does not know.
                if first is None or not interface.plain or error.status is None:
                    raise
            else:
                peer.answered_by = interface
                return answer
            peer.choose(start)
            peer.read_at = float("-inf")  # the agent may have moved
            raise (first.as_final() if isinstance(first, OtherForm) else first) from None

    async def _sent(
        self, peer: A2aAgent, interface: Interface, payload: Any, call: Call, message_id: str, text_only: bool
    ) -> Answer:
        """Send one message and wait for the end of the task it begins."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + call.timeout_s
        params = send_params(
            interface.version,
            message_id,
            payload,
            blocking=peer.blocking,
            text_only=text_only or peer.text_only,
            context_id=call.context_id,
        )
        found: Answer | Pending | None = None
        if peer.stream_only:
            found = await self._from_stream(peer, interface, params, call)
        elif peer.streams:
            found = await self._streamed(peer, interface, params, call)
        if found is None:
            found = self._read(peer, interface, await self._ask(peer, interface, "send", params, call))
        wait_s, failed = POLL_FIRST_S, 0
        while isinstance(found, Pending):
            task_id = found.task_id
            try:
                await asyncio.sleep(wait_s)
                message = self._message(peer, interface, await self._ask(peer, interface, "get", {"id": task_id}))
                if jsonrpc.error_of(message) is not None:
                    self._judge(peer, interface, message)  # raises: the poll failed, not the task
            except (ConnectionFailed, RateLimited, ServerError) as error:
                # The task continues while the server, or a proxy before it, is unreachable for a moment.
                failed += 1
                pause_s = max(POLL_MAX_S, error.retry_after_s or 0.0)
                if isinstance(error, UnknownTask) or failed == MAX_FAILED or clock() + pause_s >= deadline:
                    self._give_up(peer, interface, task_id, call)
                    raise
                wait_s = pause_s
                continue
            except (NotOffered, OtherVersion):
                raise  # it is sent once more, and answered by its stream
            except BaseException:  # cancelled, out of time or refused: it will not be polled again
                self._give_up(peer, interface, task_id, call)
                raise
            wait_s, failed = min(wait_s * POLL_GROWTH, POLL_MAX_S), 0
            found = self._judge(peer, interface, message)
        return found

    def _give_up(self, peer: A2aAgent, interface: Interface, task_id: str, call: Call) -> None:
        """Cancel the agent's task; the next message of this call begins another one."""
        self._forget(peer, interface, task_id)
        self._message_ids.count_cancel(call.idempotency_key)

    async def _streamed(
        self, peer: A2aAgent, interface: Interface, params: dict[str, Any], call: Call
    ) -> Answer | Pending | None:
        """Send the message and watch its task by a stream. None: the agent does not stream, and has begun nothing."""
        stream = TaskStream(self._http.max_answer_bytes, lambda data: response(interface, data))
        clock = asyncio.get_running_loop().time
        begun = clock()
        request = peer.request(interface, "stream", params, call, EVENTS)
        try:
            reply, body = await self._good(peer, interface, "stream", request, call, stream.feed, passes_on=True)
        except (NotOffered, OtherVersion):
            peer.streams = False
            return None
        except ConnectionFailed:
            if stream.task_id is None:
                raise
            # A server ends the stream when the executor raises; a proxy ends it after a long silence, and the task continues.
            if clock() - begun > BROKEN_EARLY_S:
                return Pending(stream.task_id)
            return await self._orphaned(peer, interface, stream.task_id, call)
        except BaseException:
            if stream.task_id is not None:
                self._give_up(peer, interface, stream.task_id, call)
            raise
        if not header(reply, b"content-type").startswith(b"text/event-stream"):
            error = jsonrpc.error_of(response(interface, load_json(body)))
            if error is None or not offers_no_stream(error):
                return self._read(peer, interface, body)
            peer.streams = False
            return None
        if stream.whole is not None:
            return self._judge(peer, interface, stream.whole)
        if stream.task_id is None:
            raise ServerError("the agent's stream ended without a task")
        if stream.is_final:
            return Pending(stream.task_id)
        return await self._orphaned(peer, interface, stream.task_id, call)

    async def _from_stream(
        self, peer: A2aAgent, interface: Interface, params: dict[str, Any], call: Call
    ) -> Answer | Pending:
        """Send the message and build its answer from the events of its task."""
        stream = StreamedTask(self._http.max_answer_bytes, lambda data: response(interface, data))
        clock = asyncio.get_running_loop().time
        begun = clock()
        request = peer.request(interface, "stream", params, call, EVENTS)
        try:
            reply, body = await self._good(peer, interface, "stream", request, call, stream.feed, passes_on=True)
            if header(reply, b"content-type").startswith(b"text/event-stream"):
                found = self._judge(peer, interface, stream.response())
            else:
                found = self._read(peer, interface, body)
        except ConnectionFailed:
            if stream.task_id is None:
                raise
            found = Pending(stream.task_id)
        except BaseException:
            if stream.task_id is not None and not stream.has_ended:
                self._give_up(peer, interface, stream.task_id, call)
            raise
        if not isinstance(found, Pending) or stream.task_id is None or clock() - begun > BROKEN_EARLY_S:
            return found
        try:  # its stream ended before it did, as in `_streamed`
            return await self._orphaned(peer, interface, found.task_id, call)
        except (OtherVersion, NotOffered):
            self._forget(peer, interface, found.task_id)
            raise ServerError("the agent's stream ended before its task did") from None

    async def _orphaned(self, peer: A2aAgent, interface: Interface, task_id: str, call: Call) -> Answer:
        """Wait for the end of a task whose stream ended first; if it does not come soon, the agent no longer works on
        it.
        """
        try:
            for _ in range(ORPHAN_LOOKS):
                found = self._read(peer, interface, await self._ask(peer, interface, "get", {"id": task_id}))
                if not isinstance(found, Pending):
                    return found
                await asyncio.sleep(ORPHAN_WAIT_S)
        except asyncio.CancelledError:  # or out of time
            self._give_up(peer, interface, task_id, call)
            raise
        self._forget(peer, interface, task_id)
        raise ServerError("the agent stopped working on the task without an answer: its executor may have failed")

    def _read(self, peer: A2aAgent, interface: Interface, body: bytes) -> Answer | Pending:
        """What the body of a 2xx means."""
        return self._judge(peer, interface, self._message(peer, interface, body))

    def _message(self, peer: A2aAgent, interface: Interface, body: bytes) -> Any:
        """The response in the body of a 2xx, in the form of JSON-RPC. Raises `BadResponse`."""
        return peer.parsed(body, lambda: response(interface, load_json(body)))

    def _judge(self, peer: A2aAgent, interface: Interface, message: Any) -> Answer | Pending:
        """What a response means, in the form of JSON-RPC."""
        try:
            return peer.parsed(dumps(message), lambda: outcome(message, peer.reading))
        except (NeedsInput, NeedsAuth) as waits:
            if waits.task_id is not None:
                self._forget(peer, interface, waits.task_id)
            raise
        except ClientError:
            peer.read_at = float("-inf")  # it may speak another version now
            raise

    def _forget(self, peer: A2aAgent, interface: Interface, task_id: str) -> None:
        self._best_effort.start("a2a-cancel", lambda: self._ask(peer, interface, "cancel", {"id": task_id}))

    async def _ask(
        self,
        peer: A2aAgent,
        interface: Interface,
        what: Operation,
        params: dict[str, Any],
        call: Call | None = None,
    ) -> bytes:
        """The body of a 2xx."""
        _, body = await self._good(peer, interface, what, peer.request(interface, what, params, call), call)
        return body

    async def _good(
        self,
        peer: A2aAgent,
        interface: Interface,
        what: Operation,
        request: httpx.Request,
        call: Call | None,
        feed: Callable[[bytes], bool] | None = None,
        passes_on: bool = False,
    ) -> tuple[httpx.Response, bytes]:
        """Head and body of a 2xx; anything else is raised as what it means: in A2A, else by its status."""
        reply, body = await self._http.send(peer, request, feed, passes_on)
        status = reply.status_code
        if 200 <= status < 300:
            if call is not None:
                peer.unauthorized_status = None
            return reply, body
        try:
            if (error := refusal(interface, what, status, peer.hidden(body))) is not None:
                if call is not None:
                    peer.unauthorized_status = None
                raise error
            raise status_error(reply, shown_body(peer, body), body, peer, call)
        except (OtherVersion, NotOffered, WrongParts):
            raise  # the next request does not need the card
        except ClientError:
            if what != "cancel":  # an ended task refuses it
                peer.read_at = float("-inf")  # the agent may have moved: read its card again before the next call
            raise

    async def _know(self, peer: A2aAgent) -> None:
        """Read the card if it is due; of many calls at once, one does."""
        clock = asyncio.get_running_loop().time
        if peer.fixed is not None or clock() - peer.read_at < CARD_KEPT_S:
            return
        async with peer.lock:
            if clock() - peer.read_at >= CARD_KEPT_S:
                peer.learn(await self.card(peer, peer.binding), clock())

    async def card(self, peer: Peer, binding: Binding | None = None) -> Card:
        """The agent's card, with the interfaces of `binding` alone if one is given.

        Raises `AgentError`: of the first place, when none of them has a card.
        """
        first: AgentError | None = None
        for target in card_targets(peer.base):
            try:
                _, body = await self._http.good(peer, peer.get(target))
            except ClientError as error:
                first = first or error
                continue
            return peer.parsed(body, lambda body=body: read_card(body, binding))  # type: ignore[misc]
        raise first or BadResponse("the agent has no card")

    async def check_health(self, agent: AgentRegistration, timeout_s: float) -> None:
        """The agent serves a usable card in time; with `metadata.a2aVersion` it only has to answer. Raises
        `AgentError`.
        """
        peer = self._agents.get(agent)
        try:
            await within(timeout_s, lambda: self._check(peer))
        except Unsupported as error:  # it answered, but its card is unusable
            raise BadResponse(error.message) from None

    async def _check(self, peer: A2aAgent) -> None:
        """Cards are public, calls are not: the agent must answer a request for an unknown task, and not by 401 or
        403.
        """
        if peer.fixed is None:
            peer.learn(await self.card(peer, peer.binding), asyncio.get_running_loop().time())
        try:
            body = await self._ask(peer, peer.interface, "get", {"id": "parallax-health"})
        except UnknownTask:
            pass
        except AgentError as error:
            if peer.fixed is not None or error.status is None or error.status in (401, 403):
                raise
            return
        else:
            if peer.fixed is not None and not jsonrpc.is_response(response(peer.interface, load_json(body))):
                raise BadResponse("the response is not that of an A2A agent")
        check_authorized(peer)

    async def close(self) -> None:
        await self._best_effort.close()
        await self._http.aclose()
