"""The file of prices (setting `stats.prices`), read when a worker starts.

In: a path to TOML or JSON. Out: prices by agent and model, or `SettingsError` in one line: the file, the field and the reason.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from schemas.exact_json import loads
from streams.rules.usage import Prices, parse_prices
from streams.settings import SettingsError


def load_prices(file: str | None) -> Prices:
    """Prices from a file; none without one. Raises `SettingsError`."""
    if file is None:
        return Prices()
    try:
        content = Path(file).read_bytes()
        return parse_prices(loads(content) if file.endswith(".json") else tomllib.loads(content.decode()))
    except (OSError, ValueError) as error:
        raise SettingsError(f"stats.prices: {file}: {error}") from None
