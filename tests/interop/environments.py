"""An environment for each server's SDK, apart from our own.

In: a name. Out: the interpreter of `.cache/interop/<name>-<digest>`, made when it is asked for first: Python with the versions of
`requirements/<name>.txt`; for `node` the packages of `requirements/node/package-lock.json`, without their install scripts. With
INTEROP_NEWEST=1 the newest versions are taken in place of the pinned ones: of the packages on a file's first line, or in
`package.json`. `differing` lists those that are not the pinned ones.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from importlib import metadata
from pathlib import Path

import pytest

from tests.support.python_env import environment, run_installer

ROOT = Path(__file__).parents[2]
ROOM = ROOT / ".cache" / "interop"
REQUIREMENTS = Path(__file__).parent / "requirements"
SERVERS = Path(__file__).parent / "servers"
_MADE: dict[str, Path] = {}
"""The environments that were asked for, and where they are."""


def _pinned(name: str) -> list[str]:
    lines = (REQUIREMENTS / f"{name}.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def python_of(name: str) -> Path:
    """The interpreter. Raises `RigError` with pip's own words."""
    text = (REQUIREMENTS / f"{name}.txt").read_text()
    packages = _pinned(name)
    stamp = text
    if os.environ.get("INTEROP_NEWEST"):
        packages = text.splitlines()[0].removeprefix("# newest: ").split()
        stamp = "newest " + time.strftime("%Y-%m-%d") + " ".join(packages)
    home = ROOM / f"{name}-{hashlib.sha256(stamp.encode()).hexdigest()[:10]}"
    python = environment(home, packages)
    _MADE[name] = home
    return python


def differing() -> list[str]:
    """The packages of the environments that this run has used whose versions are not the pinned ones, one a line."""
    found = []
    for name, home in sorted(_MADE.items()):
        if name == "node":
            pinned = json.loads((REQUIREMENTS / "node" / "package.json").read_text())["dependencies"]
            used = {one: json.loads((home / "node_modules" / one / "package.json").read_text()) for one in pinned}
            versions = {one: package["version"] for one, package in used.items()}
        else:
            pinned = {
                one.lower().replace("_", "-"): version for one, version in (row.split("==") for row in _pinned(name))
            }
            rows = metadata.distributions(path=[str(path) for path in home.glob("lib/python3*/site-packages")])
            versions = {one.name.lower().replace("_", "-"): one.version for one in rows}
        found += [
            f"{name}: {one} {versions.get(one, 'absent')}, pinned {pinned.get(one, 'not at all')}"
            for one in sorted(pinned.keys() | versions.keys() - {"pip", "setuptools"})
            if pinned.get(one) != versions.get(one)
        ]
    return found


def has_npm() -> bool:
    """Whether the TypeScript servers can run here."""
    return shutil.which("npm") is not None


def node_home() -> Path:
    """Where the npm packages are, and our scripts beside them. Skips the test where there is no npm."""
    if not has_npm():
        pytest.skip("the TypeScript servers need node and npm")
    lock = REQUIREMENTS / "node" / "package-lock.json"
    package = json.loads((REQUIREMENTS / "node" / "package.json").read_text())
    stamp, install = lock.read_text(), "ci"
    if os.environ.get("INTEROP_NEWEST"):
        package["dependencies"] = dict.fromkeys(package["dependencies"], "latest")
        stamp, install = "newest " + time.strftime("%Y-%m-%d") + json.dumps(package), "install"
    home = ROOM / f"node-{hashlib.sha256(stamp.encode()).hexdigest()[:10]}"
    if not (home / "complete").exists():
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        (home / "package.json").write_text(json.dumps(package))
        if install == "ci":
            shutil.copy(lock, home)
        options = ["--ignore-scripts", "--no-audit", "--no-fund", "--legacy-peer-deps"]
        run_installer(["npm", install, *options], home)
        (home / "complete").touch()
    _MADE["node"] = home
    for script in SERVERS.glob("*.mjs"):  # node looks for packages from where the script is
        shutil.copy(script, home)
    return home
