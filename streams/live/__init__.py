"""What happens now, for those who look on: the stream of events, one task's story, and who may ask."""
