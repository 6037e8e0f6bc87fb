"""`bros top`: what the daemon does, live."""
