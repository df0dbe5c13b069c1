"""What the guarded call decides: turns, circuits, limits, retries. Pure."""
