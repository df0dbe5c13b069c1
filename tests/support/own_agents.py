"""Agents as a user writes them, for tests that serve them in a process."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from agents_io import agent


class Order(BaseModel):
    """What `price` takes."""

    item: str
    count: int


@agent("price", capabilities=["price"])
async def price(order: Order) -> tuple[dict[str, Any], float]:
    """Three a piece."""
    return {"item": order.item, "total": 3 * order.count}, 0.9


dialled_price = agent("dialled-price")(price.__wrapped__)
not_an_agent = 3
