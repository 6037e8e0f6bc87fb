"""Attention over the paged KV pool: one interface, and implementations that agree."""
