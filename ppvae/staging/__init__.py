"""Pyro runs once: what a function of tensors does is staged as a flat graph of tensor operations."""
