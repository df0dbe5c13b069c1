"""The README's line for each protocol, a real server of it, and a worker: the first task succeeds."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson
import pytest

from schemas.exact_json import dumps
from streams.broker.embedded import EmbeddedBroker
from tests.interop.conftest import TOKEN
from tests.interop.environments import has_npm
from tests.interop.kinds import KINDS as ALL
from tests.interop.processes import Running
from tests.support.pipeline import pipeline_on, stop
from tests.support.rig import start_worker

KINDS = [kind for kind in ALL if kind.environment != "node" or has_npm()]

pytestmark = [pytest.mark.interop, pytest.mark.timeout(600)]


async def test_added_as_the_readme_says_and_asked_through_a_worker(
    embedded: EmbeddedBroker, prefix: str, tmp_path: Path
) -> None:
    """`parallax agents add ID URL`, the tool where there are several, and the token's name: no more is said."""
    environment = {"INTEROP_TOKEN": TOKEN}
    with ExitStack() as servers:
        running = {
            kind.name: servers.enter_context(Running(kind.environment, kind.script, kind.arguments, TOKEN))
            for kind in KINDS
        }
        async with pipeline_on(embedded.bootstrap_servers, prefix, 2) as pipeline:
            for kind in KINDS:
                arguments = [kind.name, kind.endpoint(running[kind.name].port), "--auth-env", "INTEROP_TOKEN"]
                arguments += [] if kind.is_found else ["--protocol", kind.protocol]
                for name, value in kind.metadata.items():
                    arguments += ["--metadata", f"{name}={value if isinstance(value, str) else dumps(value).decode()}"]
                await added(embedded.bootstrap_servers, prefix, arguments, environment, tmp_path)
            worker = start_worker(
                embedded.bootstrap_servers, prefix, "--roles", "dispatch", "-o", "json", env=environment, wait=False
            )
            pipeline.workers.append(worker)
            try:
                await asyncio.to_thread(worker.line, 90)
                ends = {}
                for round_, word in enumerate(("ok", "fail")):
                    records: list[tuple[str | None, Any]] = [
                        (
                            None,
                            {
                                "id": f"{kind.name}-{word}",
                                "type": "agent",
                                "target": kind.name,
                                "payload": {"task": word},
                                "metadata": {"retries": 0, "mine": round_},
                            },
                        )
                        for kind in KINDS
                    ]
                    await pipeline.send("tasks", records)
                    ends = await pipeline.results([str(record["id"]) for _, record in records])
                for kind in KINDS:
                    good, bad = ends[f"{kind.name}-ok"], ends[f"{kind.name}-fail"]
                    assert (good["status"], good["result"], good["confidence"]) == ("success", "yes", 0.93), good
                    assert good["metadata"]["answer"]["why"] == "so", good
                    assert good["metadata"]["mine"] == 0
                    assert (bad["status"], bad["error"]["code"]) == ("failure", kind.failure[0]), bad
            finally:
                await stop(worker)


async def added(bootstrap: str, prefix: str, arguments: list[str], environment: dict[str, str], room: Path) -> None:
    """Run `parallax agents add`."""
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).parent / "parallax"),
        "agents",
        "add",
        *arguments,
        "--bootstrap-servers",
        bootstrap,
        "--topic-prefix",
        prefix,
        "-o",
        "jsonl",
        cwd=room,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    assert orjson.loads(out)["id"] == arguments[0]
