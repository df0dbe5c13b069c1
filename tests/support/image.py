"""The image without Docker: deploy/Dockerfile carried out line by line on a Debian trixie, and run as a container is.

In: the Dockerfile and the repository. Out: layers of files, and processes that see nothing else: a root of their own that cannot
be written, their own process numbers (the command is number 1), the image's user, no capabilities, no new privileges. The network
is the machine's. What is not the same: the base is made by mmdebstrap with Debian's own Python 3.13, in place of the official
image. Needs root and mmdebstrap.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
BASES = {"python:3.13-slim-trixie": "trixie"}
PACKAGES = "python3,python3-venv,python-is-python3,ca-certificates"
BUILD_TIMEOUT_S = 600
FROM_HERE = ("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt")


class ImageError(Exception):
    """The image cannot be built or run here; the message says why."""


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Keyword and argument of each instruction, lines joined, comments left out.

    >>> list(instructions("FROM a AS b\\n# no\\nRUN c \\\\\\n    # no\\n    d\\n"))
    [('FROM', 'a AS b'), ('RUN', 'c \\\\\\n    d')]
    """
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    whole = ""
    for line in lines:
        whole += line
        if line.endswith("\\"):
            whole += "\n"
            continue
        if whole.strip():
            keyword, _, argument = whole.strip().partition(" ")
            yield keyword.upper(), argument.strip()
        whole = ""


@dataclass
class Stage:
    """One stage of the build: what its instructions have made so far."""

    base: Path
    layer: Path
    env: dict[str, str] = field(default_factory=lambda: {"PATH": "/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin"})
    directory: str = "/"
    user: str = "0:0"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)

    def inside(self, path: str) -> Path:
        """A path of the image, in the layer."""
        return self.layer / str(Path(self.directory) / path).lstrip("/")


def base(name: str) -> Path:
    """The root of a base image, made once."""
    if os.geteuid() != 0:
        raise ImageError("the image is rehearsed with mounts of its own: that needs root")
    if shutil.which("mmdebstrap") is None:
        raise ImageError("mmdebstrap is not installed (apt-get install mmdebstrap)")
    cache = ROOT / ".cache"
    cache.mkdir(exist_ok=True)
    home = cache / f"{BASES[name]}-root"
    with (cache / "image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not home.is_dir():
            work = Path(tempfile.mkdtemp(dir=cache, prefix="image-"))
            _call(["mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", BASES[name], str(work / "root")])
            for path in map(Path, FROM_HERE):
                if path.exists():
                    shutil.copyfile(path, work / "root" / str(path).lstrip("/"))
            (work / "root").rename(home)
            work.rmdir()
    return home


def build(work: Path) -> Stage:
    """Carry out the Dockerfile; layers lie in `work`. The last stage."""
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    for keyword, argument in instructions(DOCKERFILE.read_text("utf-8")):
        if keyword == "FROM":
            name, _, alias = argument.partition(" AS ")
            stage = Stage(base(name), work / f"stage{len(stages)}")
            (stage.layer / "tmp").mkdir(parents=True, mode=0o777)
            stages[alias or "last"] = stage
        else:
            assert stage is not None
            _carry_out(stage, keyword, argument, stages)
    assert stage is not None
    return stage


def _carry_out(stage: Stage, keyword: str, argument: str, stages: Mapping[str, Stage]) -> None:
    if keyword == "ENV":
        for pair in shlex.split(argument.replace("\\\n", " ")):
            name, _, value = pair.partition("=")
            stage.env[name] = value.replace("$PATH", stage.env["PATH"])
    elif keyword == "WORKDIR":
        stage.directory = argument
        stage.inside(argument).mkdir(parents=True, exist_ok=True)
    elif keyword == "USER":
        stage.user = argument
    elif keyword == "ENTRYPOINT":
        stage.entrypoint = json.loads(argument)
    elif keyword == "CMD":
        stage.command = json.loads(argument)
    elif keyword == "COPY":
        _copy(stage, shlex.split(argument), stages)
    elif keyword == "RUN":
        command = _contained(stage, ["sh", "-c", argument], writable=True)
        _call(command, env=stage.env | {n: v for n, v in os.environ.items() if n.startswith(("PIP_INDEX", "PIP_CERT"))})
    elif keyword not in ("LABEL", "EXPOSE", "HEALTHCHECK"):
        raise ImageError(f"{keyword}: not known here")


def _copy(stage: Stage, words: list[str], stages: Mapping[str, Stage]) -> None:
    """What .dockerignore leaves out is not there."""
    origin = stages[words.pop(0).removeprefix("--from=")].layer if words[0].startswith("--from=") else ROOT
    *sources, target = words
    for source in sources:
        if origin == ROOT and source not in sent():
            raise ImageError(f"COPY {source}: .dockerignore does not let it through")
        found = origin / source.lstrip("/")
        place = stage.inside(target)
        if target.endswith("/"):
            place /= found.name
        place.parent.mkdir(parents=True, exist_ok=True)
        if found.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.pyc") if origin == ROOT else None
            shutil.copytree(found, place, symlinks=True, ignore=ignored, dirs_exist_ok=True)
        else:
            shutil.copy2(found, place)


def sent() -> set[str]:
    """What .dockerignore lets through: everything is left out but what it names."""
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert "*" in lines
    return {line.removeprefix("!") for line in lines if line.startswith("!")}


def _contained(
    stage: Stage,
    command: Sequence[str],
    *,
    writable: bool = False,
    env: Mapping[str, str] | None = None,
    mounts: Mapping[str, Path] | None = None,
) -> list[str]:
    """The command as process 1 of a container: `mounts` are directories it may write, by their path in there."""
    if writable:
        layers = f"lowerdir={stage.base},upperdir={stage.layer},workdir={stage.layer}.work"
        Path(f"{stage.layer}.work").mkdir(exist_ok=True)
    else:
        layers = f"lowerdir={stage.layer}:{stage.base}"
    merged = Path(tempfile.mkdtemp(dir=stage.layer.parent, prefix="merged-"))
    steps = [
        f"mount -t overlay overlay -o {layers} {merged}",
        f"mount -t proc proc {merged}/proc",
        f"mount --bind /dev {merged}/dev",
        f"mount -t tmpfs tmpfs {merged}/tmp",
    ]
    for there in mounts or ():  # as Docker does
        (stage.layer / there.lstrip("/")).mkdir(parents=True, exist_ok=True)
    steps += [f"mount --bind {shlex.quote(str(here))} {merged}{there}" for there, here in (mounts or {}).items()]
    user, _, group = ("0:0" if writable else stage.user).partition(":")
    inner = ["chroot", str(merged)]
    if not writable:
        inner += ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--no-new-privs"]
        inner += ["--bounding-set=-all", "--inh-caps=-all"]
        inner += ["env", "-i", *(f"{name}={value}" for name, value in (stage.env | dict(env or {})).items())]
    # env's own --chdir needs the directory to be there already: it is the image's WORKDIR.
    inner += ["env", f"--chdir={stage.directory}", *command]
    script = " && ".join(steps) + " && exec " + shlex.join(inner)
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "sh", "-c", script]


