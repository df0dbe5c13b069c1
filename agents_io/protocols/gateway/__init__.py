"""Agents that dial in: their streams, the hop between workers, the transport."""
