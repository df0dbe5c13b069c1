"""The page's files: who gets them, with which headers, and that they are whole and in the wheel."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from streams.live.page import page_files, routes

ROOT = Path(__file__).parents[2]
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


async def _index(request: web.Request) -> web.Response:
    return web.json_response({"paths": []})


@pytest.fixture
async def site() -> AsyncIterator[aiohttp.ClientSession]:
    """A client of a server with the page's routes."""
    app = web.Application()
    app.add_routes(routes(_index))
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    async with aiohttp.ClientSession(f"http://{host}:{port}") as session:
        yield session
    await runner.cleanup()


async def test_a_browser_gets_the_page_and_a_script_the_paths(site: aiohttp.ClientSession) -> None:
    """By what it accepts; caches are told that it matters."""
    async with site.get("/", headers={"Accept": BROWSER}) as answer:
        assert answer.content_type == "text/html"
        assert "Parallax Streams" in await answer.text()
        assert answer.headers["Vary"] == "Accept"
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert "require-trusted-types-for 'script'" in policy
    async with site.get("/") as answer:
        assert await answer.json() == {"paths": []}
        assert answer.headers["Vary"] == "Accept"


async def test_files_come_with_type_and_tag_and_are_not_sent_twice(site: aiohttp.ClientSession) -> None:
    """304 for the tag the browser has, the file for any other; kept only to be asked about."""
    async with site.get("/page/app.js") as answer:
        assert answer.content_type == "text/javascript"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-cache"
        tag, body = answer.headers["ETag"], await answer.read()
    async with site.get("/page/app.js", headers={"If-None-Match": f'"older", {tag}'}) as answer:
        assert (answer.status, await answer.read()) == (304, b"")
        assert answer.headers["ETag"] == tag
        assert "Content-Security-Policy" in answer.headers
    async with site.get("/page/app.js", headers={"If-None-Match": '"older"'}) as answer:
        assert (answer.status, await answer.read()) == (200, body)


@pytest.mark.parametrize(
    "path", ["/page/none.js", "/page/%2e%2e/page.py", "/page/..%2fpage.py", "/page/vendor", "/page/"]
)
async def test_what_is_no_file_of_the_page_is_not_found(site: aiohttp.ClientSession, path: str) -> None:
    """Names are looked up, never opened."""
    async with site.get(path) as answer:
        assert answer.status == 404


def test_each_file_that_one_names_is_there() -> None:
    """Imports of modules and references of the page."""
    files = page_files()
    wanted = set(re.findall(r'(?:href|src)="/page/([^"]+)"', files["index.html"].body.decode()))
    for name, file in files.items():
        if name.endswith(".js") and not name.startswith("vendor/"):
            wanted |= set(re.findall(r'from "\./([^"]+)"', file.body.decode()))
    assert {"app.js", "style.css", "icon.svg", "store.js", "vendor/htm-preact-3.1.1.js"} <= wanted
    assert wanted <= files.keys()


def test_no_module_of_ours_makes_markup_out_of_text() -> None:
    """The policy refuses it in the browser; here is where it would be seen first."""
    sinks = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|https?://(?!127\.0\.0\.1)"
    )
    for name, file in page_files().items():
        if name.endswith((".js", ".html", ".css")) and not name.startswith("vendor/"):
            assert not sinks.search(file.body.decode()), name


def test_files_of_others_are_as_they_came() -> None:
    """Their sums are those that VENDOR.md names, and it names all."""
    files = page_files()
    told = dict(
        re.findall(r"^\| `([^`]+)` \|.*`([0-9a-f]{64})` \|$", files["vendor/VENDOR.md"].body.decode(), re.MULTILINE)
    )
    found = {
        name.removeprefix("vendor/"): hashlib.sha256(file.body).hexdigest()
        for name, file in files.items()
        if name.startswith("vendor/") and name != "vendor/VENDOR.md"
    }
    assert found == told
    assert len(found) == 3


def test_the_wheel_holds_the_page(tmp_path: Path) -> None:
    """All files, under their names."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert {f"streams/live/page/{name}" for name in page_files()} <= inside
