"""The dispatch role: routing, queues, waiting, state, outcomes."""
