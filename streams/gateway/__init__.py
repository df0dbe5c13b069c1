"""The worker's side of agents that dial in: which worker holds which agent, visible to every worker."""
