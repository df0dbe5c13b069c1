"""Detectors, the episodes of alarms, calibration. Pure."""
