"""A server as a process: started, waited for, restarted at the same port, ended. Every wait is bounded."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from types import TracebackType
from typing import Self

from tests.interop.environments import ROOM, ROOT, SERVERS, node_home, python_of

START_S = 60.0
STOP_S = 10.0


def _free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        return port


def _program(environment: str, script: str, port: int) -> list[str]:
    if environment != "node":
        return [str(python_of(environment)), str(SERVERS / script), str(port)]
    home = node_home()
    return ["node", "--import", str(home / "preload.mjs"), str(home / script)]


class Running:
    """`with Running(environment, script, arguments, token) as server:`, ready at `server.port`.

    `environment` `node`: `script` is one of ours (`*.mjs`), or a path within `node_modules`.
    """

    def __init__(self, environment: str, script: str, arguments: tuple[str, ...], token: str) -> None:
        self._script = script
        self._token = token
        self.port = _free_port()
        self._command = [*_program(environment, script, self.port), *arguments]
        self._log = ROOM / f"{environment}-{self.port}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._log.unlink(missing_ok=True)

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
                start_new_session=True,
                env={**os.environ, "AGENT_TOKEN": self._token, "PORT": str(self.port), "PYTHONUNBUFFERED": "1"},
            )
        deadline = time.monotonic() + START_S
        while not self._listens():
            assert self._process.poll() is None, f"{self._script} ended:\n{self.log()[-3000:]}"
            assert time.monotonic() < deadline, f"{self._script} does not listen:\n{self.log()[-3000:]}"
            time.sleep(0.1)

    def stop(self) -> None:
        """End it and the processes it started, kindly or not."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(2.0)
        with contextlib.suppress(ProcessLookupError):  # its own session, so this is the group of all it started
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(STOP_S)
        deadline = time.monotonic() + STOP_S
        while self._listens():  # a process that it started is still dying
            assert time.monotonic() < deadline, f"{self._script} still listens"
            time.sleep(0.05)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1.0)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def restart(self) -> None:
        """The same, having forgotten everything."""
        self.stop()
        self.start()

    def log(self) -> str:
        """What it printed."""
        return self._log.read_text(errors="replace")
