"""An agent that is down for minutes under load: no task may fail that can wait, and what the worker holds must not grow.

    python -m tests.chaos.agent_outage [--down 600] [--rate 20] [--bootstrap HOST:PORT]

One worker with the default settings, one agent of 50 ms a call that answers 503 for --down seconds. Tasks have no deadline, but
for one in fifty, which must end as `expired` by its own. Prints results by code and the worker's memory; exits 1 if a task is
lost, doubled or failed though it could wait, if memory during the last half of the outage grew by more than GROWTH_MIB, or if the
outage was not felt.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack

from confluent_kafka import Producer

from agents_io.fakes.steps import answer, status
from tests.support.fleet import Fleet
from tests.support.kafka import KafkaCluster
from tests.support.rig import Tap, apply_topics, register, rss_mib, start_worker

BEFORE_S, AFTER_S = 20.0, 10.0
"""How long the agent is well before and after, while tasks are sent."""
HASTY_EVERY, HASTY_S = 50, 60
GROWTH_MIB = 24.0
"""Python's allocator alone moves by several; a task that is held costs about 3 KiB, so that 6,000 held ones would show."""
ROOM_S = 300.0
LIMITS = {"maxRequests": 1_000_000, "windowMs": 60_000, "maxConcurrency": 20}


class Run:
    """One outage."""

    def __init__(self, bootstrap: str, down_s: float, rate: float, options: Sequence[str] = ()) -> None:
        self.bootstrap = bootstrap
        self.prefix = f"outage-{time.time_ns() // 1_000_000}."
        self.down_s = down_s
        self.rate = rate
        self.options = options
        self.sent = 0
        self.results: dict[str, list[str]] = {}
        self.memory: list[tuple[float, float]] = []

    def run(self) -> bool:
        """Send, take the agent down, wait until all is answered."""
        apply_topics(self.bootstrap, self.prefix)
        well, ill = [answer(delay_s=0.05)], [status(503, delay_s=0.01)]
        with ExitStack() as stack:
            fleet = stack.enter_context(Fleet({"a1": well}, []))
            register(
                self.bootstrap, self.prefix, {"id": "a1", "endpoint": fleet.agents["a1"].endpoint, "limits": LIMITS}
            )
            worker = start_worker(self.bootstrap, self.prefix, *self.options)
            stack.callback(worker.stop)
            tap = Tap(self.bootstrap, f"{self.prefix}results")
            stack.callback(tap.close)
            producer = Producer({"bootstrap.servers": self.bootstrap, "linger.ms": 5, "acks": "all"})
            began, down = time.monotonic(), False
            length_s = BEFORE_S + self.down_s + AFTER_S
            while (now := time.monotonic() - began) < length_s + ROOM_S:
                if down != (BEFORE_S <= now < BEFORE_S + self.down_s):
                    down = not down
                    fleet.script("a1", ill if down else well)
                while now < length_s and self.sent < now * self.rate:
                    self.send(producer)
                producer.poll(0)
                self.read(tap, 0.2)
                if not self.memory or now - self.memory[-1][0] >= 5:
                    self.memory.append((now, rss_mib(worker.pid)))
                if now >= length_s and len(self.results) >= self.sent:
                    break
            self.read(tap, 2.0)
            calls = len(fleet.calls("a1"))
        return self.judge(calls)

    def send(self, producer: Producer) -> None:
        """One task."""
        hasty = {"expiresIn": HASTY_S * 1000} if self.sent % HASTY_EVERY == 0 else {}
        task = {"id": f"t{self.sent}", "type": "agent", "target": "a1", "payload": {"n": self.sent}, "metadata": hasty}
        producer.produce(f"{self.prefix}tasks", value=json.dumps(task).encode(), key=b"a1")
        self.sent += 1

    def read(self, tap: Tap, timeout_s: float) -> None:
        """What is new."""
        for message in tap.read(timeout_s):
            result = json.loads(message.value())
            code = (result.get("error") or {}).get("code", result["status"])
            self.results.setdefault(result["taskId"], []).append(code)

    def judge(self, calls: int) -> bool:
        """Print what was seen; whether it is as promised."""
        codes = Counter(code for found in self.results.values() for code in found)
        hasty = {f"t{number}" for number in range(0, self.sent, HASTY_EVERY)}
        lost = self.sent - len(self.results)
        doubled = sum(len(found) - 1 for found in self.results.values())
        failed = sum(
            found[0] not in ({"success", "expired"} if task in hasty else {"success"})
            for task, found in self.results.items()
        )
        half = [mib for at, mib in self.memory if BEFORE_S + self.down_s / 2 <= at < BEFORE_S + self.down_s]
        grown = max(half) - half[0] if half else float("inf")
        good = lost == doubled == failed == 0 and grown <= GROWTH_MIB and codes["expired"] > 0
        print(
            f"{self.down_s:g} s down at {self.rate:g} tasks/s: {self.sent} tasks, {calls} calls, lost {lost}, doubled {doubled}, "
            f"failed {failed} that could wait; {dict(codes)}; worker {self.memory[0][1]:.0f} MiB at first, "
            f"{max(mib for _, mib in self.memory):.0f} at most, +{grown:.1f} in the last half of the outage: "
            f"{'ok' if good else 'BROKEN'}",
            flush=True,
        )
        return good


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--down", type=float, default=600.0, metavar="SECONDS")
    parser.add_argument("--rate", type=float, default=20.0, metavar="TASKS_PER_S")
    parser.add_argument("--roles", help="of the worker; default all")
    parser.add_argument("--bootstrap")
    options = parser.parse_args()
    with ExitStack() as stack:
        bootstrap = options.bootstrap
        if bootstrap is None:
            bootstrap = stack.enter_context(KafkaCluster(brokers=1)).bootstrap_servers
        roles = () if options.roles is None else ("--roles", options.roles)
        return 0 if Run(bootstrap, options.down, options.rate, roles).run() else 1


if __name__ == "__main__":
    sys.exit(main())
