"""Agents over gRPC."""
