"""Run story and guide, and read the terms of a bound off their traces."""
