"""Fails if a page of the built site would load anything from the network: `python -m docs.tools.check_site site`."""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path


class _Loads(HTMLParser):
    """Addresses that a browser would fetch to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.mermaid = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.mermaid |= "mermaid" in (given.get("class") or "").split()
        address = given.get("href") if tag == "link" and given.get("rel") != "canonical" else given.get("src")
        if address and address.startswith(("http:", "https:", "//")):
            self.found.append(address)


def check_site(site: Path) -> None:
    """Exit if a page of the built site would load anything from the network."""
    for page in sorted(site.rglob("*.html")):
        loads = _Loads()
        loads.feed(page.read_text("utf-8"))
        if loads.mermaid:
            raise SystemExit(f"{page}: has a mermaid picture; the theme would load its script from the network")
        if loads.found:
            raise SystemExit(f"{page}: loads {loads.found[0]} from the network")


if __name__ == "__main__":
    check_site(Path(sys.argv[1]))
