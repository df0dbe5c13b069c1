"""What a worker can be: each role put together from its processor and what that needs."""
