"""Connecting to the brokers, and the operations that commands and roles share there."""
