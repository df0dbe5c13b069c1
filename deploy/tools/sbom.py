"""`make sbom`: what is installed at run time, as a CycloneDX document.

In: `deploy/requirements.lock`, and the licences that the installed packages name. Out: JSON of CycloneDX 1.6 on stdout, the same
for the same lock: it holds no time, and its serial number comes from the lock. It asks no registry.
"""

from __future__ import annotations

import json
import sys
import uuid
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

from deploy.tools.lock import Locked, read_lock

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "deploy" / "requirements.lock"
US = "parallax-streams"
_NAMESPACE = uuid.UUID("6f1c7c9e-6b0a-5d55-8d0e-0f2f6f0b8a11")


def reference(package: Locked) -> str:
    """The package's URL, which also names it within the document."""
    return f"pkg:pypi/{package.name}@{package.version}"


def document(text: str, version: str) -> dict[str, Any]:
    """The document of a lock. `version`: of Parallax Streams itself."""
    packages = read_lock(text)
    ours = f"pkg:pypi/{US}@{version}"
    needs: dict[str, set[str]] = {reference(package): set() for package in packages} | {ours: set()}
    for package in packages:
        for name in package.needed_by:
            for other in [ours] if name == US else [reference(one) for one in packages if one.name == name]:
                needs[other].add(reference(package))
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, f'{version} {text}')}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": ours,
                "name": US,
                "version": version,
                "purl": ours,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            }
        },
        "components": [_component(package) for package in packages],
        "dependencies": [{"ref": name, "dependsOn": sorted(needed)} for name, needed in sorted(needs.items())],
    }


def _component(package: Locked) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": "library",
        "bom-ref": reference(package),
        "name": package.name,
        "version": package.version,
        "purl": reference(package),
        # One for each file of the release; which of them is installed depends on the machine.
        "externalReferences": [
            {
                "type": "distribution",
                "url": reference(package),
                "hashes": [{"alg": "SHA-256", "content": content} for content in package.hashes],
            }
        ],
    }
    if package.marker:
        found["properties"] = [{"name": "parallax:installed-if", "value": package.marker}]
    if (licence := licence_of(package)) is not None:
        found["licenses"] = [licence]
    return found


def licence_of(package: Locked) -> dict[str, Any] | None:
    """As the installed package of that version names it; None: it is not installed here, or names none."""
    try:
        about = metadata(package.name)
    except PackageNotFoundError:
        return None
    if about["Version"] != package.version:
        return None
    if expression := about.get("License-Expression"):
        return {"expression": expression}
    short = (about.get("License") or "").strip()
    if short and "\n" not in short and len(short) <= 100:
        return {"license": {"name": short}}
    classified = [row.rpartition(" :: ")[2] for row in about.get_all("Classifier", []) if row.startswith("License ::")]
    return {"license": {"name": " and ".join(classified)}} if classified else None


def main() -> None:
    """Write the document of this repository's lock."""
    version = metadata(US)["Version"]
    json.dump(document(LOCK.read_text("utf-8"), version), sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
