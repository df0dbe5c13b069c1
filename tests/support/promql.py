"""What a PromQL expression speaks of, held against what there is.

In: an expression, and the labels of every metric that exists. Out: the labels its result has; an AssertionError names the metric
or label that does not exist. It computes no values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import promql_parser as promql

SCRAPED = frozenset({"job", "instance"})
"""What Prometheus adds to every series it scrapes."""
KEEPING = {"topk", "bottomk"}
Known = Mapping[str, frozenset[str]]


def labels_of(expression: str, known: Known) -> frozenset[str]:
    """The labels of the result. Grafana's own variables are taken for what they stand for."""
    plain = expression.replace("$__rate_interval", "5m")
    return _labels(promql.parse(plain), known)


def _labels(node: Any, known: Known) -> frozenset[str]:
    kind = type(node).__name__
    if kind == "VectorSelector":
        return _selected(node, known)
    if kind == "MatrixSelector":
        return _labels(node.vector_selector, known)
    if kind in ("ParenExpr", "UnaryExpr", "SubqueryExpr"):
        return _labels(node.expr, known)
    if kind == "AggregateExpr":
        return _aggregated(node, known)
    if kind == "BinaryExpr":
        return _combined(node, known)
    if kind == "Call":
        return _called(node, known)
    assert kind in ("NumberLiteral", "StringLiteral"), kind
    return frozenset()


def _selected(node: Any, known: Known) -> frozenset[str]:
    assert node.name in known, f"there is no metric {node.name}"
    has = known[node.name]
    for matcher in node.matchers.matchers:
        assert matcher.name in has, f"{node.name} has no label {matcher.name}"
    return has


def _aggregated(node: Any, known: Known) -> frozenset[str]:
    has = _labels(node.expr, known)
    if str(node.op) in KEEPING:
        return has
    if node.modifier is None:
        return frozenset()
    named = frozenset(node.modifier.labels)
    assert named <= has, f"{node.prettify()}: no label {sorted(named - has)}"
    return named if "By" in str(node.modifier.type) else has - named


def _combined(node: Any, known: Known) -> frozenset[str]:
    left, right = _labels(node.lhs, known), _labels(node.rhs, known)
    scalars = [side for side in (node.lhs, node.rhs) if type(side).__name__ == "NumberLiteral"]
    if str(node.op) == "or":
        return left & right
    if scalars:
        return left | right
    matching = None if node.modifier is None else node.modifier.matching
    if matching is not None and "Include" in str(matching.type):
        named = frozenset(matching.labels)
        assert named <= left & right, f"{node.prettify()}: no label {sorted(named - (left & right))} on both sides"
        return right if "OneToMany" in str(node.modifier.card) else left
    # Nothing meets where the labels are not the same: the result would be empty for ever.
    assert left == right, f"{node.prettify()}: {sorted(left)} never meets {sorted(right)}"
    return left


def _called(node: Any, known: Known) -> frozenset[str]:
    has = frozenset[str]().union(*(_labels(argument, known) for argument in node.args))
    name = node.func.name
    if name == "histogram_quantile":
        assert "le" in has, f"{node.prettify()}: no label le"
        return has - {"le"}
    if name == "label_replace":
        return has | {node.args[1].val}
    return frozenset() if name == "absent" else has


def named_in(text: str) -> frozenset[str]:
    """The labels that a legend of Grafana's, or a template of an alert's words, names.

    >>> sorted(named_in("{{topic}} of {{ $labels.agent }}: {{ $value | humanize }}"))
    ['agent', 'topic']
    """
    return frozenset(re.findall(r"\{\{\s*(?:\$labels\.)?([a-z_]+)\s*\}\}", text))
