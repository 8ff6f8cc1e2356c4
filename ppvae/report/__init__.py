"""Reports: one self-contained page that says what was done and whether to believe it."""
