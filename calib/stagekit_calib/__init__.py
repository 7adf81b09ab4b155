"""Calibrating frozen stages: readers, observers, runs, audits, sensitivity."""
