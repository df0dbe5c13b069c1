"""What the rigs need of Java: tools of the machine, and jars that Maven fetches once into `.cache/`.

In: the name of a tool, or a Maven project. Out: paths. A missing tool and a failed fetch are `RigError`s.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.support.rig_error import RigError

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache"
MAVEN_TIMEOUT_S = 600


def tool(name: str, package: str) -> str:
    """The path of a tool. Raises `RigError` that names the Debian package."""
    path = shutil.which(name)
    if path is None:
        raise RigError(f"{name} is not installed: needs Java 17 and Maven (apt-get install {package})")
    return path


def maven_jars(name: str, pom: str) -> Path:
    """The directory `.cache/NAME` with the runtime jars of a Maven project; safe beside processes that fetch them too.

    `pom`: the XML of the project. `name` must change with it: an existing directory is not fetched again.
    """
    CACHE.mkdir(exist_ok=True)
    home = CACHE / name
    with (CACHE / "jars.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not home.is_dir():
            _fetch(home, pom)
    return home


def _fetch(home: Path, pom: str) -> None:
    maven = tool("mvn", "maven")
    with tempfile.TemporaryDirectory(dir=home.parent, prefix="jars-") as work:
        (Path(work) / "pom.xml").write_text(pom, "utf-8")
        command = [
            maven,
            "-q",
            "-B",
            "dependency:copy-dependencies",
            "-DoutputDirectory=jars",
            "-DincludeScope=runtime",
        ]
        try:
            done = subprocess.run(
                command, cwd=work, capture_output=True, text=True, timeout=MAVEN_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise RigError(f"Maven did not fetch {home.name} within {MAVEN_TIMEOUT_S} s") from None
        if done.returncode != 0:
            raise RigError(f"Maven could not fetch {home.name}:\n{(done.stdout + done.stderr)[-2000:]}")
        (Path(work) / "jars").rename(home)
