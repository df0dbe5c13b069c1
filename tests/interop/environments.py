"""A Python environment for each server's SDK, with the versions of `requirements/<name>.txt`, apart from our own.

In: a name. Out: the interpreter of `.cache/interop/<name>-<digest>`, made when it is asked for first. With INTEROP_NEWEST=1 the
newest versions of the packages on the file's first line are taken in place of the pinned ones.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOM = ROOT / ".cache" / "interop"
REQUIREMENTS = Path(__file__).parent / "requirements"
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


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    assert done.returncode == 0, f"{' '.join(command[:4])} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
