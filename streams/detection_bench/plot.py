"""Delays as bars beside the limit: for a terminal, or as an SVG file. Pure.

In: delay rows. Out: text. No library draws: a bar is a row of blocks or a rectangle.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from streams.detection_bench.evaluate import Delay

WIDTH = 48
COLOURS = ("#2b6cb0", "#63b3ed", "#a0aec0", "#cbd5e0", "#718096")
ROW, LEFT, RIGHT = 18, 190, 560


def bars(rows: Sequence[Delay]) -> list[str]:
    """Lines for a terminal; the limit is a `|` in each bar, bars that do not fit end in `>`."""
    out: list[str] = []
    for change in dict.fromkeys(row.change for row in rows if row.limit is not None):
        group = [row for row in rows if row.change == change]
        limit = group[0].limit or 0.0
        scale = WIDTH / (limit * 4)
        out.append(f"{change}: no detector with this run length can need less than {limit:.1f} points on average ( | )")
        for row in group:
            length = min(round(row.mean * scale), WIDTH) if row.mean != float("inf") else WIDTH
            cells = list("█" * length + " " * (WIDTH - length))
            cells[min(round(limit * scale), WIDTH - 1)] = "|"
            end = ">" if row.mean * scale > WIDTH else " "
            out.append(f"  {row.detector:18} {''.join(cells)}{end} {row.mean:7.1f}")
    return out


def svg(rows: Sequence[Delay], title: str) -> str:
    """One picture: a group of bars per change, scaled to five times its limit, the limit as a line."""
    parts: list[str] = []
    y = 44
    detectors = list(dict.fromkeys(row.detector for row in rows))
    for change in dict.fromkeys(row.change for row in rows if row.limit is not None):
        group = [row for row in rows if row.change == change]
        limit = group[0].limit or 1.0
        parts.append(_text(10, y, f"{change}, limit {limit:.1f} points", bold=True))
        y += 6
        for row in group:
            width = min(row.mean / (limit * 5), 1.0) * (RIGHT - LEFT)
            colour = COLOURS[detectors.index(row.detector) % len(COLOURS)]
            parts.append(_text(14, y + 13, row.detector))
            parts.append(f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{ROW - 4}" fill="{colour}"/>')
            parts.append(_text(LEFT + width + 6, y + 12, f"{row.mean:.1f}"))
            y += ROW
        x = LEFT + (RIGHT - LEFT) / 5
        top = y - ROW * len(group)
        parts.append(f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{y}" stroke="#c53030" stroke-width="2"/>')
        y += 26
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="640" height="{y}" font-family="sans-serif" font-size="12">'
    return "\n".join(
        [head, '<rect width="100%" height="100%" fill="white"/>', _text(10, 20, title, bold=True), *parts, "</svg>\n"]
    )


def _text(x: float, y: float, text: str, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y}"{weight}>{escape(text)}</text>'
