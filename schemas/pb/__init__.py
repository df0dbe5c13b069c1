"""Protocol buffers as Python: generated from schemas/proto by `make protos`, never edited. Messages only, no services."""
