"""Clients of a running daemon; what `bros` is built on."""
