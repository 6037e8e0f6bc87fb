"""Kernels of products and elementwise steps on CPUs."""
