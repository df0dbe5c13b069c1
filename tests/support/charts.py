"""The Helm chart rendered by Helm's own engine, and what every pod must be to run under the restricted Pod Security Standard.

In: values. Out: the objects as Helm would send them to a cluster. No cluster is asked. The checkers are those of the dependency
group `deploy`; they are imported when they are needed, since `make test` has none of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "parallax-streams"
VALUES = {path.stem: path for path in sorted((ROOT / "deploy" / "helm" / "values").glob("*.yaml"))}
Json = dict[str, Any]


def values(name: str) -> Json:
    """One of the example files."""
    found: Json = yaml.safe_load(VALUES[name].read_text("utf-8"))
    return found


def lint(given: Json) -> list[Json]:
    """What `helm lint --strict` finds; severity 2 is a warning, 3 an error."""
    import helm_python

    report = helm_python.lint(CHART, given, strict=True)
    return [*report["messages"], *({"severity": 3, "error": error} for error in report["errors"])]


def render(given: Json, release: str = "r", chart: Path = CHART) -> list[Json]:
    """Every object. Raises `HelmError` where values are refused."""
    import helm_python

    with helm_python.Chart.load(chart) as loaded:
        texts = loaded.render(given, name=release, namespace="px", is_install=True)
    pages = [
        page for path, text in sorted(texts.items()) if path.endswith(".yaml") for page in yaml.safe_load_all(text)
    ]
    return [page for page in pages if page]


def of_kind(objects: list[Json], kind: str) -> dict[str, Json]:
    """Those of a kind, by name."""
    return {one["metadata"]["name"]: one for one in objects if one["kind"] == kind}


def pods(objects: list[Json]) -> Iterator[tuple[str, Json]]:
    """Name and spec of every pod that would run."""
    for one in objects:
        if one["kind"] == "Pod":
            yield one["metadata"]["name"], one["spec"]
        elif one["kind"] in ("StatefulSet", "Deployment", "Job"):
            yield one["metadata"]["name"], one["spec"]["template"]["spec"]


def unrestricted(spec: Json) -> list[str]:
    """What the restricted Pod Security Standard would refuse, and a root file system that can be written."""
    found = [f"{name} is shared with the host" for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    whole = spec.get("securityContext", {})
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        own = container.get("securityContext", {})
        wanted = {
            "runAsNonRoot": own.get("runAsNonRoot", whole.get("runAsNonRoot")) is True,
            "runAsUser": own.get("runAsUser", whole.get("runAsUser")) not in (None, 0),
            "seccompProfile": own.get("seccompProfile", whole.get("seccompProfile", {})).get("type")
            == "RuntimeDefault",
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
            "readOnlyRootFilesystem": own.get("readOnlyRootFilesystem") is True,
            "capabilities": own.get("capabilities") == {"drop": ["ALL"]},
        }
        found += [f"{container['name']}: {name}" for name, well in wanted.items() if not well]
    found += [f"volume {volume['name']}" for volume in spec.get("volumes", []) if "hostPath" in volume]
    return found


def environment(container: Json, fields: Mapping[str, str]) -> dict[str, str]:
    """A container's variables as Kubernetes sets them; `fields`: what the downward API says, and the keys of Secrets."""
    found: dict[str, str] = {}
    for one in container.get("env", []):
        if "value" in one:
            text = re.sub(r"\$\(([A-Z_]+)\)", lambda name: found.get(name[1], name[0]), str(one["value"]))
        else:
            origin = one["valueFrom"]
            text = fields[origin["fieldRef"]["fieldPath"] if "fieldRef" in origin else origin["secretKeyRef"]["key"]]
        found[one["name"]] = text
    return found
