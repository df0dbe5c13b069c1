"""Messages of gRPC agents: what is sent, and what comes back. Pure."""
