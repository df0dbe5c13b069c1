"""The demo's display: a live picture on a terminal, a plain log elsewhere.

In: a board and the moments. Out: text on stdout. Never computes a figure.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from streams.demo.board import RECENT, AgentLine, Board, BoardEvent

PLAIN_WIDTH = 110
PLAIN_EVERY_S = 5.0
FIXED_LINES = 12
"""Lines of the live picture, beside the moments."""
WIDE = 100
REFRESH_HZ = 4
STYLES = {
    "demo": "bold",
    "circuit:open": "red",
    "circuit:half-open": "yellow",
    "circuit:close": "green",
    "anomaly:detected": "red",
    "anomaly:resolved": "green",
}


def make_console() -> Console:
    """Stdout: as wide as the terminal, or `PLAIN_WIDTH` where there is none."""
    console = Console(file=sys.stdout, highlight=False, emoji=False, markup=False)
    if not console.is_terminal:
        console = Console(file=sys.stdout, highlight=False, emoji=False, markup=False, width=PLAIN_WIDTH)
    return console


class View:
    """`with View(console, board, total) as view:` shows the board until the block ends. `total` None: without an end."""

    def __init__(self, console: Console, board: Board, total: int | None, *, live: bool | None = None) -> None:
        self._console = console
        self._board = board
        self._total = total
        self._begun_s = time.monotonic()
        self._begun_ms = time.time_ns() // 1_000_000
        self._said_s = self._begun_s
        self._rate = Rate()
        wants_live = console.is_terminal if live is None else live
        self._live: Live | None = None
        if wants_live:
            self._live = Live(console=console, get_renderable=self._picture, refresh_per_second=REFRESH_HZ)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the view was made."""
        return time.monotonic() - self._begun_s

    def tell(self, moment: BoardEvent) -> None:
        """Show a moment when it happens."""
        if self._live is None:
            self._print(self._moment(moment))

    def tick(self, every_s: float = PLAIN_EVERY_S) -> None:
        """Call it often; on a plain log it prints a line every `every_s`."""
        now = time.monotonic()
        self._rate.note(now, self._board.results)
        if self._live is None and now - self._said_s >= every_s:
            self._said_s = now
            self._print(self._progress_line())

    def _print(self, line: Text) -> None:
        self._console.print(line, soft_wrap=True)
        self._console.file.flush()

    def _progress_line(self) -> Text:
        board = self._board
        figures = [f"{self.elapsed_s:.1f}s", f"{board.sent:,}", f"{board.results:,}", f"{self._rate.per_s:.0f}"]
        agents = [
            f"{percent(line.recent_accuracy)} right, {percent(line.recent_confidence)} sure"
            for line in board.agents.values()
        ]
        return Text(log_row(figures, agents))

    def head(self, every_s: float = PLAIN_EVERY_S) -> None:
        """The heading of a plain log's columns."""
        if self._live is None:
            self._print(Text(f"Every {every_s:g} s, with each agent's last {RECENT} answers; lines with * are events."))
            self._print(Text(log_row(["time", "sent", "results", "per s"], list(self._board.agents))))

    def _moment(self, moment: BoardEvent) -> Text:
        at_s = max(0.0, (moment.at_ms - self._begun_ms) / 1000)
        style = STYLES.get(moment.kind, "")
        text = Text(f"{at_s:7.1f}s  ").append("* " if self._live is None else "", style)
        return text.append(f"{moment.kind}  {moment.agent_id}  {moment.text}", style)

    def _picture(self) -> RenderableType:
        board = self._board
        head = Text(
            f"{self.elapsed_s:5.1f}s  sent {board.sent:,}  results {board.results:,}"
            + (f" of {self._total:,}" if self._total else "")
            + f"  {self._rate.per_s:.0f} a second"
        )
        bar = ProgressBar(total=self._total, completed=board.results, width=60)
        room = max(3, self._console.height - FIXED_LINES)
        moments = sorted(list(board.moments)[-room:], key=lambda moment: moment.at_ms)
        lines = [self._moment(moment) for moment in moments]
        for line in lines:
            line.no_wrap, line.overflow = True, "ellipsis"
        return Group(head, bar, agents_table(board, self._console.width, recent=True), *lines)


def log_row(figures: Sequence[str], agents: Sequence[str]) -> str:
    """One line of the plain log, in columns.

    >>> log_row(["5.0s", "10", "9", "2"], ["a"])
    '    5.0s      10        9      2   a'
    """
    time_, sent, results, rate = figures
    return f"{time_:>8}{sent:>8}{results:>9}{rate:>7}   " + "  ".join(f"{agent:<20}" for agent in agents).rstrip()


class Rate:
    """Results a second over the last seconds."""

    SPAN_S = 3.0

    def __init__(self) -> None:
        self._notes: list[tuple[float, int]] = []

    def note(self, now_s: float, count: int) -> None:
        self._notes.append((now_s, count))
        while now_s - self._notes[0][0] > self.SPAN_S:
            self._notes.pop(0)

    @property
    def per_s(self) -> float:
        """0 before there are two notes."""
        if len(self._notes) < 2:
            return 0.0
        (first_s, first), (last_s, last) = self._notes[0], self._notes[-1]
        return (last - first) / (last_s - first_s) if last_s > first_s else 0.0


def percent(share: float | None) -> str:
    """A share as text.

    >>> percent(0.913), percent(None)
    ('91%', '-')
    """
    return "-" if share is None else f"{share * 100:.0f}%"


def agents_table(board: Board, width: int, recent: bool = False) -> Table:
    """One row an agent, fit for a terminal of `width`. `recent`: with the newest answers apart where there is room."""
    recent = recent and width >= WIDE
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, padding=(0, int(width >= WIDE)))
    table.add_column("agent", no_wrap=True)
    for name in ("answered", "failed", "accuracy", "mean confidence"):
        table.add_column(name, justify="right")
    if recent:
        table.add_column(f"last {RECENT}", justify="right")
    table.add_column("p50 time", justify="right")
    table.add_column("circuit")
    for agent_id, line in board.agents.items():
        row = [agent_id, f"{line.answered:,}", f"{line.failed:,}", percent(line.accuracy), percent(line.confidence)]
        if recent:
            row.append(f"{percent(line.recent_accuracy)} / {percent(line.recent_confidence)}")
        row += ["-" if line.p50_ms is None else f"{line.p50_ms:.1f} ms", line.circuit]
        table.add_row(*row, style=_row_style(line))
    return table


def _row_style(line: AgentLine) -> str:
    return {"open": "red", "half-open": "yellow"}.get(line.circuit, "")
