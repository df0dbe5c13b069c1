"""What the dispatch processor is made of: routing, queues, waiting, memory, outcomes."""
