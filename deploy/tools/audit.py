"""`make audit ADVISORIES=FILE`: which locked packages have known vulnerabilities, by advisories that were brought along.

In: `deploy/requirements.lock`, and advisories in OSV's format: a zip of JSON files, a folder of them, or one file. Out: one line
for each vulnerable package on stdout; exit 1 if there is any, 2 if there are no advisories. For machines that reach no database
of advisories; it asks nothing of any network.
"""

from __future__ import annotations

import json
import re
import sys
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

from deploy.tools.lock import Locked, read_lock
from deploy.tools.sbom import LOCK

Advisory = dict[str, Any]


class NoAdvisories(Exception):
    """There is nothing to compare with; one line."""


def advisories(path: Path) -> Iterator[Advisory]:
    """Each advisory. Raises `NoAdvisories` if there is none for Python at all."""
    count = 0
    for text in _texts(path):
        try:
            found = json.loads(text)
        except ValueError as error:
            raise NoAdvisories(f"{path}: not JSON: {error}") from None
        for advisory in found if isinstance(found, list) else [found]:
            if any(_is_pypi(one) for one in advisory.get("affected", [])):
                count += 1
                yield advisory
    if count == 0:
        raise NoAdvisories(f"{path}: holds no advisory for the ecosystem PyPI")


def _texts(path: Path) -> Iterator[bytes]:
    if path.is_dir():
        yield from (file.read_bytes() for file in sorted(path.rglob("*.json")))
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield from (archive.read(name) for name in sorted(archive.namelist()) if name.endswith(".json"))
    elif path.is_file():
        yield path.read_bytes()
    else:
        raise NoAdvisories(f"{path}: there is no such file or folder")


def _is_pypi(affected: dict[str, Any]) -> bool:
    return str(affected.get("package", {}).get("ecosystem")) == "PyPI"


def normal(name: str) -> str:
    """A package's name as PyPI compares it (PEP 503).

    >>> normal("Foo_.Bar")
    'foo-bar'
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def is_affected(version: str, affected: dict[str, Any]) -> bool:
    """Whether this version is named, or lies within a range. One that cannot be compared counts as affected.

    >>> is_affected("1.5", {"ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.6"}]}]})
    True
    """
    if version in affected.get("versions", []):
        return True
    return any(_within(version, one) for one in affected.get("ranges", []) if one.get("type") == "ECOSYSTEM")


def _within(version: str, given: dict[str, Any]) -> bool:
    try:
        wanted = Version(version)
        events = [
            (Version("0") if text == "0" else Version(text), kind)
            for event in given["events"]
            for kind, text in event.items()
        ]
    except InvalidVersion:
        return True
    inside = False
    # At one version: what begins there, then what ends there, but for the last one that is affected.
    order = {"fixed": 0, "introduced": 1, "last_affected": 2}
    for at, kind in sorted((event for event in events if event[1] in order), key=lambda e: (e[0], order[e[1]])):
        if kind == "introduced" and wanted >= at:
            inside = True
        elif (kind == "fixed" and wanted >= at) or (kind == "last_affected" and wanted > at):
            inside = False
    return inside


def vulnerable(packages: Iterable[Locked], known: Iterable[Advisory]) -> list[str]:
    """A line for each package and advisory; withdrawn ones are left out."""
    locked: dict[str, list[Locked]] = {}
    for package in packages:
        locked.setdefault(normal(package.name), []).append(package)
    lines = []
    for advisory in known:
        if advisory.get("withdrawn"):
            continue
        for affected in filter(_is_pypi, advisory["affected"]):
            for package in locked.get(normal(affected["package"]["name"]), []):
                if is_affected(package.version, affected):
                    names = ", ".join([advisory["id"], *advisory.get("aliases", [])])
                    lines.append(f"{package.name} {package.version}: {names}: {advisory.get('summary', 'no summary')}")
    return sorted(set(lines))


def main(arguments: list[str]) -> int:
    """The exit code."""
    if len(arguments) != 1:
        print("usage: python -m deploy.tools.audit FILE-OR-FOLDER", file=sys.stderr)
        return 2
    packages = read_lock(LOCK.read_text("utf-8"))
    try:
        known = list(advisories(Path(arguments[0])))
    except NoAdvisories as error:
        print(error, file=sys.stderr)
        return 2
    found = vulnerable(packages, known)
    print(*found, sep="\n", end="\n" if found else "")
    print(f"{len(packages)} packages, {len(known)} advisories, {len(found)} findings", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
