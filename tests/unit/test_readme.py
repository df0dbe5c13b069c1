"""The README and the documentation site say what the code says: commands, snippets, targets, settings and generated pages."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import pytest
import typer

from docs.tools.generate import REFERENCE, pages
from streams.cli.main import build
from streams.settings import Settings, known_names, load

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
FILES = [README, *sorted(file for file in (ROOT / "docs").rglob("*.md"))]
PLACEHOLDERS = {"N": "1", "MODE": "open", "success|failure": "success"}
ROOT_COMMAND = typer.main.get_command(build())
EACH_FILE = pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))


def blocks(file: Path, language: str) -> list[str]:
    """The fenced blocks of a language, with their indentation removed."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", file.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return ["\n".join(line.removeprefix(indent) for line in body.splitlines()) for indent, body in found]


def commands_of(line: str) -> Iterator[list[str]]:
    """Each `parallax ...` of a line of shell as its arguments."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    command: list[str] = []
    for token in [*lexer, ";"]:
        if token in ("|", "&", "&&", "||", ";", "(", ")", ">", ">>", "<"):
            while command and re.fullmatch(r"[A-Z_]+=.*", command[0]):
                command.pop(0)
            if command and command[0].removeprefix(".venv/bin/") == "parallax":
                yield command[1:]
            command = []
        else:
            command.append(token)


def commands(block: str) -> Iterator[list[str]]:
    """Those of a shell block: line by line, but for quoted text that goes over several lines."""
    block = re.sub(r"\"[^\"]*\"", lambda quoted: quoted[0].replace("\n", " "), block.replace("\\\n", " "))
    for line in block.splitlines():
        yield from commands_of(line)


@cache
def sources() -> list[str]:
    """Every file's path, from the root on."""
    folders = ("streams", "agents_io", "schemas", "docs", "deploy", "tests")
    return [f"/{path.relative_to(ROOT)}" for folder in folders for path in (ROOT / folder).rglob("*.*")]


@cache
def text_of_tests() -> str:
    """The text of all tests."""
    return "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))


def parse(arguments: list[str], *, complete: bool) -> None:
    """Raise if the command line is not one of ours. `complete`: required arguments must be there."""
    command: Any = ROOT_COMMAND
    arguments = [PLACEHOLDERS.get(argument, argument) for argument in arguments]
    while arguments and arguments[0] in getattr(command, "commands", {}):
        command = command.commands[arguments.pop(0)]
    if getattr(command, "commands", None):
        assert not complete, f"{arguments}: no such command"
        assert arguments in ([], ["--help"]), f"{arguments}: no such command"
        return
    if "--help" in arguments:
        return
    try:
        command.make_context("parallax", arguments)
    except Exception as error:
        if complete or type(error).__name__ != "MissingParameter":
            raise AssertionError(f"{arguments}: {error}") from error


@EACH_FILE
def test_every_command_parses(file: Path) -> None:
    """In shell blocks as a whole; in running text a command may leave its arguments out."""
    for block in blocks(file, "sh"):
        for arguments in commands(block):
            parse(arguments, complete=True)
    text = re.sub(r"^ *```.*?^ *```", "", file.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    for inline in re.findall(r"`parallax ([a-z][^`]*)`", text):
        inline = re.sub(r"\[([^\]]*)\](\.\.\.)?|\.\.\.", r"\1", inline)
        parse(shlex.split(inline), complete=False)


@EACH_FILE
def test_every_snippet_is_well_formed(file: Path, tmp_path: Path) -> None:
    """Python compiles, JSON is JSON, TOML is a settings file."""
    for block in blocks(file, "python"):
        compile(block, str(file), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    for block in blocks(file, "json"):
        orjson.loads(block)
    for block in blocks(file, "toml"):
        (tmp_path / "parallax.toml").write_text(block, "utf-8")
        load(environ={}, directory=tmp_path)


@EACH_FILE
def test_every_make_target_exists(file: Path) -> None:
    """In running text and in shell blocks."""
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    text = file.read_text("utf-8")
    assert set(re.findall(r"(?:`|^ *)make ([a-z-]+)", text, re.MULTILINE)) <= known


@EACH_FILE
def test_every_setting_exists(file: Path) -> None:
    """Names such as `breaker.mode` and `PARALLAX_BREAKER__MODE`; a last part in capitals is a name of the user's."""
    known = set(known_names())
    sections = "|".join(name for name in Settings.model_fields if any(k.startswith(f"{name}.") for k in known))
    text = file.read_text("utf-8")
    named = set(re.findall(rf"`((?:{sections})\.(?!py`)[a-z_]+)(?:\.[A-Z]+)?(?: = [^`]*)?`", text))
    named |= {name.lower().replace("__", ".") for name in re.findall(r"\bPARALLAX_([A-Z_]+[A-Z])\b", text)}
    assert named <= known | {"port"}, "PARALLAX_PORT is what Kubernetes sets"


@pytest.mark.parametrize(
    "file",
    [file for file in FILES if "architecture" in file.parts or file.name == "CONTRIBUTING.md"],
    ids=lambda file: file.name,
)
def test_every_source_file_exists(file: Path) -> None:
    """`engine/partition_processor.py` is the end of a path; `test_...` is the name of a test."""
    text = file.read_text("utf-8")
    for name in re.findall(r"`([a-z_/]+\.(?:py|js|yaml|proto))`", text):
        assert any(path.endswith(f"/{name}") for path in sources()), name
    for name in re.findall(r"`(test_[a-z_]+)`", text):
        assert f"def {name}(" in text_of_tests(), name


@EACH_FILE
def test_no_file_is_long(file: Path) -> None:
    """A page that is read from top to bottom; the README is the first of them. The generated ones are looked things up in."""
    limit = 150 if file == README else 500 if file.parent == REFERENCE else 350
    assert file.read_text("utf-8").count("\n") <= limit


def test_the_reference_is_in_step_with_the_code() -> None:
    """Run `make reference` after a change."""
    assert {file.name: file.read_text("utf-8") for file in REFERENCE.glob("*.md")} == pages()


def test_every_page_is_listed_for_language_models() -> None:
    """llms.txt links to each page that somebody wrote; the reference has a line for each page too."""
    text = (ROOT / "docs" / "llms.txt").read_text("utf-8")
    wanted = {str(file.relative_to(ROOT / "docs")) for file in FILES if file != README}
    assert wanted == set(re.findall(r"\(([^)]+\.md)\)", text))


def test_each_error_code_has_one_row() -> None:
    """With what holds by default; special cases are in concepts/failures.md."""
    codes = re.findall(r"^\| `(\w+)` \|", (REFERENCE / "errors.md").read_text("utf-8"), re.MULTILINE)
    assert len(codes) > 15
    assert len(codes) == len(set(codes))
