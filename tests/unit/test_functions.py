"""How functions are marked and found."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from agents_io.protocols.functions import catalogue
from agents_io.protocols.functions.catalogue import Functions, FunctionsError, current_call, function, load_functions


def test_a_module_offers_what_is_marked_in_it() -> None:
    """Plain and async ones; what only lies there is not offered."""
    found = load_functions(["tests.support.some_functions"])
    assert found.names == ("broken", "double", "hung", "picky", "sure", "who")
    assert found.get("sure").is_async  # type: ignore[union-attr]
    assert not found.get("double").is_async  # type: ignore[union-attr]
    assert "time.sleep" not in found
    assert found.get("os.system") is None


@pytest.mark.parametrize("name", ["", " ", "a b", "-a", "a\n", "x" * 201, "\u00e9"])
def test_names_are_plain(name: str) -> None:
    """They become part of an agent's id."""
    with pytest.raises(ValueError, match="cannot be named"):
        function(name)


def test_a_function_without_a_name_and_a_generator_are_refused() -> None:
    """Where they are marked or loaded, not at each call."""

    def yields(payload: Any) -> Any:
        yield payload

    with pytest.raises(TypeError, match="a function needs a name"):
        function(yields)  # type: ignore[arg-type]
    with pytest.raises(FunctionsError, match=r"'yields'.*a generator"):
        Functions.of([function("yields")(yields)])


def test_modules_that_cannot_be_used_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At start, with the reason: missing, broken, or nothing in them."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "px_broken.py").write_text("1 / 0\n")
    (tmp_path / "px_empty.py").write_text("x = 1\n")
    (tmp_path / "px_exits.py").write_text("x = 1\nraise SystemExit(3)\n")
    for name, reason in (
        ("px_nowhere", "ModuleNotFoundError"),
        ("px_broken", r"ZeroDivisionError.*px_broken\.py, line 1"),
        ("px_exits", r"SystemExit: 3 .*px_exits\.py, line 2"),
        ("px_empty", "no callable"),
    ):
        with pytest.raises(FunctionsError, match=rf"{name}.*{reason}"):
            load_functions([name])


def test_two_functions_of_one_name_are_told() -> None:
    """Which one would run?"""

    @function("same")
    def one(payload: Any) -> Any:
        return 1

    @function("same")
    def other(payload: Any) -> Any:
        return 2

    assert Functions.of([one, one]).names == ("same",)
    with pytest.raises(FunctionsError, match="two functions are named 'same'"):
        Functions.of([one, other])


def test_entry_points_name_callables_and_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """A callable has the entry point's name, or its mark; what cannot be loaded is told."""
    module = ModuleType("px_points")

    def plain(payload: Any) -> Any:
        return payload

    module.plain, module.marked, module.number = plain, function("marked")(lambda payload: payload), 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "px_points", module)

    def points(*values: str) -> None:
        made = [EntryPoint(f"n{number}", value, catalogue.GROUP) for number, value in enumerate(values)]
        monkeypatch.setattr(catalogue, "entry_points", lambda group: made)

    points("px_points:plain", "px_points")
    assert load_functions().names == ("marked", "n0")
    for value in ("px_points:number", "px_points:absent", "px_absent"):
        points(value)
        with pytest.raises(FunctionsError, match=f"n0.*{value}"):
            load_functions()


def test_there_is_no_current_call_outside_of_one() -> None:
    """It would be somebody else's."""
    with pytest.raises(LookupError):
        current_call()


def test_an_object_with_an_async_call_is_async() -> None:
    """Callables are not only functions."""

    class Model:
        async def __call__(self, payload: Any) -> Any:
            return payload

    [found] = [Functions.of([function("model")(Model())]).get("model")]  # type: ignore[type-var]
    assert found is not None
    assert found.is_async
