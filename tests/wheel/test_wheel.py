"""The wheel with its extra `embedded` in an environment of its own: what newcomers install, away from the checkout.

The versions are those of the lock, with their hashes. What the wheel does not declare, or does not hold, is missing there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.support.rig import ROOT, clean_environment

pytestmark = [pytest.mark.wheel, pytest.mark.timeout(300)]

PACKAGES = ("streams", "agents_io", "schemas")
LOCK = ROOT / "deploy" / "requirements-dev.lock"
OPTIONAL = {"aws_msk_iam_sasl_signer", "fastavro", "matplotlib", "opentelemetry", "pytest", "pytest_asyncio"}
"""Packages of other extras, and of the test kit: only what needs them imports them."""
IMPORT_ALL = """
import importlib, json, pkgutil, sys
names = [package for package in sys.argv[1:]]
for package in sys.argv[1:]:
    found = pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}.")
    names += [module.name for module in found if not module.name.endswith("__main__")]
missing = {}
for name in names:
    try:
        importlib.import_module(name)
    except ImportError as error:
        missing[name] = str(error.name or error).partition(".")[0]
print(json.dumps([len(names), missing]))
"""

USER_CODE = """
from pydantic import BaseModel

from agents_io import Answer, agent
from streams import Client, TaskFailed, parallel, step
from streams.sync import Client as BlockingClient
from streams.testing import FakeAgent, VirtualTime, hang


class Summary(BaseModel):
    text: str


@agent("summarizer", capabilities=["summarize"])
async def summarize(payload: Summary) -> Answer:
    return Answer(payload.text[:40], 0.9)


async def ask(client: Client) -> list[str]:
    summary = (await client.run("summarizer", {"text": "a"}, into=Summary)).value
    texts = [summary.text]
    try:
        async for result in client.map("summarizer", ({"text": str(n)} for n in range(9)), tolerate=0.1):
            texts.append(result.value)
    except TaskFailed as failed:
        texts.append(failed.code)
    plan = await client.plan(parallel([step("summarizer", {"text": "b"})], strategy="race"))
    return [*texts, plan.status]


def ask_and_wait() -> float | None:
    with BlockingClient() as client:
        return client.run("summarizer", {"text": "a"}).confidence


def test_in_virtual_time() -> None:
    with VirtualTime(agents=[FakeAgent(hang(), id="slow"), summarize]) as v:
        assert v.submit("slow", {}, timeout="1h").outcome().status == "timeout"
        assert v.plan(parallel([step("summarizer", {"text": "b"})])).status == "success"
"""
"""What a user's project may hold: the client, the kit for agents and the test kit."""


