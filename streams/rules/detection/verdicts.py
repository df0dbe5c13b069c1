"""Outcomes that were reported later for tasks of a series. Pure.

In: task ids with the true outcome. Out: whether an outcome is new, repeats a known one, or changes it. Bounded: the
newest `KEPT` tasks; an outcome repeated after that many others counts as new.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from hashlib import blake2b

KEPT = 256
SIZE = 8


class Verdicts:
    """Digest of a task id -> its last verdict, oldest first.

    >>> v = Verdicts()
    >>> v.change("t1", False), v.change("t1", False), v.change("t1", True), v.change("t2", True)
    ((True, False), None, (False, True), (True, True))
    """

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, bool] = {}

    def __len__(self) -> int:
        return len(self._known)

    def change(self, task_id: str, success: bool, before: bool = True) -> tuple[bool, bool] | None:
        """(outcome until now, outcome from now on), or None if it is known. `before`: that of an answer without a
        reported outcome.
        """
        digest = blake2b(task_id.encode("utf-8", "surrogatepass"), digest_size=SIZE).digest()
        held = self._known.pop(digest, None)
        self._known[digest] = success
        if len(self._known) > KEPT:
            del self._known[next(iter(self._known))]
        if held is None:
            return before, success
        return None if held == success else (held, success)

    def first(self, task_id: str) -> bool:
        """Whether no outcome of this task is known."""
        return blake2b(task_id.encode("utf-8", "surrogatepass"), digest_size=SIZE).digest() not in self._known

    def to_json(self) -> str:
        """A JSON-able form: digest and outcome alternating, base64."""
        return b64encode(b"".join(digest + bytes([verdict]) for digest, verdict in self._known.items())).decode()

    @classmethod
    def from_json(cls, text: str) -> Verdicts:
        verdicts, data = cls(), b64decode(text)
        for place in range(0, len(data), SIZE + 1):
            verdicts._known[data[place : place + SIZE]] = bool(data[place + SIZE])
        return verdicts
