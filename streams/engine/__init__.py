"""The transactional partition: consume, keep the offset ledger, run a handler, commit outputs and offsets together."""
