"""Clients of a running daemon, on which `bros` is built."""
