"""The wire formats: messages, the table of topics, the codec, the published contracts. Pure."""
