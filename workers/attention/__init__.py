"""Attention over the paged KV pool: one interface, implementations that agree with each other."""
