"""The decisions of the guarded call: turns, circuits, limits, retries. Pure."""
