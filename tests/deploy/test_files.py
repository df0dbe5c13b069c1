"""The files in deploy/ as their own tools see them: compose, Dockerfile, YAML."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from streams.cli.process import AFTER_DRAIN_S
from streams.exposure import open_addresses
from streams.settings import Settings, load
from tests.support.compose import document, seconds, services

pytestmark = pytest.mark.deploy

ROOT = Path(__file__).resolve().parents[2]
OURS = ("worker", "topics")
YAMLLINT = """
extends: default
rules:
  line-length: {max: 140}
  document-start: disable
  truthy: {check-keys: false}
  braces: {max-spaces-inside: 1}
  comments: {min-spaces-from-content: 1}
  indentation: {indent-sequences: consistent}
"""


def tool(name: str) -> str:
    """A checker of the group `deploy`; that it is not there is a failure."""
    found = shutil.which(name, path=str(Path(sys.executable).parent))
    assert found is not None, f"{name} is missing: make test-deploy installs it"
    return found


def test_compose_is_what_the_specification_says() -> None:
    """By the specification's own JSON Schema, which check-jsonschema carries."""
    found = importlib.util.find_spec("check_jsonschema")
    assert found is not None
    assert found.origin is not None
    schema = Path(found.origin).parent / "builtin_schemas" / "vendor" / "compose-spec.json"
    validator = Draft202012Validator(json.loads(schema.read_text("utf-8")))
    assert [error.message for error in validator.iter_errors(document())] == []


def test_hadolint_finds_no_fault_in_the_dockerfile() -> None:
    """No rule is switched off."""
    done = subprocess.run(
        [tool("hadolint"), "--no-color", str(ROOT / "deploy" / "Dockerfile")], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_yamllint_finds_no_fault() -> None:
    """Templates of the chart are no YAML before Helm has read them."""
    files = [ROOT / "docker-compose.yml"]
    files += [path for path in sorted((ROOT / "deploy").rglob("*.y*ml")) if "templates" not in path.parts]
    assert len(files) >= 6
    done = subprocess.run(
        [tool("yamllint"), "--strict", "-d", YAMLLINT, *map(str, files)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_nothing_is_published_beyond_this_machine() -> None:
    """Docker opens the firewall for whatever it publishes."""
    published = [port for service in services().values() for port in service.get("ports", [])]
    assert len(published) >= 5
    assert all(port.startswith("127.0.0.1:") for port in published)


@pytest.mark.parametrize("name", [*OURS, "tokens"])
def test_our_containers_may_nothing(name: str) -> None:
    """A root that cannot be written, no capabilities, no way to more."""
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "/tmp" in service["tmpfs"]
    assert "privileged" not in service


@pytest.mark.parametrize("name", OURS)
def test_the_settings_of_a_service_can_be_read(name: str, tmp_path: Path) -> None:
    """An unknown name would end it at its start."""
    service = services()[name]
    assert load(None, service["environment"], tmp_path).bootstrap_servers == "kafka:19092"


def test_the_worker_would_start_with_its_tokens(tmp_path: Path) -> None:
    """It listens on all addresses of its container: without them it would refuse."""
    service = services()["worker"]
    hosts = dict(zip(service["command"][1::2], service["command"][2::2], strict=True))
    flags = {name.removeprefix("--").replace("-", "_"): value for name, value in hosts.items()}
    assert open_addresses(load(flags, service["environment"], tmp_path)) == []
    without = {name: value for name, value in service["environment"].items() if "TOKEN" not in name}
    assert len(open_addresses(load(flags, without, tmp_path))) == 2


def test_the_worker_is_given_more_time_than_it_takes_to_stop() -> None:
    """Else it is killed in its last commits."""
    grace_s = seconds(services()["worker"]["stop_grace_period"])
    assert grace_s > Settings().dispatch.stop_timeout / 1000 + AFTER_DRAIN_S


def test_whoever_waits_waits_for_something_that_can_come_about() -> None:
    """A service with a healthcheck where health is waited for, one that ends where its end is; images have versions."""
    for service in services().values():
        waits = service.get("depends_on", {})
        for other, how in waits.items() if isinstance(waits, dict) else ():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services()[other]
            if how["condition"] == "service_completed_successfully":
                assert services()[other]["restart"] == "no"
        assert ":" in service["image"]
        assert not service["image"].endswith(":latest")


def test_what_is_mounted_is_there() -> None:
    """Docker makes a directory of a file that is missing."""
    mounted = [volume.split(":")[0] for service in services().values() for volume in service.get("volumes", [])]
    files = [name for name in mounted if name.startswith("./")]
    assert len(files) >= 3
    assert [name for name in files if not (ROOT / name).exists()] == []


def test_prometheus_looks_at_the_worker() -> None:
    """At the port it listens on, in a job that the rules know by its name."""
    config = yaml.safe_load(document()["configs"]["prometheus"]["content"])
    [job] = config["scrape_configs"]
    assert "parallax" in job["job_name"]
    path = job["authorization"]["credentials_file"]
    assert f"file:{path}" == services()["worker"]["environment"]["PARALLAX_WEB_AUTH__VIEW_TOKENS"]
    for name in ("worker", "prometheus"):
        assert f"tokens:{path.rpartition('/')[0]}:ro" in services()[name]["volumes"]
    assert job["static_configs"] == [{"targets": [f"worker:{Settings().web_port}"]}]
