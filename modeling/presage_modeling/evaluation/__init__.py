"""Metrics, calibration, uncertainty and the report: what a run is worth."""
