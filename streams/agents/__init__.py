"""Which agents there are, how they are reached, and how they stand."""
