"""`bros model`: the models on this machine."""
