"""Batch files: `bros submit` and `bros batch`."""
