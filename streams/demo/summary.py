"""The end of the demo: figures of what happened, and where to read each of them.

In: a board. Out: text. Never computes a figure.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from rich.console import Console

from streams.demo.board import Board, anomaly_text
from streams.demo.view import agents_table


def program() -> str:
    """How to call this environment's `parallax`: by name if it is on the PATH, else by its path."""
    script = Path(sys.executable).parent / "parallax"
    if shutil.which("parallax") == str(script):
        return "parallax"
    here = Path.cwd()
    return str(script.relative_to(here) if script.is_relative_to(here) else script)


def show(console: Console, board: Board, seconds: float) -> None:
    def say(text: str = "") -> None:
        console.print(text, soft_wrap=True)

    say()
    say("What happened")
    say()
    for line in (*_totals(board, seconds), *_alarms(board)):
        say("  " + line)
    say()
    console.print(agents_table(board, console.width))
    say("  Accuracy is measured against the labels. The pipeline never sees them: it noticed by the confidence alone.")
    say()
    say("Where to look next")
    say()
    for line in where_to_look(board, ""):
        say(f"  {line}".rstrip())


def _totals(board: Board, seconds: float) -> list[str]:
    speed = (
        f" in {seconds:.1f} s ({board.results / seconds:.0f} a second; the sender sets that pace)" if seconds else ""
    )
    once = (
        "each exactly once"
        if not board.duplicates and board.results == board.sent
        else f"{board.sent - board.results:,} missing, {board.duplicates:,} extra"
    )
    statuses = ", ".join(f"{count:,} {status}" for status, count in board.statuses.most_common())
    counted = "the same number" if board.counted == board.points else f"{board.counted:,}"
    return [
        f"tasks     {board.sent:,} sent, {board.results:,} results, {once}{speed}",
        f"results   {statuses}",
        f"points    {board.points:,} confidence data points; the minute windows on aggregates count {counted}",
    ]


def _alarms(board: Board) -> list[str]:
    lines = []
    label = "anomalies"
    for anomaly in sorted(board.anomalies, key=lambda anomaly: str(anomaly["detectedAt"])):
        if anomaly["state"] == "firing":
            text = anomaly_text(anomaly["type"], anomaly["severity"], anomaly["details"])
            lines.append(f"{label:<9} {anomaly['agentId']}: {text}")
            label = ""
    if not lines:
        lines.append("anomalies none")
    lines += _delays(board)
    circuit = ", ".join(
        f"{board.events[kind]} x {kind}"
        for kind in ("circuit:open", "circuit:half-open", "circuit:close")
        if board.events[kind]
    )
    lines.append(f"circuit   {circuit or 'no event'}")
    for agent_id, line in board.agents.items():
        if line.errors:
            errors = ", ".join(f"{count:,} {code}" for code, count in line.errors.most_common())
            lines.append(f"failures  {agent_id}: {errors}")
    return lines


def _delays(board: Board) -> list[str]:
    """Time from the degradation to the first anomaly, and from the breakdown to the open circuit."""
    turns = [moment for moment in board.moments if moment.kind == "demo"]
    if len(turns) < 2:
        return []
    found = []
    for turn, kind in zip(turns[:2], ("anomaly:detected", "circuit:open"), strict=True):
        after = [m for m in board.moments if m.kind == kind and m.agent_id == turn.agent_id and m.at_ms >= turn.at_ms]
        if after:
            found.append(
                f"{kind} {(after[0].at_ms - turn.at_ms) / 1000:.1f} s after {turn.agent_id} {turn.text.split(':')[0]}"
            )
    return [f"delay     {'; '.join(found)}"] if found else []


def where_to_look(board: Board | None, servers: str) -> list[str]:
    """Commands for each topic. `servers`: options to reach a Kafka that stays; empty: the broker is gone."""
    rows = [
        ("results", "tail results --from-beginning", "one answer to each task"),
        ("data-points", "tail data-points", "confidence and time of every answer"),
        ("aggregates", "tail aggregates", "minute, hour and day windows of each agent"),
        ("anomalies", "anomalies --follow", "what is not as it was, and when it is over"),
        ("events", "tail events", "task:*, circuit:*, anomaly:*"),
    ]
    parallax = program()
    commands = [f"{parallax} {words}{servers}" for _, words, _ in rows]
    width = max(len(command) for command in commands)
    lines = (
        []
        if servers
        else ["(with an address: these topics are gone with the demo's broker; `make dev` keeps one running)", ""]
    )
    for (topic, _, what), command in zip(rows, commands, strict=True):
        count = f" ({board.records[topic]:,} here)" if board is not None else ""
        lines.append(f"{topic:<12} {command:<{width}}  {what}{count}")
    if not servers:
        lines += [
            "",
            f"On your own Kafka: {parallax} topics apply --bootstrap-servers HOST:9092, then {parallax} worker;",
            "any client will do:     kcat -b HOST:9092 -C -t parallax.results -o beginning",
            "README.md goes on from here.",
        ]
    return lines
