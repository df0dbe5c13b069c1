"""Runs the plans of `plan_cases` through a worker on any broker, and keeps what came of them. Synchronous: real processes."""

from __future__ import annotations

import difflib
import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.support.fleet import Fleet
from tests.support.plan_cases import AGENTS, CANCEL_REASON, PATIENT, TEMPLATES, WIDE, Case, untimed
from tests.support.rig import Tap, produce, register
from tests.support.wait import wait_until


def register_all(bootstrap: str, prefix: str, fleet: Fleet) -> None:
    """Every agent of the fleet."""
    register(
        bootstrap,
        prefix,
        *(
            {"id": name, "endpoint": agent.endpoint, "limits": WIDE, "breaker": PATIENT}
            for name, agent in fleet.agents.items()
        ),
    )


def templates_file(directory: Path) -> Path:
    """The local patterns of the cases, as a worker reads them."""
    file = directory / "templates.jsonl"
    file.write_text("".join(json.dumps(template) + "\n" for template in TEMPLATES))
    return file


def send_plans(bootstrap: str, prefix: str, plans: Iterable[dict[str, Any]], keyed: bool = True) -> None:
    """Plans as a user sends them; without a key they lie anywhere."""
    records = [(plan["id"].encode() if keyed else None, json.dumps(plan).encode()) for plan in plans]
    produce(bootstrap, f"{prefix}plans", records)


def cancel_plans(bootstrap: str, prefix: str, names: Iterable[str]) -> None:
    """Requests to end plans."""
    cancel_request = {"type": "cancel", "reason": CANCEL_REASON}
    produce(
        bootstrap,
        f"{prefix}controls",
        [(n.encode(), json.dumps(cancel_request | {"planId": n}).encode()) for n in names],
    )


def hanging(fleet: Fleet, cases: Iterable[Case], timeout_s: float = 60.0) -> None:
    """Wait until the plans that are to be cancelled have called all their `hang` steps."""
    wanted = {
        f"{case.id}#{n}"
        for case in cases
        if case.cancel
        for n, task in enumerate(case.plan["tasks"])
        if task["target"] == "hang"
    }

    def missing() -> set[str]:
        return wanted - {call.key for call in fleet.calls("hang")}

    wait_until(lambda: not missing(), timeout_s, lambda: f"never called: {sorted(missing())[:5]}")


def settled(
    tap: Tap, wanted: set[str], timeout_s: float = 90.0, quiet_s: float = 1.0
) -> dict[str, list[dict[str, Any]]]:
    """The results by plan, once each of these has one; then a little longer, to see whether more come."""
    found: dict[str, list[dict[str, Any]]] = {}
    end = time.monotonic() + timeout_s
    quiet_end = None
    while quiet_end is None or time.monotonic() < quiet_end:
        for message in tap.read(0.2):
            result = json.loads(message.value())
            found.setdefault(result["planId"], []).append(result)
        if quiet_end is None and wanted <= found.keys():
            quiet_end = time.monotonic() + quiet_s
        assert quiet_end or time.monotonic() < end, f"no result: {sorted(wanted - found.keys())[:8]}"
    return found


def agents() -> Fleet:
    """The agents of the cases."""
    return Fleet(AGENTS)


def unlike(found: Mapping[str, list[dict[str, Any]]], cases: Iterable[Case]) -> str:
    """What differs from the results there must be, readably; empty if nothing does."""
    lines: list[str] = []
    for case in cases:
        given, wanted = untimed(found[case.id][0]), case.expected()
        if given != wanted:
            shown = [json.dumps(side, indent=1, sort_keys=True).splitlines() for side in (wanted, given)]
            lines += [case.id, *difflib.unified_diff(*shown, "wanted", "given", lineterm="", n=0)]
    return "\n".join(lines)
