"""Child processes on this machine: find a free port, tie a child to its parent, end it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import sys

# Below the range from which the kernel takes ports for outgoing connections (32768 up on Linux): a broker that is
# restarted under its old port finds it free.
_PORTS = range(20_000, 32_000)

# Runs in a bare interpreter that turns into the broker: the kernel kills it when the parent dies in whatever way.
# (preexec_fn would do the same, but is unsafe beside threads.) Elsewhere than on Linux only stop() ends the child.
_TIED = """
import os, sys
if sys.platform == "linux":
    import ctypes, signal
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the parent died first")
os.execvp(sys.argv[2], sys.argv[2:])
"""


def free_port() -> int:
    """A port on 127.0.0.1 that nothing listens on now."""
    for port in random.sample(_PORTS, 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no free port on 127.0.0.1 among 100 tried")


async def end(process: asyncio.subprocess.Process, timeout_s: float) -> None:
    """Send SIGTERM, and SIGKILL if it has not ended after `timeout_s`; it may have ended already."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(timeout_s):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def tied_to_parent(command: list[str]) -> list[str]:
    """The command, wrapped such that the kernel kills it when the starting thread ends (Linux). Its pid stays its
    own.
    """
    return [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), *command]
