"""Serves a function as an agent: over HTTP, dialled in to a worker, or reading a Kafka topic."""

from agents_io.rules.confidence import from_agreement, from_logprobs, from_proba
from agents_io.serving.answers import Answer, Declined
from agents_io.serving.definition import AgentFunction, agent

__all__ = ["AgentFunction", "Answer", "Declined", "agent", "from_agreement", "from_logprobs", "from_proba"]
