"""Batch jobs: their store on disk, and what works through their lines."""
