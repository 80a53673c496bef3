"""Simulated logs of 19 domains."""
