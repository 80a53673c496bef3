"""Typed settings: one module per section of the YAML file."""
