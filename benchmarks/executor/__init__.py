"""Benchmark of the executor on CPU, without a server."""

MIXES = ((32, 128, 64), (64, 256, 64))  # requests, input and output tokens
