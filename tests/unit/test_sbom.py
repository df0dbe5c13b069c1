"""The bill of materials says what the lock says; the audit finds what advisories say, and never passes for want of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from deploy.tools.audit import NoAdvisories, advisories, is_affected, main, vulnerable
from deploy.tools.lock import read_lock
from deploy.tools.sbom import LOCK, document

ROOT = Path(__file__).resolve().parents[2]


def lines_of_the_lock() -> set[str]:
    """Name and version, read another way."""
    return set(re.findall(r"^([a-z0-9._-]+)(?:\[[^\]]*\])?==([^ \\]+)", LOCK.read_text("utf-8"), re.MULTILINE))


def test_every_locked_package_is_listed_with_all_its_hashes() -> None:
    """And nothing else; where it is installed, if not everywhere."""
    text = LOCK.read_text("utf-8")
    made = document(text, "1.2.3")
    assert {(one["name"], one["version"]) for one in made["components"]} == lines_of_the_lock()
    hashes = [entry["content"] for one in made["components"] for entry in one["externalReferences"][0]["hashes"]]
    assert sorted(hashes) == sorted(re.findall(r"sha256:([0-9a-f]{64})", text))
    [windows] = [one for one in made["components"] if one["name"] == "colorama"]
    assert windows["properties"][0]["value"] == "sys_platform == 'win32'"
    assert made["metadata"]["component"]["version"] == "1.2.3"
    licensed = [one for one in made["components"] if "licenses" in one]
    assert len(licensed) > 0.9 * len(made["components"])


def test_who_needs_whom_is_the_locks_own_word() -> None:
    """Each reference exists, and everything is reached from us."""
    made = document(LOCK.read_text("utf-8"), "1.2.3")
    needs = {one["ref"]: one["dependsOn"] for one in made["dependencies"]}
    assert needs.keys() == {one["bom-ref"] for one in made["components"]} | {made["metadata"]["component"]["bom-ref"]}
    reached, left = set(), [made["metadata"]["component"]["bom-ref"]]
    while left:
        ref = left.pop()
        if ref not in reached:
            reached.add(ref)
            left += needs[ref]
    assert reached == needs.keys()
    assert any(ref.startswith("pkg:pypi/aiohttp@") for ref in needs["pkg:pypi/parallax-streams@1.2.3"])


def test_the_same_lock_makes_the_same_document() -> None:
    """To the byte, whenever it is made; another lock another serial number."""
    command = [sys.executable, "-m", "deploy.tools.sbom"]
    one, two = (subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout for _ in range(2))
    assert one == two
    text = LOCK.read_text("utf-8")
    assert json.loads(one)["serialNumber"] != document(text + "\n", "0")["serialNumber"]


@pytest.mark.parametrize("text", ["aiohttp>=3\n", "-r other.txt\n", "aiohttp==3.0\n    # via x\n"])
def test_a_lock_that_is_none_is_refused(text: str) -> None:
    """A package without version or hash is not locked."""
    with pytest.raises(ValueError, match=r"not a locked package|has no hash"):
        read_lock(text)


def advisory(name: str = "aiohttp", **more: Any) -> dict[str, Any]:
    """As OSV publishes it."""
    affected = {"package": {"ecosystem": "PyPI", "name": name}} | more
    return {"id": "GHSA-x", "aliases": ["CVE-1"], "summary": "bad", "affected": [affected]}


def between(*events: dict[str, str]) -> dict[str, Any]:
    """A range."""
    return {"ranges": [{"type": "ECOSYSTEM", "events": list(events)}]}


@pytest.mark.parametrize(
    ("affected", "versions"),
    [
        (between({"introduced": "0"}, {"fixed": "1.2"}), ["0.1", "1.0", "1.1.9", "1.2rc1"]),
        (
            between({"introduced": "1.0"}, {"fixed": "1.2"}, {"introduced": "2.0"}),
            ["1.0", "1.1.9", "1.2rc1", "2.0", "3"],
        ),
        (between({"introduced": "1.0"}, {"last_affected": "1.2"}), ["1.0", "1.1.9", "1.2rc1", "1.2"]),
        (between({"fixed": "1.2"}, {"introduced": "0"}), ["0.1", "1.0", "1.1.9", "1.2rc1"]),
        ({"versions": ["1.2"]}, ["1.2"]),
        ({"ranges": [{"type": "GIT", "events": [{"introduced": "0"}]}]}, []),
        (between({"introduced": "not a version"}), ["0.1", "1.0", "1.1.9", "1.2rc1", "1.2", "1.10", "2.0", "3"]),
    ],
)
def test_which_versions_an_advisory_means(affected: dict[str, Any], versions: list[str]) -> None:
    """Versions are ordered as Python orders them; what cannot be compared is reported."""
    every = ["0.1", "1.0", "1.1.9", "1.2rc1", "1.2", "1.10", "2.0", "3"]
    found = [version for version in every if is_affected(version, affected)]
    assert found == [version for version in every if version in versions]


def test_findings_name_package_and_advisory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names are compared as PyPI does; withdrawn and foreign ones do not count; a zip, a folder or a file."""
    packages = read_lock(LOCK.read_text("utf-8"))
    everything = between({"introduced": "0"})
    [line] = vulnerable(packages, [advisory("AioHTTP", **everything)])
    assert re.fullmatch(r"aiohttp \S+: GHSA-x, CVE-1: bad", line)
    assert vulnerable(packages, [advisory(**everything) | {"withdrawn": "2026-01-01T00:00:00Z"}]) == []
    assert vulnerable(packages, [advisory("nobody", **everything)]) == []
    (tmp_path / "one.json").write_text(json.dumps(advisory(**everything)), "utf-8")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(tmp_path / "one.json", "GHSA-x.json")
    for path in (tmp_path, tmp_path / "one.json", tmp_path / "all.zip"):
        assert main([str(path)]) == 1
        assert "GHSA-x" in capsys.readouterr().out
    (tmp_path / "one.json").write_text(json.dumps(advisory("nobody", **everything)), "utf-8")
    assert main([str(tmp_path / "one.json")]) == 0


def test_no_advisories_are_no_clean_audit(tmp_path: Path) -> None:
    """Nothing to compare with is an error of its own."""
    npm = {"id": "x", "affected": [{"package": {"ecosystem": "npm", "name": "aiohttp"}}]}
    (tmp_path / "npm.json").write_text(json.dumps(npm), "utf-8")
    (tmp_path / "text.json.txt").write_text("hello", "utf-8")
    for path in (tmp_path, tmp_path / "npm.json", tmp_path / "text.json.txt", tmp_path / "none"):
        with pytest.raises(NoAdvisories):
            list(advisories(path))
        assert main([str(path)]) == 2
