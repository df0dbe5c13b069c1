"""`parallax init`: what it writes works as it stands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from streams.settings import load
from tests.support.rig import clean_environment, parallax

pytestmark = [pytest.mark.embedded, pytest.mark.timeout(180)]


def ran(command: list[str], where: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=where, env=clean_environment(), capture_output=True, text=True, timeout=150, check=False
    )


def test_the_new_projects_tests_pass_and_its_types_hold(tmp_path: Path) -> None:
    made = ran(parallax("init", "my-agent"), tmp_path)
    assert made.returncode == 0, made.stderr
    directory = tmp_path / "my-agent"
    assert sorted(made.stdout.split()) == sorted(f"my-agent/{path.name}" for path in directory.iterdir())
    tested = ran([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], directory)
    assert "2 passed" in tested.stdout, tested.stdout + tested.stderr
    assert load({}, environ={}, directory=directory).limits.max_requests == 100


def test_another_agent_joins_a_project_and_its_test_passes(tmp_path: Path) -> None:
    """In a project of `init`, beside the first agent; nothing is written over."""
    assert ran(parallax("init", "my-agent"), tmp_path).returncode == 0
    directory = tmp_path / "my-agent"
    made = ran(parallax("new", "agent", "second-one"), directory)
    assert (made.returncode, made.stdout.split()) == (0, ["second_one.py", "test_second_one.py"]), made.stderr
    assert "parallax agent serve second_one:answer" in made.stderr
    tested = ran([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], directory)
    assert "4 passed" in tested.stdout, tested.stdout + tested.stderr
    before = (directory / "agent.py").read_text("utf-8")
    for name, said in (
        ("second-one", "second_one.py, test_second_one.py exists already"),
        ("agent", "agent.py, test_agent.py exists already"),
        ("json", "choose another"),
        ("class", "choose another"),
        ("streams", "choose another"),
        ("agents-io", "choose another"),
        ("Big", "lower-case letters"),
    ):
        refused = ran(parallax("new", "agent", name), directory)
        assert (refused.returncode, said in refused.stderr) == (2, True), refused.stderr
    assert (directory / "agent.py").read_text("utf-8") == before


@pytest.mark.parametrize(
    ("name", "said"), [("Agent", "lower-case letters"), ("../x", "lower-case letters"), ("there", "exists")]
)
def test_bad_names_write_nothing(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "there").mkdir()
    made = ran(parallax("init", name), tmp_path)
    assert (made.returncode, said in made.stderr) == (2, True), made.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]
