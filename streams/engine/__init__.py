"""The transactional partition: consume, keep the ledger, run a handler, commit outputs and offsets together."""
