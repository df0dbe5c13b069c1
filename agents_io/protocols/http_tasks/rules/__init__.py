"""Requests and replies of http tasks. Pure."""
