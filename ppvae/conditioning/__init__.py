"""Condition a pair on data: evidence, draws, completed rows, Markov chains, refinement, export."""
