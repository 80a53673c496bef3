"""Simulated logs of a display advertising system with 19 domains."""
