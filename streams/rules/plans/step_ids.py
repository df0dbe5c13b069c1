"""The ids of a plan's step tasks, and the steps they belong to. Pure.

Steps are identified by paths: (3,) is the fourth task, (3, 0) the first task of the pattern that is the fourth task.
"""

from __future__ import annotations

import re
from hashlib import blake2b

Path = tuple[int, ...]
LONG_ID = 200
_STEP = re.compile(r"#[0-9]{1,5}(?:\.[0-9]{1,5})*\Z")


def stem(plan_id: str) -> str:
    """The prefix of the ids of a plan's step tasks.

    >>> stem("p1")
    'p1#'
    >>> len(stem("x" * 256)) < 230
    True
    """
    if len(plan_id) <= LONG_ID:
        return f"{plan_id}#"
    return f"{plan_id[: LONG_ID - 40]}~{blake2b(plan_id.encode(), digest_size=16).hexdigest()}#"


def task_id(plan_id: str, path: Path) -> str:
    """The id of a step's task, the same whenever it is sent, and unique among all plans.

    >>> task_id("p1", (3, 0))
    'p1#3.0'
    """
    return stem(plan_id) + ".".join(map(str, path))


def path_of(plan_id: str, name: str) -> Path | None:
    """The path of the step a task id belongs to; None if it is not of this plan.

    >>> path_of("p1", "p1#3.0"), path_of("p1", "p1#x"), path_of("p1", "other#1")
    ((3, 0), None, None)
    """
    head, mark, tail = name.rpartition("#")
    if head + mark != stem(plan_id):
        return None
    parts = tail.split(".")
    if not all(part.isascii() and part.isdigit() and len(part) < 6 for part in parts):
        return None
    return tuple(map(int, parts))


def step_of(plan_id: str | None, name: str) -> bool:
    """Whether a task with this planId and id is a step of that plan: its result would count as the step's.

    >>> step_of("p", "p#0"), step_of("p", "mine"), step_of("q", "p#0"), step_of(None, "p#0")
    (True, False, False, False)
    """
    return plan_id is not None and "#" in name and path_of(plan_id, name) is not None


def looks_like_step(name: str) -> bool:
    """Whether some plan may have a step of this id.

    >>> looks_like_step("order#7"), looks_like_step("p#3.0"), looks_like_step("order #seven"), looks_like_step("t1")
    (True, True, False, False)
    """
    return "#" in name and _STEP.search(name) is not None
