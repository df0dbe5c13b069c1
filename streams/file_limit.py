"""Whether this process may open as many files as its partitions need; sockets count.

In: the number of partitions. Out: a limit raised as far as the system allows, and a warning in plain words if that is too little:
otherwise the lack shows as brokers that cannot be reached, hours later.
"""

from __future__ import annotations

import resource

import structlog

log = structlog.get_logger(__name__)

BASE = 200
PER_PARTITION = 5
"""A worker alone with all partitions was measured at 4.2 each: a transactional producer's connections."""


def needed(partitions: int) -> int:
    """Files that a worker opens which owns so many partitions.

    >>> needed(8), needed(220)
    (240, 1300)
    """
    return BASE + PER_PARTITION * partitions


def prepare_file_limit(partitions: int) -> bool:
    """Raise the soft limit if it is too low; False, and a warning, if the hard limit is too low as well."""
    wanted = needed(partitions)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return True
    possible = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if possible > soft:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (possible, hard))
        except (OSError, ValueError) as error:
            log.debug("the limit of open files stays", error=repr(error))
            possible = soft
    if possible < wanted:
        log.warning(
            "too few open files are allowed for a worker that owns all partitions alone; "
            "raise the limit (ulimit -n, LimitNOFILE=) or run more workers",
            allowed=max(possible, soft), needed=wanted, partitions=partitions,
        )  # fmt: skip
        return False
    return True
