"""Which rows of the topic `state` an added partition takes over from the partition that its keys came from. Pure."""

from __future__ import annotations

from schemas.codec import Rejected, decode
from schemas.messages import HomeState
from schemas.partitioning import partition_for


def belongs(app: str, key: bytes, value: bytes, number: int, count: int) -> bool:
    """Whether the row of application `app` belongs to partition `number` of `count`.

    Four cases: 1 answered ids: all of them, since a digest does not show its partition (those of other partitions are
    never asked for); 2 an agent's guards, and 3 a cached answer: the agent's partition; 4 anything else stays.

    >>> belongs("shop", b"shop/seen/0", b"", 3, 8), belongs("shop", b"shop/agent/a1", b"", 1, 2), belongs("shop", b"x", b"", 0, 1)
    (True, True, False)
    """
    kind, _, name = key.removeprefix(f"{app}/".encode()).partition(b"/")
    if not key.startswith(f"{app}/".encode()):
        return False
    if kind == b"seen":
        return True
    if kind == b"agent":
        return partition_for(name, count) == number
    if kind == b"answer":
        try:
            answer = decode(HomeState, value, ()).answer
        except Rejected:
            return False
        return answer is not None and partition_for(answer.agent_id.encode(), count) == number
    return False
