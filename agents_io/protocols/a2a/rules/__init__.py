"""A2A's messages: what is sent, and what comes back. Pure."""
