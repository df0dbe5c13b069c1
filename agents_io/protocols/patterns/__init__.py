"""Tasks of type `pattern`: run by whoever has the pattern."""
