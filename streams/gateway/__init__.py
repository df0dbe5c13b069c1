"""The worker's side of agents that dial in: who holds which, for every worker to see."""
