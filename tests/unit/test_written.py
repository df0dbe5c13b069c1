"""What another process is writing is read by whole lines."""

from __future__ import annotations

from pathlib import Path

from tests.support.written import calls_of, whole_lines


def test_a_line_that_is_not_finished_is_not_there_yet(tmp_path: Path) -> None:
    """Nor one of a file that does not exist."""
    file = tmp_path / "log"
    assert whole_lines(file) == []
    file.write_bytes(b'{"key": "a"}\n{"key": "b"}\n{"ke')
    assert [call["key"] for call in calls_of(file, tmp_path / "none")] == ["a", "b"]
    assert whole_lines(file, 13) == ['{"key": "b"}']
    file.write_bytes(b"points ")
    assert whole_lines(file) == []
