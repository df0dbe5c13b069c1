"""`parallax init NAME`: a directory with an agent, its test, settings and a compose file for Kafka; `new agent NAME`:
another agent.
"""

from __future__ import annotations

import keyword
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from streams.cli.options import USAGE, CommandError
from streams.cli.output import line, say

app = typer.Typer(help="Add to a project.", rich_markup_mode=None)
_OURS = frozenset({"agents_io", "streams", "schemas", "pydantic", "pytest", "conftest"})
"""Modules that the files written here, or pytest, import: one of this name beside them would hide it."""
_NAME = re.compile(r"[a-z][a-z0-9]*([_-][a-z0-9]+)*")

AGENT = '''"""The agent {name}: change `answer`, keep the test green."""

from pydantic import BaseModel

from agents_io import agent


class Request(BaseModel):
    """What the agent is asked; a payload that does not fit is answered with 400 and the field."""

    text: str


@agent("{name}", capabilities=["{name}"])
async def answer(request: Request) -> tuple[str, float]:
    """The value, and how sure the agent is of it: a number between 0 and 1."""
    return request.text.upper(), 0.9


if __name__ == "__main__":
    answer.serve(port=9000)
'''

TEST = '''"""The agent by itself, and within a whole pipeline."""

import pytest

from {module} import Request, answer
from streams import AgentRejected
from streams.testing import Pipeline


async def test_the_function() -> None:
    assert await answer(Request(text="abc")) == ("ABC", 0.9)


async def test_in_a_pipeline() -> None:
    async with Pipeline(agents=[answer]) as p:
        result = await p.client.run("{name}", {{"text": "abc"}})
        assert (result.value, result.confidence) == ("ABC", 0.9)
        with pytest.raises(AgentRejected, match="text"):
            await p.client.run("{name}", {{}})
'''

PYTEST = """[pytest]
asyncio_mode = auto
pythonpath = .
"""

SETTINGS = """# Settings of workers and commands run in this directory; all of them: parallax config
bootstrap_servers = "localhost:9092"

[limits]
# How often each agent may be called unless its registration says otherwise.
max_requests = 100
window_ms = "60s"
max_concurrency = 10
"""

COMPOSE = """services:
  kafka:
    image: apache/kafka:4.1.1
    ports: ["127.0.0.1:9092:9092"]
"""

README = """# {name}

```sh
pip install 'parallax-streams[embedded]' pytest pytest-asyncio
pytest                                            # the agent by itself and in a whole pipeline; needs no Kafka

docker compose up -d                              # or any Kafka at localhost:9092
parallax topics apply
parallax worker &
parallax agent serve agent:answer --port 9000 &
parallax agents add {name} http://127.0.0.1:9000 --protocol http --capability {name}

python -c "from streams.sync import Client
with Client() as client: print(client.run('{name}', {{'text': 'hello'}}).value)"
```
"""

FILES = {
    "agent.py": AGENT,
    "test_agent.py": TEST,
    "pytest.ini": PYTEST,
    "parallax.toml": SETTINGS,
    "docker-compose.yml": COMPOSE,
    "README.md": README,
}


def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="name of the agent and its directory")],
) -> None:
    """Make a directory NAME with an agent, its test, settings and a compose file. Existing files are never touched."""
    _check(name, "init")
    directory = Path(name)
    try:
        directory.mkdir()
    except FileExistsError:
        raise CommandError(f"init: {name} exists already", USAGE) from None
    except OSError as error:
        raise CommandError(f"init: {name}: {error.strerror or error}") from None
    for file, text in FILES.items():
        # The files without a name in them hold braces of their own.
        filled = text.format(name=name, module="agent") if "{name}" in text else text
        (directory / file).write_text(filled, "utf-8")
        line(str(directory / file))
    say(f"next: cd {name} && cat README.md")


@app.command("agent")
def new_agent(
    name: Annotated[str, typer.Argument(metavar="NAME", help="name of the agent; in its module's name - becomes _")],
) -> None:
    """Write an agent NAME and its test into this directory. Existing files are never touched."""
    _check(name, "new agent")
    module = name.replace("-", "_")
    if keyword.iskeyword(module) or module in sys.stdlib_module_names or module in _OURS:
        raise CommandError(
            f"new agent: {name!r}: is a keyword, or the name of a module it needs; choose another", USAGE
        )
    files = {Path(f"{module}.py"): AGENT, Path(f"test_{module}.py"): TEST}
    if there := [str(file) for file in files if file.exists()]:
        raise CommandError(f"new agent: {', '.join(there)} exists already", USAGE)
    for file, text in files.items():
        try:
            with file.open("x", encoding="utf-8") as stream:
                stream.write(text.format(name=name, module=module))
        except OSError as error:
            raise CommandError(f"new agent: {file}: {error.strerror or error}") from None
        line(str(file))
    say(f"next: pytest test_{module}.py && parallax agent serve {module}:answer --port 9000")


def _check(name: str, command: str) -> None:
    if not _NAME.fullmatch(name) or len(name) > 100:
        raise CommandError(f"{command}: {name!r}: must be lower-case letters and digits, with - or _ between", USAGE)
