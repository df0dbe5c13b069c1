"""The guarded call: an agent's queue, and a task's way through it from the first attempt to the answer."""
