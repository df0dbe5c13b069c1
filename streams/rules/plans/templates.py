"""Local patterns: named plan templates with parameters. A step of type `pattern` is then a plan of its own. Pure.

In: templates as JSON (`{"name", "parameters"?: {name: default}, "plan": {...}}`), and the payload of a step. Out:
blueprints. `${name}` in any string of the template's tasks is replaced: alone it becomes the parameter's value, within
text its text. Parameters are the fields of the payload, over the defaults; `payload` is the whole of it, `context` the
results before the step. Templates may use other templates, without a cycle, and at most `max_depth` deep (checked
before a plan begins).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from schemas.codec import Rejected, validate
from schemas.exact_json import dumps
from schemas.messages import Plan
from streams.rules.plans.blueprint import MAX_STEPS, Blueprint, InvalidPlan, blueprint

MAX_DEPTH = 5
MAX_TEMPLATES = 1000
_NAME = r"[A-Za-z_][A-Za-z0-9_]{0,63}"
_WHOLE = re.compile(rf"\$\{{({_NAME})\}}")
Template = Mapping[str, Any]
Templates = Mapping[str, Template]


def read_templates(rows: Iterable[Any]) -> dict[str, Template]:
    """Templates by name, checked as plans. Raises `InvalidPlan` naming template, field and reason.

    >>> sorted(read_templates([{"name": "twice", "plan": {"tasks": [
    ...     {"id": "a", "type": "agent", "target": "${agent}", "payload": "${payload}"}]}}]))
    ['twice']
    """
    found: dict[str, Template] = {}
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or not isinstance(row.get("name"), str) or not row["name"]:
            raise InvalidPlan(f"template {number}: must be an object with a name")
        name = row["name"]
        if name in found:
            raise InvalidPlan(f"template {name}: is there twice")
        if not isinstance(row.get("plan"), dict) or not isinstance(row.get("parameters", {}), dict):
            raise InvalidPlan(f"template {name}: plan and parameters must be objects")
        found[name] = row
        if len(found) > MAX_TEMPLATES:
            raise InvalidPlan(f"template {name}: is one too many; at most {MAX_TEMPLATES} are allowed")
        try:
            read_plan({**row["plan"], "id": name})
        except InvalidPlan as error:
            raise InvalidPlan(f"template {name}: {error}") from None
    return found


def read_plan(data: Any) -> Blueprint:
    """A plan's JSON as a blueprint. Raises `InvalidPlan`."""
    try:
        plan = validate(Plan, data)
    except Rejected as rejected:
        raise InvalidPlan(rejected.reason) from None
    return blueprint(plan, data["tasks"])


def used(plan: Blueprint, templates: Templates, max_depth: int = MAX_DEPTH) -> dict[str, Template]:
    """The templates a plan needs, to be kept with it. Raises `InvalidPlan`: a cycle, too deep, too many steps in
    all.
    """
    found: dict[str, Template] = {}
    total = _count([step.task for step in plan.steps], templates, found, (), max_depth)
    if total > MAX_STEPS:
        raise InvalidPlan(f"tasks: {total} with those of its patterns; at most {MAX_STEPS} are allowed")
    return found


def _count(
    tasks: Iterable[Mapping[str, Any]],
    templates: Templates,
    found: dict[str, Template],
    trail: tuple[str, ...],
    max_depth: int,
) -> int:
    total = 0
    sizes: dict[str, int] = {}
    for task in tasks:
        total += 1
        name = task["target"] if task.get("type") == "pattern" else None
        if name is None or name not in templates:
            continue
        if name in trail:
            raise InvalidPlan(f"tasks: patterns in a circle: {' -> '.join([*trail, name])}")
        if len(trail) >= max_depth:
            raise InvalidPlan(f"tasks: patterns nested deeper than {max_depth}: {' -> '.join([*trail, name])}")
        found[name] = templates[name]
        if name not in sizes:
            sizes[name] = _count(templates[name]["plan"]["tasks"], templates, found, (*trail, name), max_depth)
        total += sizes[name]
    return total


def expand(template: Template, payload: Any, context: Any) -> Blueprint:
    """A template with its parameters filled in. Raises `InvalidPlan`: a parameter is missing, or does not fit."""
    values: dict[str, Any] = dict(template.get("parameters") or {})
    if isinstance(payload, dict):
        values |= payload
    values |= {"payload": payload, "context": context}
    plan = {**template["plan"], "id": template["name"]}
    plan["tasks"] = _filled(plan["tasks"], values, "tasks")
    return read_plan(plan)


def _filled(given: Any, values: Mapping[str, Any], where: str) -> Any:
    if isinstance(given, str):
        return _text(given, values, where) if "${" in given else given
    if isinstance(given, dict):
        return {key: _filled(value, values, f"{where}.{key}") for key, value in given.items()}
    if isinstance(given, list):
        return [_filled(value, values, f"{where}.{number}") for number, value in enumerate(given)]
    return given


def _text(given: str, values: Mapping[str, Any], where: str) -> Any:
    def value(name: str) -> Any:
        if name not in values:
            raise InvalidPlan(f"{where}: the pattern's parameter {name!r} is not given")
        return values[name]

    if (whole := _WHOLE.fullmatch(given)) is not None:
        return value(whole[1])

    def text(match: re.Match[str]) -> str:
        found = value(match[1])
        return found if isinstance(found, str) else dumps(found).decode()

    return _WHOLE.sub(text, given)
