"""Fit a pair: the loop, its rows, its checkpoint, and what went wrong where."""
