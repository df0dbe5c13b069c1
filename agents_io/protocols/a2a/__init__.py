"""Agents over A2A."""
