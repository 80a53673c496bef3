"""Embedding tables, their Adam updates, and their sharding over processes."""
