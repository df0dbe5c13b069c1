"""The usage of an answer: tokens as the agent reports them, and their price. Pure.

In: the members of an answer beside value and confidence (`metadata_json`), the agent's id, prices. Out: members of a
data point: `model`, `inputTokens`, `outputTokens`, `totalTokens`, `cost`, each only if known.

Agents report usage in many spellings: ours (`inputTokens`), OpenAI's (`prompt_tokens`), Anthropic's (`input_tokens`),
Gemini's (`promptTokenCount`), as a member `usage` of the answer or of its `metadata`; over gRPC, where metadata are
strings, as JSON text. Implausible numbers are ignored: statistics never fail an answer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from schemas.exact_json import loads

MAX_TOKENS = 10**9
MAX_COST = 1e6
PER = 1_000_000
"""Prices are for this many tokens."""
_NAMES = {
    "inputTokens": ("inputTokens", "input_tokens", "prompt_tokens", "promptTokens", "promptTokenCount"),
    "outputTokens": ("outputTokens", "output_tokens", "completion_tokens", "completionTokens", "candidatesTokenCount"),
    "totalTokens": ("totalTokens", "total_tokens", "totalTokenCount"),
}
_DECIMAL = re.compile(r"\d{1,9}(\.\d{1,20})?", re.ASCII)
_DETAILS = ("prompt_tokens_details", "input_tokens_details")
_COSTS = ("cost", "total_cost", "totalCost")
_WORDS = (b"usage", b"cost", b"Cost")


@dataclass(frozen=True, slots=True)
class Price:
    """In the currency of the file. `input`, `output`, `cached_input`: for a million tokens; `call`: for each answer.

    `cached_input`: for input tokens that the model's server had cached; None: the price of `input`.
    """

    input: float = 0.0
    output: float = 0.0
    cached_input: float | None = None
    call: float = 0.0


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices by agent and by model. The agent's take precedence; a model's name may end in `*`, the longest match
    counts.
    """

    agents: Mapping[str, Price] = field(default_factory=dict)
    models: Mapping[str, Price] = field(default_factory=dict)

    def of(self, agent_id: str, model: str | None) -> Price | None:
        """The price of an answer, or None if unknown.

        >>> prices = Prices(models={"gpt-*": Price(1), "gpt-9*": Price(2), "gpt-9": Price(3)})
        >>> [found and found.input for found in (prices.of("a", name) for name in ("gpt-9", "gpt-9-x", "gpt-1", "m", None))]
        [3, 2, 1, None, None]
        """
        found = self.agents.get(agent_id)
        if found is not None or model is None:
            return found
        found = self.models.get(model)
        if found is not None:
            return found
        fitting = [name for name in self.models if name.endswith("*") and model.startswith(name[:-1])]
        return self.models[max(fitting, key=len)] if fitting else None


def used(metadata_json: bytes, agent_id: str, prices: Prices) -> dict[str, Any]:
    """The members of a data point about an answer's usage; empty if nothing is known.

    >>> prices = Prices(models={"m-1": Price(input=2.0, output=10.0)})
    >>> used(b'{"model": "m-1", "usage": {"prompt_tokens": 1000, "completion_tokens": 100}}', "a", prices)
    {'model': 'm-1', 'inputTokens': 1000, 'outputTokens': 100, 'totalTokens': 1100, 'cost': 0.003}
    >>> used(b'{"reasoning": "so"}', "a", prices)
    {}
    """
    own = prices.agents.get(agent_id)
    if own is None and not any(word in metadata_json for word in _WORDS):
        return {}  # the usual case: not worth parsing
    answer = _object(metadata_json) if metadata_json else {}
    inner = _object(answer.get("metadata"))
    usage = next((u for u in map(_object, (answer.get("usage"), inner.get("usage"))) if u), {})
    model = next((m for m in (answer.get("model"), inner.get("model"), usage.get("model")) if _is_name(m)), None)
    found: dict[str, Any] = {} if model is None else {"model": model}
    tokens = {ours: held for ours, names in _NAMES.items() if (held := _first(usage, names)) is not None}
    if "totalTokens" not in tokens and len(tokens) == 2:
        tokens["totalTokens"] = min(sum(tokens.values()), MAX_TOKENS)
    cost = next((c for c in (_cost(part) for part in (usage, answer, inner)) if c is not None), None)
    if cost is None:
        cost = _priced(tokens, _cached(usage), prices.of(agent_id, model))
    found |= tokens
    if cost is not None:
        found["cost"] = cost
    return found if len(found) > (model is not None) else {}


