"""The live page's files: `/` for a browser, `/page/{file}`; all from the package itself.

In: GET requests. Out: files from the wheel, with an ETag and headers that let the page load its own files only; 304 for
a file that the browser has. It knows nothing of the worker: the page itself asks the worker's API.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

TYPES = {
    "html": "text/html",
    "js": "text/javascript",
    "css": "text/css",
    "svg": "image/svg+xml",
    "md": "text/plain",
    "txt": "text/plain",
}
"""Served files, by extension; no others are served."""
POLICY = "; ".join(
    (
        "default-src 'self'",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",  # makes the browser refuse innerHTML and similar
        "trusted-types 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # cached, but revalidated: a worker of another version has other files
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file, ready to be sent."""

    body: bytes
    content_type: str
    etag: str


def page_files() -> dict[str, PageFile]:
    """All files of the page by their path below `/page/`."""
    found: dict[str, PageFile] = {}
    _collect(resources.files("streams.live") / "page", "", found)
    return found


def _collect(folder: Traversable, path: str, found: dict[str, PageFile]) -> None:
    for entry in folder.iterdir():
        if entry.is_dir():
            _collect(entry, f"{path}{entry.name}/", found)
        elif (content_type := TYPES.get(entry.name.rpartition(".")[2])) is not None:
            body = entry.read_bytes()
            found[path + entry.name] = PageFile(body, content_type, hashlib.sha256(body).hexdigest()[:32])


def wants_page(request: web.Request) -> bool:
    """Whether the client is a browser, not a script."""
    return "text/html" in request.headers.get("Accept", "")


def routes(index: Handler) -> list[web.RouteDef]:
    """`/`, which is `index` for clients other than browsers, and the page's files, read once here."""
    files = page_files()

    async def front(request: web.Request) -> web.StreamResponse:
        answer = _send(request, files["index.html"]) if wants_page(request) else await index(request)
        answer.headers["Vary"] = "Accept"
        return answer

    async def file(request: web.Request) -> web.StreamResponse:
        found = files.get(request.match_info["file"])
        return web.Response(status=404, text="no such file\n") if found is None else _send(request, found)

    return [web.get("/", front), web.get("/page/{file:.+}", file)]


def _send(request: web.Request, file: PageFile) -> web.Response:
    if any(tag.value in (file.etag, "*") for tag in request.if_none_match or ()):
        answer = web.Response(status=304, headers=HEADERS)
    else:
        answer = web.Response(body=file.body, content_type=file.content_type, charset="utf-8", headers=HEADERS)
    answer.etag = file.etag
    return answer
