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
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOM = ROOT / ".cache" / "interop"
REQUIREMENTS = Path(__file__).parent / "requirements"
SERVERS = Path(__file__).parent / "servers"
INSTALL_S = 300


def python_of(name: str) -> Path:
    """The interpreter. Raises AssertionError with pip's own words."""
    text = (REQUIREMENTS / f"{name}.txt").read_text()
    packages = [line for line in text.splitlines() if line and not line.startswith("#")]
    stamp = text
    if os.environ.get("INTEROP_NEWEST"):
        packages = text.splitlines()[0].removeprefix("# newest: ").split()
        stamp = "newest " + time.strftime("%Y-%m-%d") + " ".join(packages)
    home = ROOM / f"{name}-{hashlib.sha256(stamp.encode()).hexdigest()[:10]}"
    python = home / "bin" / "python"
    if not (home / "complete").exists():
        shutil.rmtree(home, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(home)])
        _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages])
        (home / "complete").touch()
    return python


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
        _run(["npm", install, *options], home)
        (home / "complete").touch()
    for script in SERVERS.glob("*.mjs"):  # node looks for packages from where the script is
        shutil.copy(script, home)
    return home


def _run(command: list[str], where: Path | None = None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False, cwd=where)
    assert done.returncode == 0, f"{' '.join(command[:4])} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
