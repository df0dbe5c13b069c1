"""Agents over Kafka topics."""
