"""Requests to agents on Kafka, and their replies. Pure."""
