"""Sequences, statistics and attributes as of the time of each row."""
