"""Two machines in one: network namespaces joined by a cable, which nothing else is connected to. Needs root and iproute2.

In: nothing. Out: names of two namespaces, and the first one's address as the second sees it. What listens in the first is
reached from the second alone, never from this machine or its network.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

ADDRESS, OTHER = "10.203.77.1", "10.203.77.2"


@dataclass(frozen=True)
class Machines:
    """`worker` listens at `address`; `other` is elsewhere on its network."""

    worker: str
    other: str
    address: str = ADDRESS

    def on_worker(self, *command: str) -> list[str]:
        """A command that runs there."""
        return ["ip", "netns", "exec", self.worker, *command]

    def on_other(self, *command: str) -> list[str]:
        """A command that runs there."""
        return ["ip", "netns", "exec", self.other, *command]


@contextmanager
def machines() -> Iterator[Machines]:
    """Both, until the end of the block."""
    assert os.geteuid() == 0, "network namespaces need root"
    assert shutil.which("ip") is not None, "ip is missing: apt-get install iproute2"
    mark = uuid.uuid4().hex[:6]
    found = Machines(f"pxw-{mark}", f"pxo-{mark}")
    try:
        for name in (found.worker, found.other):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("link", "add", f"w{mark}", "netns", found.worker, "type", "veth", "peer", f"o{mark}", "netns", found.other)
        for name, link, address in ((found.worker, f"w{mark}", ADDRESS), (found.other, f"o{mark}", OTHER)):
            _ip("-n", name, "address", "add", f"{address}/30", "dev", link)
            _ip("-n", name, "link", "set", link, "up")
        yield found
    finally:
        for name in (found.worker, found.other):
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr.strip()}"
