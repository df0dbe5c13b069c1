"""Shortens the list of faults under which a seed breaks an oracle, by delta debugging.

In: a run to try a list of faults with. Out: a list of which no part can be left out (within the number of tries).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.simulation.faults import Fault


def shrunk(faults: Sequence[Fault], breaks: Callable[[Sequence[Fault]], bool], tries: int = 60) -> list[Fault]:
    """Fewer faults with which `breaks` is still true. `breaks(faults)` holds."""
    left, size = list(faults), max(1, len(faults) // 2)
    while left and tries > 0:
        shorter = None
        for at in range(0, len(left), size):
            tries -= 1
            candidate = left[:at] + left[at + size :]
            if breaks(candidate):
                shorter = candidate
                break
            if tries <= 0:
                break
        if shorter is not None:
            left = shorter
            size = max(1, min(size, len(left) // 2))
        elif size > 1:
            size //= 2
        else:
            break
    return left
