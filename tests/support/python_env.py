"""Python environments apart from our own, for SDKs and peers that must not reach our lock.

In: a directory and pinned packages. Out: the interpreter there, made when it is asked for first.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.rig_error import RigError

INSTALL_S = 300


def environment(home: Path, packages: Sequence[str]) -> Path:
    """The interpreter of `home` with these packages. Raises `RigError` with pip's own words."""
    python = home / "bin" / "python"
    if not (home / "complete").exists():
        shutil.rmtree(home, ignore_errors=True)
        run_installer([sys.executable, "-m", "venv", str(home)])
        run_installer([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages])
        (home / "complete").touch()
    return python


def run_installer(command: list[str], where: Path | None = None) -> None:
    """Run it to its end. Raises `RigError` with what it printed last."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False, cwd=where)
    if done.returncode != 0:
        raise RigError(f"{' '.join(command[:4])} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
