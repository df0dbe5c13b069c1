"""The page `/metrics` of a real worker after a small run of everything, and what is said of it: table, rules, dashboard.

One run serves all tests here. What they look for is that nothing is told of a metric that does not exist, and none exists untold.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.support.promql import SCRAPED, Known, labels_of, named_in
from tests.support.scraped import POINTS, TASKS, Scraped, scraped

pytestmark = [pytest.mark.embedded, pytest.mark.timeout(180)]

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \| (.*) \|$", re.M)


@pytest.fixture(scope="module")
def run() -> Scraped:
    """The run."""
    return scraped()


@pytest.fixture(scope="module")
def families(run: Scraped) -> list[Metric]:
    """The page, read as Prometheus' own parser reads it."""
    return list(text_string_to_metric_families(run.page))


@pytest.fixture(scope="module")
def known(families: list[Metric]) -> Known:
    """Every series' name and its labels; and those that rules record."""
    found = {"up": SCRAPED}
    for family in families:
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, SCRAPED) | sample.labels.keys()
    for rule in rules():
        if "record" in rule:
            found[rule["record"]] = labels_of(rule["expr"], found)
    return found


def rules() -> list[dict[str, Any]]:
    """Those of Prometheus, in order."""
    groups = yaml.safe_load((DEPLOY / "prometheus" / "rules.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    """Grafana's."""
    found: dict[str, Any] = json.loads((DEPLOY / "grafana" / "parallax.json").read_text())
    return found


def targets() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each panel with each of its queries."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield panel, target


def test_the_page_is_well_formed_and_says_what_was_done(run: Scraped, families: list[Metric]) -> None:
    """No family and no series twice, no name but ours and the process's own, no task's id; what ran is counted."""
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    assert all(name.startswith(("parallax_", "process_")) for name in names), names
    series = [(sample.name, tuple(sorted(sample.labels.items()))) for family in families for sample in family.samples]
    assert len(series) == len(set(series))
    values = dict(zip(series, (sample.value for family in families for sample in family.samples), strict=True))
    assert not any(value in {f"t{n}" for n in range(TASKS)} for _, labels in series for _, value in labels)
    assert "_created" not in run.page
    assert values["parallax_tasks_total", (("status", "success"),)] >= TASKS
    assert values["parallax_agent_calls_total", (("agent", "well"),)] >= TASKS
    assert values["parallax_circuit_transitions_total", (("to", "open"),)] >= 1, "the circuit's fault was not felt"
    assert values["parallax_dead_letters_total", (("stage", "validate"),)] == 1
    assert values["parallax_plans_total", (("status", "success"),)] == 1
    assert values["parallax_stats_points_total", ()] > POINTS
    assert all(value == 1 for (name, _), value in values.items() if name == "parallax_role_ready")


def test_what_is_finished_has_no_lag(run: Scraped, families: list[Metric]) -> None:
    """Of every topic that a role reads, on the page as in the API."""
    assert {row["topic"] for row in run.partitions} == {
        f"m.{name}"
        for name in ("tasks", "dispatch", "parked", "plans", "results", "data-points", "scheduled", "schedules")
    }
    assert sum(row["committable"] for row in run.partitions if row["topic"] == "m.tasks") > TASKS
    lags = {family.name: family for family in families}["parallax_consumer_lag_messages"].samples
    assert len(lags) == len(run.partitions)
    assert [sample for sample in lags if sample.value] == []


def test_the_table_of_metrics_is_in_step_with_the_page(families: list[Metric]) -> None:
    """Name, kind, labels and words of each, in both directions."""
    told = {
        name: (kind, frozenset(re.findall(r"\w+", labels)), text)
        for name, kind, labels, text in ROW.findall((DEPLOY / "prometheus" / "README.md").read_text())
    }
    there = {}
    for family in families:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        if not name.startswith("process_"):
            labels = frozenset(label for sample in family.samples for label in sample.labels) - {"le"}
            there[name] = (family.type, labels, family.documentation)
    assert told == there


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule.get("record"))
def test_a_rule_speaks_of_what_there_is(rule: dict[str, Any], known: Known) -> None:
    """Metrics and labels of its expression; labels in its words; severity, summary and what to do."""
    labels = labels_of(rule["expr"], known)
    if "record" in rule:
        level = frozenset(rule["record"].partition(":")[0].split("_"))
        assert level == labels, "the name says which labels are left"
        return
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["annotations"].keys() == {"summary", "description"}
    assert len(rule["annotations"]["description"]) > 80
    for text in rule["annotations"].values():
        assert named_in(text) <= labels


def test_the_dashboard_speaks_of_what_there_is(known: Known) -> None:
    """Metrics and labels of each query, of its legend, of the variables and of the annotations."""
    for panel, target in targets():
        assert named_in(target["legendFormat"]) <= labels_of(target["expr"], known), panel["title"]
    for variable in dashboard()["templating"]["list"][1:]:
        selector, _, label = re.fullmatch(r"label_values\((.*)(, )(\w+)\)", variable["definition"]).groups()  # type: ignore[union-attr]
        assert label in labels_of(selector, known), variable["name"]
    for annotation in dashboard()["annotations"]["list"]:
        assert named_in(annotation["textFormat"]) <= labels_of(annotation["expr"], known)


def test_the_dashboard_shows_every_metric(known: Known) -> None:
    """But for those that only say what holds for a moment."""
    asked = " ".join(target["expr"] for _, target in targets())
    shown = set(re.findall(r"\w+", asked))
    ours = {re.sub(r"_(bucket|sum|count)$", "_bucket", name) for name in known if name.startswith("parallax_")}
    assert ours - shown == set()


def test_the_dashboard_can_be_loaded_anywhere() -> None:
    """Its data source is a variable, ids are its own, panels do not overlap, all five subjects have a row."""
    board = dashboard()
    assert board["templating"]["list"][0]["type"] == "datasource"
    source = {"type": "prometheus", "uid": "${datasource}"}
    assert all(target["datasource"] == panel["datasource"] == source for panel, target in targets())
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in board["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) == 23
    titles = [panel["title"] for panel in board["panels"] if panel["type"] == "row"]
    assert {
        "Tasks and latency",
        "Agents and circuits",
        "Partitions and lag",
        "Statistics and anomalies",
        "Plans",
    } <= set(titles)
    assert all(panel["description"] for panel in board["panels"] if panel["type"] != "row")


def test_grafana_is_given_data_source_and_dashboard() -> None:
    """The provisioning files are those of its version 1."""
    folder = DEPLOY / "grafana" / "provisioning"
    sources = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text())
    boards = yaml.safe_load((folder / "dashboards" / "parallax.yaml").read_text())
    assert sources["apiVersion"] == boards["apiVersion"] == 1
    assert sources["datasources"][0]["type"] == "prometheus"
    assert boards["providers"][0]["type"] == "file"


@pytest.mark.promtool
def test_promtool_finds_nothing_to_say_about_the_names(run: Scraped) -> None:
    """Base units, suffixes, help."""
    promtool = shutil.which("promtool")
    assert promtool is not None, "promtool is missing: it is in Debian's package prometheus"
    asked = subprocess.run([promtool, "check", "metrics"], input=run.page, capture_output=True, text=True, check=False)
    assert (asked.returncode, asked.stdout, asked.stderr) == (0, "", "")