def _object(value: object) -> dict[str, Any]:
    """An object, also one written as JSON text."""
    if isinstance(value, str | bytes) and value[:1] in ("{", b"{"):
        try:
            value = loads(value)
        except ValueError:
            return {}
    return value if isinstance(value, dict) else {}


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 256


def _first(usage: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    return next((held for held in (_tokens(usage.get(name)) for name in names) if held is not None), None)


def _tokens(value: object) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 10:
        value = int(value)
    return value if type(value) is int and 0 <= value <= MAX_TOKENS else None


def _cached(usage: Mapping[str, Any]) -> int:
    return next(
        (n for name in _DETAILS if (n := _tokens(_object(usage.get(name)).get("cached_tokens"))) is not None), 0
    )


def _cost(part: Mapping[str, Any]) -> float | None:
    for name in _COSTS:
        value = part.get(name)
        if isinstance(value, str) and _DECIMAL.fullmatch(value):
            value = float(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MAX_COST:
            return round(float(value), 12)
    return None


def _priced(tokens: Mapping[str, int], cached: int, price: Price | None) -> float | None:
    """The price of these tokens; None without a price, or if tokens it applies to are unknown."""
    if price is None:
        return None
    if "inputTokens" not in tokens or "outputTokens" not in tokens:
        if price.input or price.output:
            return None
        return price.call
    sent, cached_price = tokens["inputTokens"], price.input if price.cached_input is None else price.cached_input
    cached = min(cached, sent)
    total = (sent - cached) * price.input + cached * cached_price + tokens["outputTokens"] * price.output
    return round(min(total / PER + price.call, MAX_COST), 12)


_FIELDS = ("input", "output", "cached_input", "call")


def parse_prices(document: object) -> Prices:
    """Prices from a document with the tables `agents` and `models`. Raises ValueError naming the field.

    >>> parse_prices({"models": {"m": {"input": 2}}}).of("a", "m")
    Price(input=2.0, output=0.0, cached_input=None, call=0.0)
    >>> parse_prices({"models": {"m": {"input": -2}}})
    Traceback (most recent call last):
    ...
    ValueError: models.m.input: must be a number from 0 to 1e+06, not -2
    """
    if not isinstance(document, Mapping):
        raise ValueError("must be an object with the tables agents and models")
    _only(document, ("agents", "models"), "")
    return Prices(
        *({str(k): _price(f"{t}.{k}", v) for k, v in _table(document, t).items()} for t in ("agents", "models"))
    )


def _table(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    held = document.get(name, {})
    if not isinstance(held, Mapping):
        raise ValueError(f"{name}: must be a table")
    return held


def _price(place: str, value: object) -> Price:
    if not isinstance(value, Mapping):
        raise ValueError(f"{place}: must be a table with {', '.join(_FIELDS)}")
    _only(value, _FIELDS, f"{place}.")
    for name, number in value.items():
        fits = isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number)
        if not fits or not 0 <= number <= MAX_COST:
            raise ValueError(f"{place}.{name}: must be a number from 0 to {MAX_COST:g}, not {number!r:.40}")
    return Price(**{str(name): float(number) for name, number in value.items()})


def _only(table: Mapping[Any, Any], names: tuple[str, ...], place: str) -> None:
    unknown = sorted(set(map(str, table)) - set(names))
    if unknown:
        raise ValueError(f"{place}{unknown[0]}: unknown field; known: {', '.join(names)}")
