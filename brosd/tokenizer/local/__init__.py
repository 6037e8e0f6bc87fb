"""The server of local clients, over ZeroMQ."""
