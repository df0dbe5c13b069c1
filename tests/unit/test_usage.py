"""What an answer used up: every spelling, prices, and numbers that make no sense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from streams.dispatch.price_file import load_prices
from streams.rules.usage import Price, Prices, parse_prices, used
from streams.settings import SettingsError

PRICES = Prices(models={"m-1": Price(input=2.0, output=10.0, cached_input=0.5, call=0.001)})
OURS = {"inputTokens": 1000, "outputTokens": 100, "totalTokens": 1100}


def _used(answer: Any, agent: str = "a", prices: Prices = PRICES) -> dict[str, Any]:
    return used(orjson.dumps(answer), agent, prices)


@pytest.mark.parametrize(
    "usage",
    [
        {"inputTokens": 1000, "outputTokens": 100},
        {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100},
        {"input_tokens": 1000, "output_tokens": 100},
        {"promptTokenCount": 1000, "candidatesTokenCount": 100, "totalTokenCount": 1100},
        {"input_tokens": "1000", "output_tokens": "100"},
    ],
)
def test_every_spelling_of_usage_gives_the_same_tokens(usage: dict[str, Any]) -> None:
    """As a member of the answer, of its metadata, and as JSON text, as gRPC has it."""
    assert _used({"usage": usage}) == OURS
    assert _used({"metadata": {"usage": usage}}) == OURS
    assert _used({"usage": orjson.dumps(usage).decode()}) == OURS


def test_the_price_of_an_answer() -> None:
    """Tokens at the price of a million, cached ones cheaper, and each answer's own."""
    usage = {"prompt_tokens": 1000, "completion_tokens": 100, "prompt_tokens_details": {"cached_tokens": 400}}
    found = _used({"model": "m-1", "usage": usage})
    assert found == {"model": "m-1", **OURS, "cost": round((600 * 2 + 400 * 0.5 + 100 * 10) / 1e6 + 0.001, 12)}
    assert "cost" not in _used({"model": "m-2", "usage": usage})


def test_the_agents_price_comes_before_the_models() -> None:
    """Also for an agent that reports nothing, if its price is one for each answer."""
    prices = Prices({"a": Price(call=0.25)}, PRICES.models)
    assert _used({"model": "m-1", "usage": {"total_tokens": 7}}, "a", prices)["cost"] == 0.25
    assert used(b"", "a", prices) == {"cost": 0.25}
    assert used(b"", "b", prices) == {}


def test_what_the_agent_says_it_cost_counts() -> None:
    """Beside usage or in it, as a number or as text."""
    usage = {"input_tokens": 1000, "output_tokens": 100}
    assert _used({"model": "m-1", "usage": {**usage, "cost": 0.5}})["cost"] == 0.5
    assert _used({"model": "m-1", "usage": usage, "cost": "0.25"})["cost"] == 0.25


@pytest.mark.parametrize("tokens", [-1, 1.5, True, None, "many", 10**12, [], "1" * 40])
def test_tokens_that_make_no_sense_are_left_out(tokens: Any) -> None:
    """They fail no answer."""
    assert _used({"usage": {"inputTokens": tokens, "outputTokens": 3}}) == {"outputTokens": 3}


@pytest.mark.parametrize("cost", [-1, True, None, "dear", 1e12, [], float("inf")])
def test_costs_that_make_no_sense_are_left_out(cost: Any) -> None:
    """They fail no answer either."""
    assert "cost" not in _used({"usage": {"outputTokens": 3, "cost": cost}})


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b'{"usage": 1}', b'{"usage": "{x"}', b'{"usage": {}}', b'{"model":"m","usage":{}}']
)
def test_an_answer_without_usage_has_none(raw: bytes) -> None:
    """Whatever stands in its place."""
    assert used(raw, "a", PRICES) == {}


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ([], "agents and models"),
        ({"model": {}}, "model: unknown field"),
        ({"models": []}, "models: must be a table"),
        ({"models": {"m": 2}}, "models.m: must be a table"),
        ({"models": {"m": {"in": 2}}}, "models.m.in: unknown field"),
        ({"agents": {"a": {"call": True}}}, "agents.a.call: must be a number"),
        ({"agents": {"a": {"call": float("nan")}}}, "agents.a.call: must be a number"),
    ],
)
def test_a_wrong_price_is_named(document: Any, field: str) -> None:
    """Field and reason."""
    with pytest.raises(ValueError, match=field.replace(".", r"\.")):
        parse_prices(document)


def test_the_file_of_prices(tmp_path: Path) -> None:
    """TOML or JSON; what is wrong with it is said in one line."""
    toml, json, broken = tmp_path / "p.toml", tmp_path / "p.json", tmp_path / "b.toml"
    toml.write_text('[models."m*"]\ninput = 1\n')
    json.write_text('{"models": {"m*": {"input": 1}}}')
    assert load_prices(str(toml)) == load_prices(str(json)) == Prices(models={"m*": Price(1.0)})
    assert load_prices(None) == Prices()
    broken.write_text("[models.m]\ninput = -1\n")
    with pytest.raises(SettingsError, match=r"stats\.prices: .*b\.toml: models\.m\.input"):
        load_prices(str(broken))
    with pytest.raises(SettingsError, match=r"stats\.prices: .*missing"):
        load_prices(str(tmp_path / "missing.toml"))
