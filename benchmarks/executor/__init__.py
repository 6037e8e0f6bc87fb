"""Benchmark of the executor on CPU, without a server."""
