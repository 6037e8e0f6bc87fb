"""Runs the iterations of one device."""
