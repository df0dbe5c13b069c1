"""Tasks of type `http`: one request to a URL that the task names."""
