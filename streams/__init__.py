"""The pipeline: rules that decide, an engine that commits, processors that carry, a worker that puts them together."""
