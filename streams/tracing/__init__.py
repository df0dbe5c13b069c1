"""Spans of what a worker does (OpenTelemetry). Imported only where the environment asks for them: `export.py` decides."""
