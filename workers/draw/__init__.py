"""Draws of tokens: races between them, on CPUs and on devices."""