@dataclass(frozen=True)
class Installed:
    """The wheel, and the programs of the environment it is installed in."""

    wheel: Path
    bin: Path

    def run(self, where: Path, program: str, *words: str, timeout_s: float = 200.0) -> str:
        """Run a program of the environment in a directory; its standard output. Fails the test with its last words."""
        done = subprocess.run(
            [str(self.bin / program), *words], cwd=where, env=environment(self.bin), capture_output=True, text=True,
            timeout=timeout_s, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{program} {' '.join(words)}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout


def environment(programs: Path) -> dict[str, str]:
    """An activated environment's, without the checkout and without settings of ours."""
    kept = clean_environment()
    kept.pop("PYTHONPATH", None)
    return kept | {"PATH": f"{programs}{os.pathsep}{kept['PATH']}", "PYTHONUNBUFFERED": "1"}


def ran(*command: str, where: Path = ROOT) -> None:
    """Run a tool of the checkout's environment, without PYTHONPATH: mypy would find the checkout's packages there."""
    env = environment(Path(sys.executable).parent)
    done = subprocess.run(command, cwd=where, env=env, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, f"{' '.join(command[:5])}: {done.stdout[-2000:]}{done.stderr[-2000:]}"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Built from the checkout and installed. The lock constrains versions; a file whose hash it does not name is refused."""
    home = tmp_path_factory.mktemp("wheel")
    ran(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(home))
    (wheel,) = home.glob("*.whl")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    wanted = home / "wanted.txt"
    tools = [line for line in LOCK.read_text("utf-8").splitlines() if re.match(r"pytest(-asyncio)?==", line)]
    pinned = [line.removesuffix(" \\") for line in tools]
    wanted.write_text(
        "\n".join([f"parallax-streams[embedded] @ {wheel.as_uri()} --hash=sha256:{digest}", *pinned, ""]), "utf-8"
    )
    ran(sys.executable, "-m", "venv", "--without-pip", str(home / "venv"))
    python = home / "venv" / "bin" / "python"
    ran(
        str(Path(sys.executable).parent / "uv"), "pip", "install", "--quiet", "--python", str(python),
        "--require-hashes", "--constraints", str(LOCK), "--requirements", str(wanted),
    )  # fmt: skip
    return Installed(wheel, python.parent)


def test_it_holds_every_file_of_the_packages(installed: Installed) -> None:
    """The page, the JSON schemas, the protocol files, the markers of types."""
    wanted = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    held = {name for name in zipfile.ZipFile(installed.wheel).namelist() if ".dist-info/" not in name}
    assert held == wanted
    assert held >= {f"{package}/py.typed" for package in PACKAGES}


def test_every_module_can_be_imported(installed: Installed, tmp_path: Path) -> None:
    """Out of the environment, with what the wheel declares: nothing of the checkout, no development tool."""
    count, missing = json.loads(installed.run(tmp_path, "python", "-c", IMPORT_ALL, *PACKAGES))
    assert count > 300
    assert {name: lacks for name, lacks in missing.items() if lacks not in OPTIONAL} == {}
    where = installed.run(tmp_path, "python", "-c", "import streams; print(streams.__file__)")
    assert Path(where).is_relative_to(installed.bin.parent)
    readme = "".join(re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL))
    lines = [*re.findall(r"^from .*import .*$", readme, re.MULTILINE), "from streams.sync import Client"]
    assert len(lines) > 2
    installed.run(tmp_path, "python", "-c", "\n".join(lines))


def test_commands_work_in_an_empty_directory(installed: Installed, tmp_path: Path) -> None:
    assert re.fullmatch(r"parallax-streams \d+\.\d+\.\d+\n", installed.run(tmp_path, "parallax", "version"))
    schemas = installed.run(tmp_path, "parallax", "docs", "schemas")
    asyncapi = installed.run(tmp_path, "parallax", "docs", "asyncapi")
    assert "confidence" in schemas
    assert "asyncapi: 3" in asyncapi
    assert "max_concurrency" in installed.run(tmp_path, "parallax", "config")


def test_a_new_project_passes_its_tests(installed: Installed, tmp_path: Path) -> None:
    """As `parallax init` and `parallax new agent` write it; with more code of a user's it passes mypy --strict."""
    installed.run(tmp_path, "parallax", "init", "my-agent")
    project = tmp_path / "my-agent"
    installed.run(project, "parallax", "new", "agent", "second-one")
    (project / "test_user.py").write_text(USER_CODE, "utf-8")
    assert "5 passed" in installed.run(project, "python", "-m", "pytest", "-q", "-p", "no:cacheprovider")
    mypy = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache")]
    files = ["agent.py", "second_one.py", "test_agent.py", "test_second_one.py", "test_user.py"]
    ran(*mypy, "--python-executable", str(installed.bin / "python"), *files, where=project)


@contextmanager
def dev(installed: Installed, where: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """`parallax dev`, and the file it writes to."""
    log = where / "dev.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(installed.bin / "parallax"), "dev", "--embedded", "--web-port", "0"],
            cwd=where, env=environment(installed.bin), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        yield process, log
    finally:
        process.kill()
        process.wait(10)


def introduced(process: subprocess.Popen[bytes], log: Path, timeout_s: float = 200.0) -> str:
    """What it says once everything is up."""
    end = time.monotonic() + timeout_s
    while "a task       echo" not in (said := log.read_text("utf-8")):
        assert process.poll() is None, said[-3000:]
        assert time.monotonic() < end, said[-3000:]
        time.sleep(0.2)
    return said


def get(url: str) -> bytes:
    """As a browser asks."""
    return httpx.get(url, headers={"Accept": "text/html"}, timeout=20).raise_for_status().content


def test_dev_comes_up_and_its_hints_work(installed: Installed, tmp_path: Path) -> None:
    """The page with its files, the queries; the command it suggests is answered by an agent. SIGTERM ends all of it."""
    with dev(installed, tmp_path) as (process, log):
        said = introduced(process, log)
        page = re.search(r"page +(http://127\.0\.0\.1:\d+)/", said)
        assert page, said
        base = page[1]
        assert b"<html" in get(f"{base}/")
        directory = ROOT / "streams" / "live" / "page"
        for file in directory.rglob("*.js"):
            assert get(f"{base}/page/{file.relative_to(directory)}") == file.read_bytes()
        assert {row["id"] for row in json.loads(get(f"{base}/api/v1/agents"))} >= {"random-forest"}
        assert b"parallax_" in get(f"{base}/metrics")
        suggested = re.search(r"a task +(echo .*)", said)
        assert suggested, said
        done = subprocess.run(
            ["sh", "-c", suggested[1]], cwd=tmp_path, env=environment(installed.bin), capture_output=True, text=True,
            timeout=90, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["status"] == "success"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
