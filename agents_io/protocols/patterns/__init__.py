"""Tasks of type `pattern`, and the executors that run them."""