def _call(command: list[str], env: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False, env=dict(env) if env else None
    )
    if done.returncode != 0:
        raise ImageError(f"{shlex.join(command)[-300:]}: exit {done.returncode}\n{(done.stdout + done.stderr)[-3000:]}")


class Container:
    """A process of the image. `command`: in place of the image's own; `mounts`: what it may write besides /tmp."""

    def __init__(
        self, stage: Stage, command: Sequence[str], env: Mapping[str, str], mounts: Mapping[str, Path]
    ) -> None:
        words = [*stage.entrypoint, *(command or stage.command)]
        self.log = Path(tempfile.mkdtemp(dir=stage.layer.parent, prefix="log-")) / "output"
        with self.log.open("wb") as output:
            self.popen = subprocess.Popen(
                _contained(stage, words, env=env, mounts=mounts), stdout=output, stderr=subprocess.STDOUT
            )

    @property
    def output(self) -> str:
        """All it has said."""
        return self.log.read_text("utf-8", "replace")

    @property
    def first(self) -> int:
        """Its process number 1, by the number it has out here."""
        children = Path(f"/proc/{self.popen.pid}/task/{self.popen.pid}/children").read_text().split()
        return int(children[0])

    def until(self, text: str, timeout_s: float = 90.0) -> None:
        """Wait until it has said so."""
        deadline = time.monotonic() + timeout_s
        while text not in self.output:
            if self.popen.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"it never said {text!r}; exit {self.popen.poll()}:\n{self.output[-3000:]}")
            time.sleep(0.1)

    def terminate(self, timeout_s: float) -> tuple[int, float]:
        """What `docker stop` does: SIGTERM to process 1, SIGKILL after a while. Exit code, and seconds it took."""
        begun = time.monotonic()
        os.kill(self.first, signal.SIGTERM)
        try:
            return self.popen.wait(timeout_s), time.monotonic() - begun
        except subprocess.TimeoutExpired:
            self.close()
            return 137, time.monotonic() - begun

    def close(self) -> None:
        """SIGKILL; whatever it started goes with it."""
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait(10)


def run(
    stage: Stage,
    command: Sequence[str],
    env: Mapping[str, str],
    *,
    entrypoint: bool = True,
    mounts: Mapping[str, Path] | None = None,
) -> tuple[int, str]:
    """Run to the end, with nothing that can be written but /tmp and `mounts`. Exit code and output."""
    words = [*stage.entrypoint, *command] if entrypoint else list(command)
    done = subprocess.run(
        _contained(stage, words, env=env, mounts=mounts),
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_S,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr
