"""The guarded call: an agent's queue, and what happens to a task from its first attempt to its answer."""
