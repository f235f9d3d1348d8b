"""Fault campaigns: ``python -m tests.faults NAME --times N [--json]``."""
