"""Batch jobs in one SQLite file and uploads in one folder: the store of a single machine."""
