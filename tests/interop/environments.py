"""An environment for each server's SDK, apart from our own.

In: a name. Out: the interpreter of `.cache/interop/<name>-<digest>`, made when it is asked for first: Python with the versions of
`requirements/<name>.txt`; for `node` the packages of `requirements/node/package-lock.json`, without their install scripts. With
INTEROP_NEWEST=1 the newest versions are taken in place of the pinned ones: of the packages on a file's first line, or in
`package.json`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from pathlib import Path

import pytest

from tests.support.python_env import environment, run_installer

ROOT = Path(__file__).parents[2]
ROOM = ROOT / ".cache" / "interop"
REQUIREMENTS = Path(__file__).parent / "requirements"
SERVERS = Path(__file__).parent / "servers"


def python_of(name: str) -> Path:
    """The interpreter. Raises `RigError` with pip's own words."""
    text = (REQUIREMENTS / f"{name}.txt").read_text()
    packages = [line for line in text.splitlines() if line and not line.startswith("#")]
    stamp = text
    if os.environ.get("INTEROP_NEWEST"):
        packages = text.splitlines()[0].removeprefix("# newest: ").split()
        stamp = "newest " + time.strftime("%Y-%m-%d") + " ".join(packages)
    home = ROOM / f"{name}-{hashlib.sha256(stamp.encode()).hexdigest()[:10]}"
    return environment(home, packages)


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
    for script in SERVERS.glob("*.mjs"):  # node looks for packages from where the script is
        shutil.copy(script, home)
    return home
