"""Results of functions. Pure."""
