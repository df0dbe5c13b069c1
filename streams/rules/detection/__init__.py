"""Detectors, the life of alarms, calibration. Pure."""
