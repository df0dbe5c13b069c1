"""The live page's server side: the stream of events, one task's history, actions, and access."""
