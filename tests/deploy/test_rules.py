"""The alerts, as promtool runs their own tests; and that those tests would notice an alert that never fires, or always does.

promtool comes with Debian's package prometheus (no server is needed); that it is missing is a failure, never a skip.
"""

from __future__ import annotations

import copy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.promtool

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"
RULES: dict[str, Any] = yaml.safe_load((FOLDER / "rules.yaml").read_text())
TESTS: dict[str, Any] = yaml.safe_load((FOLDER / "rules_test.yaml").read_text())
ALERTS = [rule["alert"] for group in RULES["groups"] for rule in group["rules"] if "alert" in rule]
WAITING = [rule["alert"] for group in RULES["groups"] for rule in group["rules"] if "for" in rule]
NEVER, ALWAYS = "vector(0) > 1", "vector(1)"


def promtool(*words: str, cwd: Path = FOLDER) -> tuple[bool, str]:
    """Whether it is content, and what it says."""
    path = shutil.which("promtool")
    assert path is not None, "promtool is missing: it is in Debian's package prometheus"
    done = subprocess.run([path, *words], cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode == 0, done.stdout + done.stderr


def of(alert: str, *, fires: bool) -> list[dict[str, Any]]:
    """The tests in which this alert fires, or in which it must not."""
    return [
        one
        for one in TESTS["tests"]
        for asked in one.get("alert_rule_test", ())
        if asked["alertname"] == alert and bool(asked.get("exp_alerts")) == fires
    ]


def passes(folder: Path, alert: str, changed: dict[str, str], tests: list[dict[str, Any]]) -> bool:
    """Whether these tests pass with something of the alert replaced."""
    rules = copy.deepcopy(RULES)
    for group in rules["groups"]:
        for rule in group["rules"]:
            if rule.get("alert") == alert:
                rule.update(changed)
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    (folder / "rules_test.yaml").write_text(yaml.safe_dump(TESTS | {"tests": tests}))
    return promtool("test", "rules", "rules_test.yaml", cwd=folder)[0]


def test_rules_and_example_configuration_are_valid() -> None:
    """By promtool's own judgement, without a warning."""
    # The file with the token is the operator's: it is not looked for.
    for words in (("check", "rules", "rules.yaml"), ("check", "config", "--syntax-only", "prometheus.yml")):
        valid, said = promtool(*words)
        assert valid, said
        assert "WARN" not in said.upper(), said


def test_the_tests_of_the_rules_pass() -> None:
    """Every alert with its words, and the records."""
    passed, said = promtool("test", "rules", "rules_test.yaml")
    assert passed, said


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_is_seen_to_fire_and_to_keep_quiet(alert: str, tmp_path: Path) -> None:
    """One that never fires fails its test, and one that always does, or that does not wait."""
    firing, quiet = of(alert, fires=True), of(alert, fires=False)
    assert firing, "no test in which it fires"
    assert quiet, "no test in which it must not fire"
    assert passes(tmp_path, alert, {}, firing + quiet)
    assert not passes(tmp_path, alert, {"expr": NEVER}, firing)
    assert all(not passes(tmp_path, alert, {"expr": ALWAYS, "for": "0s"}, [one]) for one in quiet)
    if alert in WAITING:
        assert not passes(tmp_path, alert, {"for": "0s"}, quiet), "no test in which it has yet to wait"
