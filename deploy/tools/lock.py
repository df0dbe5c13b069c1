"""What a lock file of uv says: names, versions, hashes, and who needs whom.

In: the text of `deploy/requirements*.lock`. Out: a `Locked` for each line; one name may have two versions, for different Pythons.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_LINE = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(?:\[[^\]]*\])?==(?P<version>[^\s;\\]+)(?: ; (?P<marker>[^\\\n]+))?")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_NEEDED_BY = re.compile(r"^    # (?:via |  )([A-Za-z0-9][A-Za-z0-9._-]*)(?:\s+\(.*\))?$")


@dataclass(frozen=True, slots=True)
class Locked:
    """One package. `needed_by`: packages that need it; `marker`: where it is installed, empty: everywhere."""

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]
    needed_by: tuple[str, ...]


def read_lock(text: str) -> list[Locked]:
    """Every package, in the file's order. Raises ValueError for a line that is none, or that has no hash.

    >>> [one] = read_lock("a==1.0\\n    --hash=sha256:" + "0" * 64 + "\\n    # via\\n    #   b\\n")
    >>> one.name, one.version, one.needed_by
    ('a', '1.0', ('b',))
    """
    blocks: list[list[str]] = []
    for line in text.splitlines():
        if line and not line[0].isspace() and not line.startswith("#"):
            blocks.append([line])
        elif blocks:
            blocks[-1].append(line)
    return [_locked(block) for block in blocks]


def _locked(block: list[str]) -> Locked:
    found = _LINE.match(block[0])
    if found is None:
        raise ValueError(f"not a locked package: {block[0][:80]}")
    hashes = tuple(_HASH.findall("\n".join(block)))
    if not hashes:
        raise ValueError(f"{found['name']}: has no hash")
    needed = (_NEEDED_BY.match(line) for line in block)
    return Locked(
        found["name"].lower(),
        found["version"],
        (found["marker"] or "").strip(),
        hashes,
        tuple(one[1].lower() for one in needed if one is not None),
    )
