"""The file of local patterns, as a worker reads it when it starts."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from streams.agents.template_file import TemplatesError, load_templates
from tests.support.plan_cases import TEMPLATES


def test_templates_are_json_lines(tmp_path: Path) -> None:
    """Blank lines between them are nothing; no file is no templates."""
    file = tmp_path / "t.jsonl"
    file.write_bytes(b"\n\n".join(orjson.dumps(template) for template in TEMPLATES))
    assert load_templates(str(file)).keys() == {"twice", "outer"}
    assert load_templates(None) == {}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "unexpected end"),
        (b'{"name": "t", "plan": {"tasks": []}}', "template t: tasks: list should have at least 1 item"),
        (None, "No such file"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_reason(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    """The worker does not start."""
    file = tmp_path / "t.jsonl"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(TemplatesError) as caught:
        load_templates(str(file))
    assert str(caught.value).startswith(f"plans.templates: {file}: ")
    assert reason in str(caught.value)
