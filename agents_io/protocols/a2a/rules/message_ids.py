"""The message id of each attempt at a task. Pure.

It is the task's key, the same for each attempt, by which an agent may recognise the task. After we cancelled it there,
the id changes: such an agent would only answer that the task is cancelled.
"""

from __future__ import annotations

from collections import OrderedDict

MAX_CANCELS = 10_000


class MessageIds:
    """Counts how often the tasks of a key were cancelled, for the newest `MAX_CANCELS` keys.

    >>> ids = MessageIds()
    >>> ids.count_cancel("t1")
    >>> ids.of("t1"), ids.of("t2")
    ('t1/2', 't2')
    """

    def __init__(self) -> None:
        self._cancels: OrderedDict[str, int] = OrderedDict()

    def of(self, key: str) -> str:
        """The id of the next message for a task with this key."""
        times = self._cancels.get(key)
        return key if times is None else f"{key}/{times + 1}"

    def count_cancel(self, key: str) -> None:
        """Its task was cancelled at the agent."""
        self._cancels[key] = self._cancels.pop(key, 0) + 1
        if len(self._cancels) > MAX_CANCELS:
            self._cancels.popitem(last=False)
