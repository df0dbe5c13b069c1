"""Trace spans of a worker (OpenTelemetry). Imported only if the environment enables them: `export.py` decides."""
