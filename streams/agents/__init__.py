"""Which agents there are, how they are reached, and their status."""
