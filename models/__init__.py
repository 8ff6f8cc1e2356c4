"""Generative stories, one a file."""
