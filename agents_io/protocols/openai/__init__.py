"""Agents over OpenAI-compatible APIs."""
