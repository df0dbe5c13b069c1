"""Scripted agents of other protocols for tests: the script of `agents_io/fakes/http.py` in the dress of each protocol."""
