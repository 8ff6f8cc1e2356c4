"""Inference programs, one a file; each names a pair of the catalogue and ends with its ``make``."""
