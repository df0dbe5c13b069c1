"""Calling agents: the transports, the guarded call and the pure rules (breaker, limiter, retry, lane) around it."""
