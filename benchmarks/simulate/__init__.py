"""The scheduler on a virtual clock, beside large models on large GPUs."""
