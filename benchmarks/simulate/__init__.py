"""The scheduler on a virtual clock, with large models on large GPUs."""
