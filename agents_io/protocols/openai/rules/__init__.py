"""Requests to models, and their answers. Pure."""
