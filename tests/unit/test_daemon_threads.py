"""Threads that nobody waits for at the end."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from agents_io import daemon_threads
from agents_io.daemon_threads import DaemonThreads


def test_no_more_threads_than_allowed_and_no_work_is_lost() -> None:
    """Fifty pieces of work on three threads."""
    pool = DaemonThreads(3, "t")
    seen: set[int] = set()

    def work(number: int) -> int:
        seen.add(threading.get_ident())
        return number

    futures = [pool.submit(lambda n=n: work(n)) for n in range(50)]  # type: ignore[misc]
    assert [future.result(10) for future in futures] == list(range(50))
    assert 1 <= len(seen) <= 3 >= pool.threads


def test_a_hung_thread_holds_up_no_other() -> None:
    """Work that comes while one hangs gets a thread of its own."""
    pool = DaemonThreads(2, "t")
    gate = threading.Event()
    hung = pool.submit(gate.wait)
    assert [pool.submit(lambda: 1).result(10) for _ in range(5)] == [1] * 5
    gate.set()
    assert hung.result(10)


def test_what_is_cancelled_before_its_turn_never_runs() -> None:
    """And what runs cannot be cancelled."""
    pool = DaemonThreads(1, "t")
    gate, ran = threading.Event(), []
    first = pool.submit(gate.wait)
    second = pool.submit(lambda: ran.append(1))
    assert second.cancel()
    gate.set()
    assert first.result(10)
    assert pool.submit(lambda: 2).result(10) == 2
    assert ran == []


def test_an_exception_is_the_futures() -> None:
    """Whatever it is; the thread goes on."""
    pool = DaemonThreads(1, "t")
    with pytest.raises(SystemExit):
        pool.submit(lambda: sys.exit(3)).result(10)
    assert pool.submit(lambda: 1).result(10) == 1


def test_idle_threads_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while; work that comes later gets a new one."""
    monkeypatch.setattr(daemon_threads, "IDLE_S", 0.05)
    pool = DaemonThreads(2, "px-idle")
    assert pool.submit(lambda: 1).result(10) == 1
    for thread in [thread for thread in threading.enumerate() if thread.name == "px-idle"]:
        thread.join(10)
    assert pool.threads == 0
    assert pool.submit(lambda: 1).result(10) == 1


def test_the_process_ends_while_one_hangs() -> None:
    """Python's own executor would wait for ever."""
    code = (
        "import time; from agents_io.daemon_threads import DaemonThreads\n"
        "p = DaemonThreads(1, 't'); p.submit(lambda: time.sleep(3600)); time.sleep(0.2); print('end')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (0, b"end\n")
