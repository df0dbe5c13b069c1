"""The limit of open files of this process; sockets count.

Raises the limit as far as the system allows, and warns if that is too little: otherwise brokers and agents become
unreachable hours later.
"""

from __future__ import annotations

import resource

import structlog

log = structlog.get_logger(__name__)

WANTED = 65_536
"""One for each call under way, and about 40 for the worker itself, for any number of partitions."""
ENOUGH = 1024


def raise_file_limit() -> bool:
    """Raise the soft limit. False, and a warning, if it is still too low."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= WANTED:
        return True
    possible = WANTED if hard == resource.RLIM_INFINITY else max(soft, min(WANTED, hard))
    if possible > soft:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (possible, hard))
        except (OSError, ValueError) as error:
            log.debug("the limit of open files could not be raised", error=repr(error))
            possible = soft
    if possible < ENOUGH:
        log.warning(
            "few open files are allowed, and each call under way needs one; raise the limit (ulimit -n, LimitNOFILE=)",
            allowed=possible, needed=ENOUGH,
        )  # fmt: skip
        return False
    return True
