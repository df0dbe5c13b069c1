"""How long this worker may act as owner of its partitions without hearing from the group's coordinator.

In: the send times of requests that the coordinator answered as to a member. Out: whether a session timeout has passed
since. A worker that was frozen for longer notices it here, before it acts on its own memory: its partitions may have
another owner by now, whose calls it does not know. It sends nothing; its writes are fenced by transactions anyway.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import NoError, RebalanceInProgressError, UnknownMemberIdError

from streams.engine.membership import FENCED_INSTANCE_ID

_MEMBER_CODES = (NoError.errno, RebalanceInProgressError.errno)
"""The coordinator's answers to a member's heartbeat; the second asks it to join again, and it still owns its
partitions.
"""
_REQUESTS = ("HeartbeatRequest", "SyncGroupRequest")
_STRANGER_CODES = (UnknownMemberIdError.errno, FENCED_INSTANCE_ID)
HELD_S = 3600.0


class SessionLease:
    """`session_s`: how long the coordinator keeps a member that it does not hear from.

    >>> lease = SessionLease(10.0)
    >>> lease.renew(100.0); lease.valid(109.9), lease.valid(110.0)
    (True, False)
    """

    def __init__(self, session_s: float, replaced: Callable[[AIOKafkaConsumer], Awaitable[bool]] | None = None) -> None:
        """`replaced`: called when the coordinator no longer knows this member. True: another one has replaced it, and
        it must not join again.
        """
        self._session_s = session_s
        self._replaced = replaced
        self._consumer: AIOKafkaConsumer | None = None
        self._good_at: float | None = None
        self._watched = False

    def valid(self, now: float) -> bool:
        """`now`: the event loop's time. Always true if nothing renews the lease (a consumer without a coordinator)."""
        if self._good_at is None:
            return not self._watched
        return now - self._good_at < self._session_s

    def renew(self, at: float) -> None:
        """The coordinator answered a request that was sent at `at`, on the event loop's clock."""
        self._good_at = at if self._good_at is None else max(at, self._good_at)

    def watch(self, consumer: AIOKafkaConsumer) -> None:
        """Renew with each good answer of this consumer's coordinator; an earlier consumer's lease is void."""
        coordinator: Any = consumer._coordinator
        send = getattr(coordinator, "_send_req", None)
        if send is None:
            return
        self._watched, self._good_at, self._consumer = True, None, consumer
        time = asyncio.get_running_loop().time

        async def timed(request: Any) -> Any:
            # The coordinator's clock starts when the request arrives, so not before it was sent. Counted from the answer, a
            # freeze between the two would look like a fresh one.
            sent_at = time()
            answer = await send(request)
            if type(request).__name__ in _REQUESTS:
                if answer.error_code in _MEMBER_CODES:
                    self.renew(sent_at)
                elif answer.error_code in _STRANGER_CODES and await self._is_replaced(consumer):
                    await asyncio.sleep(HELD_S)  # joining again would displace the other one
            return answer

        coordinator._send_req = timed

    async def _is_replaced(self, consumer: AIOKafkaConsumer) -> bool:
        if self._replaced is None or consumer is not self._consumer:  # of this worker's own next consumer
            return False
        return await self._replaced(consumer)
